"""The application behind waitress, on a socket of ours: what is received from whom, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser  # type: ignore[import-untyped]
from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.utilities import Error  # type: ignore[import-untyped]
from werkzeug.wsgi import ClosingIterator

from modelhub_hpc.errors import TryAgainError, UsageError, shown
from modelhub_hpc.service import guard
from modelhub_hpc.service.app import create_app
from modelhub_hpc.service.served import Service
from modelhub_hpc.service.settings import ServiceSettings

SPARE_THREADS = 8  # for pages, while every prediction that may wait does
CONNECTIONS = 200
STALL_S = 30  # a client that sends or takes nothing for so long is dropped
SLOWEST = 64 * 2**10  # bytes a second, of an upload
DRAIN_S = 30.0
_TICK_S = 0.5


def listen(bind: str, port: int) -> socket.socket:
    """A socket on an address, or on a file for unix:PATH. Raises UsageError, and TryAgainError where it is taken."""
    if bind.startswith("unix:"):
        return _listen_on_file(Path(bind.removeprefix("unix:")))
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind, protocol)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _closed_on_error(server):
            server.bind(address)
    except OSError as error:
        message = f"Nobody can listen on {shown(bind)}, port {port}: {error.strerror}."
        if error.errno == errno.EADDRINUSE:
            raise TryAgainError(f"{message} Choose another with --port (0: any that is free).") from error
        raise UsageError(f"{message} Choose another with --bind and --port.") from error
    return server


def _listen_on_file(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _closed_on_error(server):
        try:
            if path.is_socket() and not _answers(path):
                path.unlink()  # of a server that was killed
            before = os.umask(0o177)
            try:
                server.bind(str(path))
            finally:
                os.umask(before)
        except OSError as error:
            message = f"Nobody can listen on {shown(path)}: {error.strerror or error}."
            if error.errno == errno.EADDRINUSE:
                raise TryAgainError(f"{message} Another server has it.") from error
            raise UsageError(f"{message} Name a file in a folder of yours.") from error
    return server


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


@contextlib.contextmanager
def _closed_on_error(server: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        server.close()
        raise


class Server:
    """Serves until it is stopped; requests that are being answered then are answered first."""

    def __init__(self, service: Service, listening: socket.socket) -> None:
        settings = service.settings
        self._service = service
        self._file = _socket_file(listening)
        self._map: dict[int, Any] = {}
        self._stop_by: float | None = None
        self._under_way = 0
        self._lock = threading.Lock()
        self._app = create_app(service)
        predictions = settings.max_waiting + settings.sessions * len(service.models)
        self._server = create_server(
            self._counted,
            map=self._map,
            sockets=[listening],
            threads=predictions + settings.streams + SPARE_THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=STALL_S,
            cleanup_interval=5,
            max_request_body_size=settings.max_upload_bytes + 1,
            max_request_header_size=32768,
            ident=None,
            expose_tracebacks=False,
            clear_untrusted_proxy_headers=True,
            asyncore_use_poll=True,
        )
        self._server.channel_class = _channel(settings)

    def serve(self) -> None:
        """Until stop(); then it takes DRAIN_S at most."""
        try:
            while not self._is_over():
                wasyncore.loop(timeout=_TICK_S, use_poll=True, map=self._map, count=1)
                self._end_slow()
        finally:
            self._server.task_dispatcher.shutdown(timeout=1)
            self._server.close()
            for channel in list(self._server.active_channels.values()):
                channel.handle_close()
            if self._file is not None:
                self._file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Have it end, from any thread."""
        self._stop_by = time.monotonic() + DRAIN_S
        self._service.stopping.set()
        self._service.jobs.closing.set()  # or streams of events would go on
        self._server.pull_trigger()

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop it; the second of them ends it at once. For the main thread."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            if self._stop_by is not None:
                raise KeyboardInterrupt
            self.stop()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _is_over(self) -> bool:
        if self._stop_by is None:
            return False
        self._server.accepting = False
        sending = any(channel.total_outbufs_len for channel in list(self._server.active_channels.values()))
        return time.monotonic() > self._stop_by or not (self._under_way or sending)

    def _end_slow(self) -> None:
        """Answer (408) those who take for ever to say what they want; waitress only drops who says nothing at all."""
        for channel in list(self._server.active_channels.values()):
            request = channel.request
            if request is not None and not channel.requests and time.monotonic() > request.due():
                with channel.requests_lock:
                    request.error = _TooSlow("")
                    channel.requests.append(request)
                    channel.request = None
                self._server.add_task(channel)

    def _counted(self, environ: dict[str, Any], start_response: Any) -> Any:
        """The application, which is under way until the last of its answer is taken."""
        self._count(1)
        return ClosingIterator(self._app(environ, start_response), lambda: self._count(-1))

    def _count(self, more: int) -> None:
        with self._lock:
            self._under_way += more


def _socket_file(listening: socket.socket) -> Path | None:
    if listening.family != socket.AF_UNIX:
        return None
    path = Path(listening.getsockname())
    assert stat.S_ISSOCK(path.stat().st_mode)
    return path


class _TooSlow(Error):  # type: ignore[misc]
    code = 408
    reason = "Request Timeout"


def _channel(settings: ServiceSettings) -> type[HTTPChannel]:
    class Parser(HTTPRequestParser):  # type: ignore[misc]
        """Receives no body that would be refused: nobody without the token fills the disk of a login node."""

        chunked: bool
        content_length: int

        def __init__(self, adj: Any) -> None:
            super().__init__(adj)
            self._began = time.monotonic()
            self._refused = False

        def due(self) -> float:
            """When all of it has to be here."""
            return self._began + settings.receive_s + float(self.content_length) / SLOWEST

        def parse_header(self, header_plus: bytes) -> None:
            super().parse_header(header_plus)
            if not (self.chunked or self.content_length):
                return
            head = (*self.headers.values(), self.first_line.decode("latin-1"))
            if not guard.may_come_in(head, settings) or self.content_length > settings.max_upload_bytes:
                self.expect_continue = False
                self.headers["CONNECTION"] = "close"
                self._refused = True
                self.body_rcv, self.chunked, self.content_length = None, False, 0

        def received(self, data: bytes) -> int:
            """What follows what was refused is not the next request, but a body."""
            consumed: int = super().received(data)
            return len(data) if self._refused or self.error is not None else consumed

    class Channel(HTTPChannel):  # type: ignore[misc]
        parser_class = Parser

    return Channel
