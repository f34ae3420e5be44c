"""Where the tests stand: the folders they use, and a look at the processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
OBEDIENT = REPO / "tests/contributions/obedient"
IMAGE = "modelhub-hpc/onnxruntime:1"
CACHE = Path(os.environ.get("MH_TEST_CACHE", REPO / "build/cache"))

Write = Callable[..., Path]


def processes_mentioning(text: str) -> list[int]:
    """The processes whose command line, environment or open files mention a text, this one aside."""
    return [pid for pid in _pids() if pid != os.getpid() and text in _facts(pid)]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _facts(pid: int) -> str:
    facts = ""
    try:
        for name in ("cmdline", "environ"):
            facts += Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
        for link in Path(f"/proc/{pid}/fd").iterdir():
            facts += os.readlink(link) + "\n"
    except OSError:
        pass  # ended meanwhile, or another user's
    return facts
