"""What of a contribution goes into an image, and a copy of it that any user can read."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.errors import InvalidError, shown

_LEFT_OUT = re.compile(
    # caches, repositories, and what editors and file browsers leave; none of it is part of a model
    r"__pycache__|.*\.py[co]|\.(git|hg|svn|ipynb_checkpoints|idea|vscode|DS_Store|pytest_cache|mypy_cache)"
    r"|\..*\.sw[a-p]|.*~|\.?#.*|Thumbs\.db"
)
_EXAMPLES = 10
_BLOCK = 1 << 20
# one time for all files: the same contribution makes the same tree, and byte code stays valid
_TIME_S = 946_684_800


@dataclass(frozen=True)
class Item:
    """A file, folder or link to take along. path: relative; link: where it leads, "" for a file or folder."""

    path: str
    bytes: int = 0
    folder: bool = False
    executable: bool = False
    link: str = ""


def listing(top: Path) -> tuple[Item, ...]:
    """Everything below a folder that belongs into an image, each folder before its contents.

    Raises InvalidError naming what cannot be taken along: links that lead out, special files, closed files.
    """
    root = Path(os.path.realpath(top))
    items: list[Item] = []
    refused: list[str] = []
    for path in _walk(root, refused):
        try:
            items.append(_item(path, root))
        except _Refused as reason:
            refused.append(f"{shown(path.relative_to(root))}: {reason}")
    if refused:
        raise InvalidError(_complaint(root, refused))
    return tuple(items)


def copy(items: Sequence[Item], top: Path, target: Path) -> None:
    """Copy what `listing` found below `top` into the existing folder `target`. Raises OSError."""
    for item in items:
        place = target / item.path
        if item.folder:
            place.mkdir()
        elif item.link:
            place.symlink_to(item.link)
        else:
            _copy_file(Path(os.path.realpath(top)) / item.path, place, item.executable)


def open_to_all(top: Path) -> None:
    """Let everybody read all files below a folder and enter its folders, whatever the umask was."""
    for parent, folders, names in os.walk(top):
        os.chmod(parent, 0o755)
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)


class _Refused(Exception):
    """Why something cannot be taken along."""


def _walk(root: Path, refused: list[str]) -> Iterator[Path]:
    def closed(error: OSError) -> None:
        refused.append(f"{shown(os.path.relpath(error.filename, root))}: {error.strerror}")

    for parent, folders, names in os.walk(root, onerror=closed):
        folders[:] = sorted(name for name in folders if not _LEFT_OUT.fullmatch(name))
        yield from (Path(parent, name) for name in folders)
        yield from (Path(parent, name) for name in sorted(names) if not _LEFT_OUT.fullmatch(name))


def _item(path: Path, root: Path) -> Item:
    found = path.lstat()
    name = str(path.relative_to(root))
    if stat.S_ISDIR(found.st_mode):
        return Item(name, folder=True)
    if stat.S_ISLNK(found.st_mode):
        return Item(name, link=_inside(path, root))
    if not stat.S_ISREG(found.st_mode):
        raise _Refused("neither file, folder nor link")
    if not os.access(path, os.R_OK):
        raise _Refused("you may not read it")
    return Item(name, found.st_size, executable=bool(found.st_mode & stat.S_IXUSR))


def _inside(link: Path, root: Path) -> str:
    """Where a link leads, relative to its folder."""
    real = os.path.realpath(link)
    if not os.path.exists(link):
        raise _Refused(f"a link to {shown(os.readlink(link))}, which leads to nothing")
    if os.path.commonpath((real, root)) != str(root):
        raise _Refused(f"a link that leads out of the folder, to {shown(real)}")
    return os.path.relpath(real, link.parent)


def _complaint(root: Path, refused: list[str]) -> str:
    more = [f"... and {len(refused) - _EXAMPLES} more"] if len(refused) > _EXAMPLES else []
    lines = "\n".join(f"  {line}" for line in [*refused[:_EXAMPLES], *more])
    return (
        f"{shown(root)} holds what cannot become part of an image:\n{lines}\n"
        "Replace links by what they lead to, and remove the rest."
    )


def _copy_file(source: Path, target: Path, executable: bool) -> None:
    # a name that became a link or a pipe since it was listed must not be followed or waited for
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as read, open(target, "xb") as write:
        shutil.copyfileobj(read, write, _BLOCK)
    target.chmod(0o755 if executable else 0o644)
    os.utime(target, (_TIME_S, _TIME_S))
