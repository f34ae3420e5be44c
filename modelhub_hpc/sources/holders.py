"""The files of an image in a folder or in an archive, read by name and in place."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from modelhub_hpc.errors import InvalidError, shown

HEAD = 4  # bytes that tell how a file is compressed
_SMALL = 2**20
_MOST_KEPT = 64 * 2**20
_MOST_LINKS = 8
_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class Holder(Protocol):
    """A set of files. What takes a name raises KeyError if there is no regular file of that name."""

    def open(self, name: str) -> IO[bytes]: ...

    def size(self, name: str) -> int: ...

    def head(self, name: str) -> bytes:
        """The first HEAD bytes."""

    def order(self, name: str) -> int:
        """Files are read fastest in this order."""

    def names(self) -> set[str]:
        """The names at the top, at least."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Holder]:
    """A folder, or an archive with whatever compression Python knows. Raises InvalidError if it is damaged."""
    try:
        if path.is_dir():
            yield _Folder(path)
        else:
            with tarfile.open(path) as tar:
                yield _Tar(tar)
    except _BROKEN as error:
        raise InvalidError(f"{shown(path)} is no whole archive: {shown(error)}.") from error
    except KeyError as error:
        raise InvalidError(
            f"{shown(path)} lacks a file that belongs to it: {shown(error.args[0])}"
        ) from error


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        self._starts: dict[str, bytes] = {}
        # to go back in a compressed archive is to begin anew, so what may be a manifest is kept on the way
        keep = 0 if isinstance(tar.fileobj, io.BufferedReader) else _MOST_KEPT
        for info in tar:
            name = info.name.removeprefix("./")
            self._members[name] = info
            if info.isreg():
                whole = info.size <= min(_SMALL, keep)
                self._starts[name] = self._stream(info).read(info.size if whole else HEAD)
                keep -= info.size if whole else 0

    def open(self, name: str) -> IO[bytes]:
        start, info = self._starts[self._target(name)], self._members[self._target(name)]
        return io.BytesIO(start) if len(start) == info.size else self._stream(info)

    def size(self, name: str) -> int:
        return self._members[self._target(name)].size

    def head(self, name: str) -> bytes:
        return self._starts[self._target(name)][:HEAD]

    def order(self, name: str) -> int:
        return self._members[self._target(name)].offset

    def names(self) -> set[str]:
        return set(self._members)

    def _stream(self, info: tarfile.TarInfo) -> IO[bytes]:
        stream = self._tar.extractfile(info)
        assert stream is not None
        return stream

    def _target(self, name: str) -> str:
        """Where a name leads: old versions of Docker wrote a layer that comes twice as a link to the first."""
        target = name
        for _ in range(_MOST_LINKS):
            info = self._members[target]
            if info.isreg():
                return target
            folder = posixpath.dirname(target) if info.issym() else ""
            target = posixpath.normpath(posixpath.join(folder, info.linkname))
        raise KeyError(name)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> IO[bytes]:
        path = self._path / name
        if not path.is_file():  # a pipe would be waited for
            raise KeyError(name)
        return open(path, "rb")

    def size(self, name: str) -> int:
        with self.open(name) as stream:
            return stream.seek(0, io.SEEK_END)

    def head(self, name: str) -> bytes:
        with self.open(name) as stream:
            return stream.read(HEAD)

    def order(self, name: str) -> int:
        return 0

    def names(self) -> set[str]:
        return {entry.name for entry in self._path.iterdir()}
