"""Check .npy and .npz files without ever unpickling."""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from typing import IO

import numpy as np
from numpy.lib import format as npy

from modelhub_hpc.errors import InputError, shown
from modelhub_hpc.inputs.rawfiles import (
    BLOCK,
    InputLimits,
    damaged,
    demand_elements,
    demand_ratio,
    size_of,
    truncated,
)

_HEADERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
    (3, 0): npy.read_array_header_2_0,
}
_HEADER_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    KeyError,
    RecursionError,
    MemoryError,
    EOFError,
    OverflowError,
    tokenize.TokenError,
)
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    struct.error,
)


def check_npy(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """The header, its dtype, and as many bytes as it announces."""
    file.seek(0)
    wanted = _data_bytes(file, path, limits)
    found = size_of(file) - file.tell()
    if found < wanted:
        raise truncated(path, f"the array's header announces {wanted:,} bytes, {found:,} are there")


def _data_bytes(file: IO[bytes], path: str, limits: InputLimits) -> int:
    """What the header announces; leaves the file at the data."""
    try:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise damaged(path, f"array format {version} is unknown")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote, as many of these models' were
            shape, _, dtype = _HEADERS[version](file)
    except _HEADER_ERRORS as error:
        what = " ".join(str(error).split())[:120]
        raise damaged(path, f"its array header can't be read ({what})") from error
    if dtype.hasobject:
        raise InputError(
            "unsupported",
            f"{shown(path)}: the array holds Python objects; loading them can "
            "run code; save it with a numeric dtype",
        )
    count = math.prod(shape)
    if any(length < 0 for length in shape):
        raise damaged(path, f"the array's shape is {shape}")
    demand_elements(path, count, dtype.itemsize, limits)
    return count * int(np.dtype(dtype).itemsize)


def check_npz(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """Every member is an array that is sound, complete and no bomb."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > limits.max_bytes:
                raise InputError(
                    "too-big",
                    f"{shown(path)}: {unpacked:,} bytes unpacked; the limit is {limits.max_bytes:,}",
                )
            demand_ratio(path, unpacked, size_of(file), limits)
            if not members:
                raise damaged(path, "the archive holds no array")
            for member in members:
                with archive.open(member) as stream:
                    _check_member(stream, f"{path}/{member.filename}", limits)
    except _ZIP_ERRORS as error:
        raise damaged(path, f"the archive can't be read ({error})") from error


def _check_member(stream: IO[bytes], path: str, limits: InputLimits) -> None:
    wanted, found = _data_bytes(stream, path, limits), 0
    while block := stream.read(BLOCK):
        found += len(block)
        if found > wanted + BLOCK:
            raise damaged(path, f"it unpacks to more than the {wanted:,} bytes of its header")
    if found < wanted:
        raise truncated(path, f"the array's header announces {wanted:,} bytes, {found:,} are there")
