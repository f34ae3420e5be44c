"""Tell one process from another that later got its number, and the folders of one from those of the dead."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
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


def private_folder(base: Path, kind: str) -> Path:
    """A new folder below `base` for this process alone, of which `ended_folders` knows whose it is.

    Raises OSError.
    """
    pid = os.getpid()
    return Path(tempfile.mkdtemp(prefix=f"{_prefix(kind)}{pid}-{start_ticks(pid)}-", dir=base))


def ended_folders(base: Path, kind: str) -> Iterator[Path]:
    """The private folders that processes of this user on this host left behind when they died."""
    prefix = _prefix(kind)
    for folder in base.glob(f"{prefix}*-*-*"):
        pid, ticks, _ = folder.name.removeprefix(prefix).split("-", 2)
        if folder.lstat().st_uid == os.getuid() and str(start_ticks(int(pid))) != ticks:
            yield folder


def remove_tree(folder: Path) -> None:
    """Remove a folder of this user with all that is in it, folders included that nobody may enter."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return
    _open_up(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _open_up(top: Path) -> None:
    waiting = [os.fspath(top)]
    while waiting:
        folder = waiting.pop()
        try:
            os.chmod(folder, 0o700)
            with os.scandir(folder) as entries:
                waiting += [each.path for each in entries if each.is_dir(follow_symlinks=False)]
        except OSError:
            pass  # another user's, or gone meanwhile: what can be removed is


def _prefix(kind: str) -> str:
    # host and namespace, since nodes may share the folder and process numbers only mean something within
    return f"{kind}-{os.getuid()}-{socket.gethostname()}-{pid_namespace().strip('pid:[]')}-"
