"""Tell one process from another that later got its number."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none or it is only a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(b")")[2].split()  # the name in parentheses may hold anything
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def pid_namespace() -> str:
    """What process numbers mean here, e.g. "pid:[4026531836]"."""
    return os.readlink(_PROC / "self/ns/pid")
