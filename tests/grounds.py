"""Where the tests stand: the folders they use, and a look at the processes of this machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
OBEDIENT = REPO / "tests/contributions/obedient"
IMAGE = "modelhub-hpc/onnxruntime:1"
CACHE = Path(os.environ.get("MH_TEST_CACHE", REPO / "build/cache"))

Write = Callable[..., Path]


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it. sid: its session; files: what it has open."""

    pid: int
    parent: int
    sid: int
    command: str
    folder: Path

    def mentions(self, marks: Iterable[str]) -> bool:
        text = self.command + self._environment() + self._files()
        return any(mark in text for mark in marks)

    def _environment(self) -> str:
        return _quietly(lambda: (self.folder / "environ").read_bytes().decode(errors="replace"))

    def _files(self) -> str:
        return _quietly(lambda: "\n".join(os.readlink(link) for link in (self.folder / "fd").iterdir()))


def processes() -> Iterator[Process]:
    """All live processes but this one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            found = _process(entry)
            if found is not None:
                yield found


def _process(folder: Path) -> Process | None:
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        command = shlex.join((folder / "cmdline").read_bytes().decode(errors="replace").split("\0"))
    except OSError:
        return None  # it ended meanwhile
    if fields[0] in (b"Z", b"X"):
        return None
    return Process(int(folder.name), int(fields[1]), int(fields[3]), command, folder)


def below(root: int) -> list[Process]:
    """The live descendants of a process."""
    everything = list(processes())
    family, found = {root}, []
    while more := [each for each in everything if each.parent in family and each.pid not in family]:
        found += more
        family |= {each.pid for each in more}
    return found


def _quietly(look: Callable[[], str]) -> str:
    try:
        return look()
    except OSError:
        return ""  # it ended meanwhile, or is another user's
