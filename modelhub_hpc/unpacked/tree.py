"""An unpacked image as its programs would see it: paths and links mean places in the image, never on this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_MOST_LINKS = 40  # as the kernel has it
_TEXT_LIMIT = 1 << 20


class Entry(NamedTuple):
    """Something in the image. path: in the image, from "/"; place: where it lies on this machine."""

    path: str
    place: str
    stat: os.stat_result

    @property
    def mode(self) -> int:
        return self.stat.st_mode


@dataclass(frozen=True)
class Tree:
    """The folder that holds an unpacked image. Nothing here follows a link out of it or opens a special file."""

    root: Path

    def walk(self) -> Iterator[Entry]:
        """The root folder, then everything below it, each folder before its contents. Raises OSError."""
        root = os.fspath(self.root)
        yield Entry("/", root, os.lstat(root))
        folders = [("/", root)]
        while folders:
            parent, place = folders.pop()
            with os.scandir(place) as found:
                for each in found:
                    entry = Entry(parent + each.name, each.path, each.stat(follow_symlinks=False))
                    yield entry
                    if stat.S_ISDIR(entry.mode):
                        folders.append((entry.path + "/", entry.place))

    def resolve(self, path: str, folder: str = "/") -> str:
        """Where a path of the image leads, links followed; it need not exist. "" if the links go in circles.

        folder: what a relative path starts from.
        """
        done, ahead, links = "/", _steps(os.path.join(folder, path)), 0
        while ahead:
            done = os.path.normpath(os.path.join(done, ahead.pop()))
            if (target := self.link(done)) is not None:
                links += 1
                if links > _MOST_LINKS:
                    return ""
                ahead += _steps(target)
                done = "/" if target.startswith("/") else os.path.dirname(done)
        return done

    def place(self, path: str) -> str:
        """Where a path of the image that `resolve` returned lies on this machine."""
        return os.fspath(self.root) + os.path.normpath("/" + path.lstrip("/"))

    def mode(self, path: str) -> int:
        """The mode of what the path leads to; 0 if that is nothing."""
        found = self.resolve(path)
        try:
            return os.lstat(self.place(found)).st_mode if found else 0
        except (OSError, ValueError):  # ValueError: no file can have that name
            return 0

    def link(self, path: str) -> str | None:
        """What a link of the image says; None if it is not one. No link but the last may be in the path."""
        try:
            return os.readlink(self.place(path))
        except (OSError, ValueError):  # not a link, not there, or no name that a file can have
            return None

    def is_folder(self, path: str) -> bool:
        return stat.S_ISDIR(self.mode(path))

    def is_file(self, path: str) -> bool:
        return stat.S_ISREG(self.mode(path))

    def names(self, folder: str) -> list[str]:
        """The sorted names in a folder of the image; none if it is not one."""
        return sorted(os.listdir(self.place(self.resolve(folder)))) if self.is_folder(folder) else []

    def read(self, path: str, limit: int = _TEXT_LIMIT) -> bytes:
        """The first bytes of a file of the image; none if it is not a regular file."""
        if not self.is_file(path):
            return b""
        with open(self.place(self.resolve(path)), "rb") as stream:
            return stream.read(limit)

    def text(self, path: str, limit: int = _TEXT_LIMIT) -> str:
        return self.read(path, limit).decode("utf-8", "surrogateescape")


def _steps(path: str) -> list[str]:
    """The names along a path, last first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
