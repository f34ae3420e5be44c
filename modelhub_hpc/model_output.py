"""Arrays that a model left in its output folder, opened as the untrusted files they are."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy


class OutputError(ValueError):
    """The model's output file is not what it was announced to be."""


@dataclass(frozen=True)
class ArrayFile:
    """A memory-mapped, read-only array of any shape and its size in bytes."""

    array: np.ndarray[Any, Any]
    nbytes: int


def open_array(folder: Path, name: str) -> ArrayFile:
    """Map `folder/name` (.npy, no pickles); OutputError if it is a link, no array, or not its whole length.

    The folder was writable for the model, which may have put links to the user's files there.
    """
    if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
        raise OutputError(f"not a plain file name: {name!r}")
    try:
        folder_fd = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd)
        finally:
            os.close(folder_fd)
    except OSError as error:
        raise OutputError(f"output file {name}: {error.strerror}") from error
    with open(fd, "rb") as stream:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OutputError(f"output file {name} is not a regular file")
        return _map(stream, status.st_size, name)


def _map(stream: Any, size: int, name: str) -> ArrayFile:
    shape, fortran, dtype = _header(stream, name)
    if dtype.hasobject:
        raise OutputError(f"output file {name} holds Python objects")
    offset = stream.tell()
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    if size != offset + nbytes:
        raise OutputError(f"output file {name} has {size} bytes instead of {offset + nbytes}")
    if nbytes == 0:
        return ArrayFile(np.empty(shape, dtype), 0)
    mapped = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ)
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, mapped, offset, order="F" if fortran else "C")
    return ArrayFile(array, nbytes)


def _header(stream: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise OutputError(f"output file {name} is not an array file: {error}") from error
    return shape, fortran, dtype
