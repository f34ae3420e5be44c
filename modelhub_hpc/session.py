"""One live model process: started once, then fed case after case over a pipe, and never left behind.

host ══ JSON lines, paths only ══ container        (ARCHITECTURE.md has the table of messages)

A session is used by one thread. It either answers a request, or raises a SessionError that says which case was
being computed and carries the evidence; after an error the session is over and a new one is started.
"""

from __future__ import annotations

import collections
import itertools
import logging
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from modelhub_hpc import apptainer, config, launch, wire
from modelhub_hpc.aliases import Aliases
from modelhub_hpc.errors import EXIT_INVALID, EXIT_UNFIT, MachineError, ModelHubError
from modelhub_hpc.kept import Kept
from modelhub_hpc.launch import SessionSpec
from modelhub_hpc.wire import PROTOCOL, Ready, Reply, Request
from modelhub_hpc.workplace import log_name

log = logging.getLogger(__name__)

MAX_LINE = 256 * 2**20
TAIL = 16 * 2**10
_PIPE = 2**16  # bytes that a pipe holds; room for more would have to be made, and given back, for every answer
AHEAD = 4  # requests sent before the first is answered: the model never waits, and inputs are opened before their turn
CLOSE_S = 10.0

_HINTS = {
    0: "the model ended its process without an answer (os._exit or sys.exit?)",
    126: "the interpreter of the image is not executable",
    127: "the interpreter was not found in the image",
    128 + signal.SIGKILL: "killed by SIGKILL (often: out of memory; ask for more with --mem)",
    128 + signal.SIGSEGV: "killed by SIGSEGV (a crash in native code)",
    128 + signal.SIGABRT: "killed by SIGABRT (native code gave up)",
    128 + signal.SIGBUS: "killed by SIGBUS (often: the image file was replaced, or its storage went away)",
    128 + signal.SIGTERM: "ended by SIGTERM",
    255: "Apptainer could not start the container, or the model ended with -1",
}


@dataclass(frozen=True)
class Evidence:
    """What is known about a session that ended badly."""

    command: str
    code: int | None
    host: str
    log: str | None
    tail: str
    peak_mb: int

    def text(self) -> str:
        lines = [f"exit code {self.code} on host {self.host}", f"command: {self.command}"]
        lines += [f"log: {self.log}"] if self.log else []
        return "\n".join([*lines, "last lines of stderr:", self.tail.strip() or "(none)"])


class _Sent(NamedTuple):
    """A request that was sent: where its arrays will lie, and with how many it is computed together."""

    request: Request
    folder: Path
    batch: int


class SessionError(ModelHubError):
    """The session is over. kind: crash, timeout, memory, output, or storage (the image's files went away).

    batch: how many cases were being computed together.
    """

    exit_code = EXIT_INVALID
    batch = 1

    def __init__(self, kind: str, message: str, evidence: Evidence) -> None:
        super().__init__(message)
        self.kind = kind
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, str(self), self.evidence)


class StartError(ModelHubError):
    """The model did not become ready: no case is to blame, and no other worker will do better."""

    def __init__(self, message: str, evidence: Evidence, sudden: bool = False) -> None:
        super().__init__(message)
        self.evidence = evidence
        self.sudden = sudden  # without a word of the engine: killed from outside, perhaps, and worth another try
        broken_host = evidence.code in (126, 127, 255)
        self.exit_code = EXIT_UNFIT if broken_host else EXIT_INVALID

    @property
    def node(self) -> str:
        return self.evidence.host

    @property
    def is_of_the_machine(self) -> bool:
        """Whether the container did not start, rather than the model in it."""
        return self.exit_code == EXIT_UNFIT

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.evidence, self.sudden)


class Session:
    """A context manager around one model process.

    >>> with Session(spec) as session:                                          # doctest: +SKIP
    ...     for reply in session.predict([Request("a", (("single", "/data/a.png"),))]):
    ...         print(reply.outputs)
    """

    _numbers = itertools.count()

    def __init__(self, spec: SessionSpec) -> None:
        self.spec = spec
        self.ready: Ready | None = None
        self.peak_mb = 0
        self._buffer = bytearray()
        self._answers = wire.Answers()
        self._requests = itertools.count()
        self._kept: Kept | None = None

    def __enter__(self) -> Session:
        self.scratch = launch.make_scratch(self.spec.scratch, self.spec.writable)
        try:
            self._start()
        except BaseException:
            self.kill()
            shutil.rmtree(self.scratch, ignore_errors=True)  # of a process that was never started
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- life ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start the process and wait until the model is loaded; StartError with the reason otherwise."""
        self.aliases = Aliases(self.scratch / "input", self._inside("input"))
        self.command = launch.command(self.spec, self.scratch)
        self.log_path = self._log_path()
        self._kept = Kept(
            self.command,
            self.scratch,
            launch.environment(self.spec, self.scratch),
            self.spec.mem_mb,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.spec.contrib_src if self.spec.runtime == "host" else "/",
            start_new_session=True,
            bufsize=0,
        )
        assert self._kept.process.stdin is not None
        os.set_blocking(self._kept.process.stdin.fileno(), False)
        self._watch_stderr(self._kept.process)
        self.ready = self._await_ready()

    def close(self) -> None:
        """End the model politely (end of input), then by force; nothing of it is left afterwards."""
        if self._kept is None:
            return
        self.hang_up()
        deadline = time.monotonic() + CLOSE_S
        while ready := _wait_readable(deadline - time.monotonic(), self._kept.process.stdout):
            if not os.read(ready[0], 2**16):
                break
        self.kill()

    def kill(self) -> None:
        """End everything now."""
        if self._kept is not None:
            self._finish()

    def hang_up(self) -> None:
        """Let the model end, without waiting for it: no more requests will come."""
        if self._kept is None:
            return
        assert self._kept.process.stdin is not None
        try:
            self._kept.process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already, which is what is wanted

    def _finish(self) -> dict[str, Any]:
        """Have the keeper kill what is left, collect its report, free everything; the report ({} if it died)."""
        kept, self._kept = self._kept, None
        assert kept is not None and kept.process.stdout is not None
        if kept.process.stdin is not None and not kept.process.stdin.closed:
            kept.process.stdin.close()
        report = kept.end()
        kept.process.stdout.close()
        self._stderr.join(CLOSE_S)
        self.peak_mb = int(report.get("peak_mb", 0))
        return report

    def _log_path(self) -> Path | None:
        if self.spec.logs is None:
            return None
        return self.spec.logs / log_name(next(self._numbers), os.getpid())

    def _watch_stderr(self, process: subprocess.Popen[bytes]) -> None:
        self._tail = bytearray()
        arguments = (process.stderr, self.log_path, self._tail, self.spec.max_log_mb * 2**20)
        self._stderr = threading.Thread(target=_drain, args=arguments, daemon=True)
        self._stderr.start()

    def _await_ready(self) -> Ready:
        try:
            message = self._message(self.spec.start_timeout_s)
        except SessionError as error:
            seconds = f"within {self.spec.start_timeout_s:.0f} s" if error.kind == "timeout" else "at all"
            text = f"The model did not start {seconds}: {error}"
            sudden = error.kind in ("crash", "storage")
            mend = apptainer.mend(error.evidence.tail)
            raise StartError(f"{text}\n{error.evidence.text()}\n{mend}", error.evidence, sudden) from None
        if message["type"] == "fatal":
            trace = str(message.get("traceback", "")).strip()
            evidence = self._evidence(self._finish())
            went_away = "[Errno 107]" in trace  # the image, under the model's imports
            raise StartError(f"The model did not start: {message.get('error')}\n{trace}", evidence, went_away)
        if message["type"] != "ready" or message.get("protocol") != PROTOCOL:
            raise self._over("output", f"the engine does not speak protocol {PROTOCOL}: {str(message)[:200]}")
        return wire.ready(message)

    # -- work ---------------------------------------------------------------------------------------------------

    def predict(
        self, requests: Iterable[Request], sizes: Iterable[int] = itertools.repeat(1)
    ) -> Iterator[Reply]:
        """Answer the requests in order, keeping the model busy; arrays of a reply last until the next one.

        sizes: how many requests are to be computed together, asked before each such batch is put together.
        Raises SessionError when the model dies, hangs or breaks the protocol: the case to blame is the first
        one not answered, or another one of its batch.
        """
        flying: collections.deque[_Sent] = collections.deque()
        try:
            for batch in _batches(requests, sizes):
                # one batch is computed while the next one lies ready
                while flying and len(flying) + len(batch) > max(AHEAD, 2 * len(batch)):
                    yield from self._answer(flying[0])
                    flying.popleft()
                flying.extend(self._send(batch))
            while flying:
                yield from self._answer(flying[0])
                flying.popleft()
        except SessionError as error:
            error.batch = flying[0].batch if flying else 1
            raise

    def _send(self, batch: Sequence[Request]) -> list[_Sent]:
        # the engine makes the folder if there are arrays: most cases have none
        folders = [f"output/{next(self._requests)}" for _ in batch]
        inside = [(request, self._inside(folder)) for request, folder in zip(batch, folders)]
        self._write(wire.predict_line(inside), len(batch) * self.spec.case_timeout_s)
        return [_Sent(request, self.scratch / folder, len(batch)) for request, folder in zip(batch, folders)]

    def _write(self, data: bytes, within_s: float) -> None:
        """Write a message, taking in answers where the pipe is full: both sides might wait for the other to read."""
        assert self._kept is not None and self._kept.process.stdin is not None
        stdin, rest, deadline = self._kept.process.stdin.fileno(), data, time.monotonic() + within_s
        while rest:
            try:
                rest = rest[os.write(stdin, rest) :]
            except BlockingIOError:
                if not self._take_in(deadline, self._kept.process.stdin):
                    return
            except BrokenPipeError:
                return  # the death is met, with its reason, where the answer is read

    def _take_in(self, deadline: float, stdin: IO[bytes]) -> bool:
        """Wait until something can be written to the model, or read of it, which is kept; False if it is dead."""
        assert self._kept is not None and self._kept.process.stdout is not None
        poll = select.poll()
        poll.register(stdin, select.POLLOUT)
        poll.register(self._kept.process.stdout, select.POLLIN)
        ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if not ready:
            raise self._over("timeout", "no answer, and no request taken, in the time that its cases may take")
        if self._kept.process.stdout.fileno() not in ready:
            return True
        data = os.read(self._kept.process.stdout.fileno(), _PIPE)
        self._buffer += data
        return bool(data)

    def _inside(self, name: str) -> str:
        """Where the model sees a folder of the session's scratch."""
        return f"/{name}" if self.spec.image else str(self.scratch / name)

    def _answer(self, sent: _Sent) -> Iterator[Reply]:
        message = self._message(sent.batch * self.spec.case_timeout_s)
        if message["type"] not in ("done", "failed") or message.get("id") != sent.request.id:
            raise self._over("output", f"expected the answer to {sent.request.id!r}, got {str(message)[:200]}")
        try:
            reply = self._answers.reply(message, sent.folder, sent.batch)
        except (KeyError, TypeError, ValueError) as error:
            raise self._over("output", f"unusable answer: {error!r}") from error
        if reply.error and "[Errno 28]" in reply.error:
            raise MachineError(f"The scratch folder is full: {self.spec.scratch} ({reply.error}).", config.node())
        if reply.error and "[Errno 107]" in reply.error:
            raise self._over("storage", f"the image went away under the model: {reply.error}")
        yield reply
        if reply.error or any(output.array for output in reply.outputs):
            shutil.rmtree(sent.folder, ignore_errors=True)
        self.aliases.forget(sent.request.inputs)

    def _message(self, timeout_s: float) -> dict[str, Any]:
        line = self._line(timeout_s)
        try:
            return wire.message(line)
        except ValueError as error:
            raise self._over("output", f"not a message ({error}): {line[:200]!r}") from None

    def _line(self, timeout_s: float) -> bytes:
        assert self._kept is not None and self._kept.process.stdout is not None
        deadline, searched = time.monotonic() + timeout_s, 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                raise self._over("output", f"an answer of more than {MAX_LINE // 2**20} MiB of JSON")
            ready = _wait_readable(deadline - time.monotonic(), self._kept.process.stdout, self._kept.link)
            if not ready:
                raise self._over("timeout", f"no answer within {timeout_s:g} s")
            # the link speaks last, once all is over, or ends without a word when the keeper was killed
            data = os.read(ready[0], _PIPE) if ready[0] != self._kept.link.fileno() else b""
            if not data:
                raise self._over("crash", "the model process ended")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _over(self, kind: str, message: str) -> SessionError:
        """End the session and make the error that says why."""
        report = self._finish()
        evidence = self._evidence(report)
        if report.get("killed_by") == "memory":
            limit = self.spec.mem_mb
            kind, message = "memory", f"the model used more than the {limit} MiB it was given (--mem)"
        elif kind == "crash" and (evidence.code == 128 + signal.SIGBUS or "[Errno 107]" in evidence.tail):
            kind = "storage"
        if kind in ("crash", "storage"):
            message = f"{message}: {_HINTS.get(evidence.code or 0, f'exit code {evidence.code}')}"
        return SessionError(kind, message, evidence)

    def _evidence(self, report: Mapping[str, Any]) -> Evidence:
        code = report.get("code", 128 + signal.SIGKILL)
        tail = self._tail.decode(errors="replace")
        name = str(self.log_path) if self.log_path else None
        return Evidence(shlex.join(self.command), code, config.node(), name, tail, self.peak_mb)


def _batches(requests: Iterable[Request], sizes: Iterable[int]) -> Iterator[list[Request]]:
    stream = iter(requests)
    for size in sizes:
        batch = list(itertools.islice(stream, size))
        if not batch:
            return
        yield batch


def _drain(stream: IO[bytes], path: Path | None, tail: bytearray, limit: int) -> None:
    """Keep the model's stderr from filling its pipe: to the log up to `limit` bytes, the last of it to `tail`."""
    written = dropped = 0
    with stream, open(path or os.devnull, "wb", buffering=0) as log_file:
        while data := stream.read(2**16):
            tail += data
            del tail[:-TAIL]
            if written + len(data) <= limit:
                written += log_file.write(data)
            else:
                dropped += len(data)
        if dropped:
            log_file.write(b"\n[%d more bytes were dropped]\n" % dropped)


def _wait_readable(timeout_s: float, *streams: IO[bytes] | socket.socket | None) -> list[int]:
    """The file descriptors that can be read without waiting, in the order given; [] after the timeout."""
    numbers = [stream.fileno() for stream in streams if stream is not None]
    poll = select.poll()
    for number in numbers:
        poll.register(number, select.POLLIN)
    ready = {number for number, _ in poll.poll(max(0.0, timeout_s) * 1000)}
    return [number for number in numbers if number in ready]
