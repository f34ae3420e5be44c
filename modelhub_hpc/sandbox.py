"""Work with a model by hand, in its image: a shell, or Jupyter, on a private copy of the contribution.

What runs there is contained like a session of a run, with one difference: /contrib_src may be changed, since it is a
copy. Without a network of its own a container cannot be reached by a browser: Jupyter's connections go from a port of
this machine through a socket file in the container's private folder (engine/modelhubapi/relay.py has the other end).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import apptainer, images, launch, models
from modelhub_hpc.apptainer import Bind
from modelhub_hpc.config import SiteConfig, gpus
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.deployment import staging
from modelhub_hpc.errors import EXIT_UNFIT, InvalidError, TryAgainError, UsageError, shown
from modelhub_hpc.images import Image
from modelhub_hpc.kept import Kept
from modelhub_hpc.launch import SessionSpec
from modelhub_hpc.runfolder import storage

log = logging.getLogger(__name__)

PORT = 8888  # the first that is tried where none is named
_LARGE = 16 * 2**20  # bytes; a larger file is shown read-only instead of copied, unless the copy is kept
_SOCKET = "jupyter.sock"
_RUNTIME = ".jupyter/runtime_dir"
_POLL_S = 0.1


@dataclass(frozen=True)
class Place:
    """Where somebody works: a model, its image, and the folders to see.

    asked: the model as the user named it; keep: where the copy stays, if it does.
    """

    asked: str
    model: Contribution
    image: Image
    site: SiteConfig
    data: Path | None
    keep: Path | None


def place(model: str, image: str | None, site: SiteConfig, data: Path | None, keep: Path | None) -> Place:
    """Find everything that is needed before anything starts. Raises InvalidError, UsageError."""
    entry = models.find(model, site)
    found = images.find(image or entry.image, site)
    images.admit(found, site)
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {shown(data)}: there is no such folder.")
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UsageError(f"--keep {shown(keep)} exists already. Choose a new folder, or remove it.")
    if entry.needs.network and not site.allow_network:
        log.warning("There will be no network (--allow-network), which %s needs: %s", entry.name, entry.needs.network)
    return Place(model, entry, found, site, data, keep)


def shell(place: Place, command: Sequence[str], terminal: str) -> int:
    """Run a command, or an interactive shell, on this process's terminal or streams; its exit code.

    terminal: its kind (TERM).
    """
    with _prepared(place) as (spec, scratch, shows):
        argv = [spec.interpreter, "/framework/start.py", "shell", *command]
        # Ctrl-C is for what runs there: both get it from the terminal, and this process only waits
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            kept = _start(spec, scratch, argv, shows, terminal)
            kept.ended()
            return int(kept.end().get("code", 128 + signal.SIGKILL))
        finally:
            signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def jupyter(place: Place, port: int | None) -> Iterator[Jupyter]:
    """A Jupyter server in the model's image.

    port: of this machine; None for PORT, or any that is free. Raises InvalidError where the image has no Jupyter.
    """
    with _listener(port) as listener, _prepared(place) as (spec, scratch, shows):
        argv = [spec.interpreter, "/framework/start.py", "sandbox", "--socket", f"/home/model/{_SOCKET}"]
        log_file = scratch / "log"
        with open(log_file, "wb") as stream, open(os.devnull, "rb") as nothing:
            streams = {"stdin": nothing, "stdout": stream, "stderr": stream}
            kept = _start(spec, scratch, argv, shows, "dumb", start_new_session=True, **streams)
        try:
            token = _await_token(kept, scratch / "home" / _RUNTIME, log_file, place)
            yield Jupyter(listener, token, scratch / "home", kept)
        finally:
            kept.end()


@dataclass(frozen=True)
class Jupyter:
    """A server that listens in its container. folder: where its socket file is."""

    listener: socket.socket
    token: str
    folder: Path
    kept: Kept

    @property
    def port(self) -> int:
        """Of this machine."""
        number: int = self.listener.getsockname()[1]
        return number

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def serve(self) -> None:
        """Pass connections on until the server has ended."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.kept.link, ended.set)
        server = await asyncio.start_server(self._welcome, sock=self.listener)
        try:
            await ended.wait()
        finally:
            server.close()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # connections that are left at the end are cancelled, of which asyncio would make a traceback
        with contextlib.suppress(asyncio.CancelledError):
            await self._join(reader, writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        folder = os.open(self.folder, os.O_PATH)
        try:
            # the path of a socket may have 107 characters, and folders of users have more
            there = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{_SOCKET}")
        except OSError:
            writer.close()
            return
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):
            await asyncio.gather(_pour(reader, there[1]), _pour(there[0], writer))
        for each in (writer, there[1]):
            each.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()
        raise


@contextlib.contextmanager
def _prepared(place: Place) -> Iterator[tuple[SessionSpec, Path, list[Bind]]]:
    """How it is started, its private folder, and what is shown beside what a session sees."""
    site = place.site
    spec = SessionSpec.of(site, place.model, place.image.path, place.image.interpreter, gpus=gpus(site))
    scratch = launch.make_scratch(spec.scratch, spec.writable)
    try:
        copy = place.keep or scratch / "contrib_src"
        shows = _copy(place, copy)
        if place.data is not None:
            shows.append(Bind(place.data, "/data"))
        yield dataclasses.replace(spec, contrib_src=copy, own_copy=True), scratch, shows
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(place: Place, target: Path) -> list[Bind]:
    """Copy the contribution; what is shown in place of what was not copied."""
    items, source = staging.listing(place.model.contrib_src), place.model.contrib_src
    large = [] if place.keep else [i for i in items if i.bytes > _LARGE and not i.link]
    small = [item for item in items if item not in large]
    with storage(target.parent, sum(item.bytes for item in small)):
        target.mkdir(parents=True, exist_ok=True)
        staging.copy(small, source, target)
        for item in large:
            (target / item.path).touch()
    return [Bind(source / item.path, f"/contrib_src/{item.path}") for item in large]


def _start(
    spec: SessionSpec, scratch: Path, argv: Sequence[str], shows: Sequence[Bind], terminal: str, **how: object
) -> Kept:
    command = launch.contained(spec, scratch, argv, shows)
    env = {**launch.environment(spec, scratch), "TERM": terminal}
    return Kept(command, scratch, env, spec.mem_mb, cwd="/", **how)


@contextlib.contextmanager
def _listener(port: int | None) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        for each in (PORT, 0) if port is None else (port,):
            try:
                listener.bind(("127.0.0.1", each))
                break
            except (OSError, OverflowError) as error:
                if port is not None:
                    raise UsageError(f"--port {port} cannot be used: {error}. Choose another.") from error
        listener.listen()
        yield listener


def _await_token(kept: Kept, runtime: Path, log_file: Path, place: Place) -> str:
    """The token of the server, once it listens: Jupyter writes a file then."""
    deadline = time.monotonic() + place.site.start_timeout_s
    while time.monotonic() < deadline:
        for path in runtime.glob("*server-*.json"):
            with contextlib.suppress(ValueError):  # half-written yet
                token = str(json.loads(path.read_bytes()).get("token"))
                if re.fullmatch("[A-Za-z0-9_-]{16,}", token):
                    return token
        if kept.ended(_POLL_S):
            raise _no_server(kept, log_file, place)
    raise TryAgainError(
        f"Jupyter does not answer within {place.site.start_timeout_s:.0f} s (--start-timeout).\n{_tail(log_file)}"
    )


def _no_server(kept: Kept, log_file: Path, place: Place) -> InvalidError:
    words = _tail(log_file)
    code = kept.end().get("code")
    if code == EXIT_UNFIT:
        return InvalidError(
            f"The image {shown(place.image.name)} has no Jupyter, which the sandbox needs.\n"
            f"Work in a shell:  mh-hpc shell {shlex.quote(shown(place.asked))}\n"
            "or name an image that has Jupyter and what this model needs:  --image NAME|FILE"
        )
    return InvalidError(f"Jupyter did not start (exit code {code}).\n{words}\n{apptainer.mend(words)}")


def _tail(log_file: Path) -> str:
    return log_file.read_bytes()[-4000:].decode(errors="replace").strip()
