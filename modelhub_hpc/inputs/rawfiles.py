"""Open hostile files: never wait for one, hold no more than a block, never believe what it says it holds."""

from __future__ import annotations

import bz2
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from modelhub_hpc.errors import InputError, shown

BLOCK = 1 << 20
_BOMB_BYTES = 1 << 28  # below this no ratio is suspicious: an empty mask shrinks a thousandfold


@dataclass(frozen=True)
class InputLimits:
    """What one input may hold. The defaults are far above medical images and below what takes a node down."""

    max_bytes: int = 16 << 30  # of the file, and of what it unpacks to
    max_elements: int = 1 << 30  # pixels or voxels times channels
    max_pixels: int = 178_956_970  # of a 2-D picture: where Pillow refuses too
    max_ratio: float = 200.0  # unpacked to packed bytes, judged above 256 MiB unpacked


def os_error(path: str, error: OSError) -> InputError:
    """The same as a fault of the input."""
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
    what = error.strerror or str(error)
    if missing and os.path.islink(path):
        what = f"a link to {shown(os.readlink(path))}, which does not exist"
    return InputError("missing" if missing else "unreadable", f"{shown(path)}: {what}")


def open_regular(path: str, limits: InputLimits) -> IO[bytes]:
    """The file, open and not empty. InputError missing, unreadable, not-a-file, empty or too-big."""
    try:
        # The type first: opening a device can have effects. Then no waiting: a FIFO may have taken its place.
        _demand_regular(path, os.stat(path).st_mode)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise os_error(path, error) from error
    file = open(handle, "rb")
    # the model reads all of it soon, wherever a look at some of it is enough here
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
    try:
        info = os.fstat(handle)
        _demand_regular(path, info.st_mode)
        if info.st_size == 0:
            raise InputError("empty", f"{shown(path)}: the file is empty (0 bytes)")
        if info.st_size > limits.max_bytes:
            what = f"{info.st_size:,} bytes; the limit is {limits.max_bytes:,}"
            raise InputError("too-big", f"{shown(path)}: {what}")
    except InputError:
        file.close()
        raise
    return file


_TYPES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _demand_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = next((name for test, name in _TYPES if test(mode)), "something else")
        raise InputError("not-a-file", f"{shown(path)}: {what}, not a regular file")


def size_of(file: IO[bytes]) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def damaged(path: str, what: str) -> InputError:
    return InputError("damaged", f"{shown(path)}: damaged: {what}")


def truncated(path: str, what: str) -> InputError:
    return InputError("truncated", f"{shown(path)}: truncated: {what}")


def demand_elements(path: str, count: int, itemsize: float, limits: InputLimits) -> None:
    """InputError too-big where a header announces more than the limits, before anything is made for it."""
    if count > limits.max_elements:
        what = f"{count:,} elements; the limit is {limits.max_elements:,}"
        raise InputError("too-big", f"{shown(path)}: {what}")
    if count * itemsize > limits.max_bytes:
        raise InputError(
            "too-big",
            f"{shown(path)}: {count * itemsize:,.0f} bytes unpacked; the limit is {limits.max_bytes:,}",
        )


def demand_ratio(path: str, unpacked: int, packed: int, limits: InputLimits) -> None:
    """InputError too-big for a bomb: much more out than in."""
    if unpacked > _BOMB_BYTES and unpacked > limits.max_ratio * max(packed, 1):
        times = unpacked / max(packed, 1)
        raise InputError(
            "too-big",
            f"{shown(path)}: {packed:,} bytes unpack to {unpacked:,}, "
            f"{times:,.0f} times as many; the limit is {limits.max_ratio:g}",
        )


def unpacked(file: IO[bytes], path: str, encoding: str) -> Iterator[bytes]:
    """Blocks of the rest of `file`, unpacked as `encoding` says. InputError damaged or truncated."""
    try:
        if encoding == "raw":
            yield from iter(lambda: file.read(BLOCK), b"")
        elif encoding == "zlib":
            yield from _inflated(file)
        else:
            stream = gzip.GzipFile(fileobj=file) if encoding == "gzip" else bz2.BZ2File(file)
            yield from iter(lambda: stream.read(BLOCK), b"")
    except EOFError:
        raise truncated(path, f"its {encoding} data ends too early") from None
    except (OSError, zlib.error) as error:
        raise damaged(path, f"its {encoding} data can't be unpacked ({error})") from error


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    while not inflate.eof:
        data = inflate.unconsumed_tail or file.read(BLOCK)
        if not data:
            raise EOFError
        if out := inflate.decompress(data, BLOCK):
            yield out


def demand_payload(
    file: IO[bytes], path: str, encoding: str, skip: int, count: int, limits: InputLimits
) -> None:
    """InputError where the rest of `file` unpacks to less than `skip` + `count` bytes, or to far more."""
    wanted = skip + count
    packed = size_of(file) - file.tell()
    if encoding == "raw":
        found = packed
    else:
        demand_ratio(path, wanted, packed, limits)
        found = 0
        for block in unpacked(file, path, encoding):
            found += len(block)
            if found > wanted + BLOCK:
                raise damaged(path, f"it unpacks to more than the {wanted:,} bytes of its header")
    if found < wanted:
        raise truncated(path, f"its header announces {wanted:,} bytes, {found:,} are there")
