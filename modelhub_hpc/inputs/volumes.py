"""Read and check NIfTI volumes: the header, and as much data as it announces."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from modelhub_hpc.errors import InputError, shown
from modelhub_hpc.inputs.geometry import Geometry, of_steps
from modelhub_hpc.inputs.rawfiles import (
    InputLimits,
    damaged,
    demand_elements,
    demand_payload,
    open_regular,
    truncated,
    unpacked,
)

_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 takes 348
_METRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's length units in mm


@dataclass(frozen=True)
class _Nifti:
    header: Any  # nibabel's, which has no types
    shape: tuple[int, ...]
    itemsize: int
    offset: int  # of the first voxel, in the unpacked file that holds the voxels
    data_path: str


def check_nifti(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """The header against the limits, then its orientation, then every byte that it announces."""
    nifti = _nifti(file, path, limits)
    _demand_orientation(nifti, path)
    count = math.prod(nifti.shape) * nifti.itemsize
    with open_regular(nifti.data_path, limits) as data:
        packed = data.read(2) == b"\x1f\x8b"
        data.seek(0)
        demand_payload(data, nifti.data_path, "gzip" if packed else "raw", nifti.offset, count, limits)


def _nifti(file: IO[bytes], path: str, limits: InputLimits) -> _Nifti:
    from nibabel.nifti1 import Nifti1Header  # here: nibabel takes longer to import than most commands run
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    head = _nifti_head(file, path)
    second = head[4:8] in (b"n+2\0", b"ni2\0")
    kind: Any = Nifti2Header if second else Nifti1Header
    if len(head) < kind.sizeof_hdr:
        raise truncated(path, f"{len(head)} bytes are less than a NIfTI header")
    try:
        header = kind(head[: kind.sizeof_hdr], check=False)
        dims, dtype = [int(n) for n in header["dim"]], header.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError) as error:
        raise damaged(path, f"not a NIfTI header ({error})") from error
    if int(header["sizeof_hdr"]) != kind.sizeof_hdr:
        raise damaged(path, f"not a NIfTI file: starts with {head[:8]!r}")
    rank = dims[0]
    shape = tuple(dims[1 : rank + 1])
    if not 1 <= rank <= 7 or any(n < 1 for n in shape):
        raise damaged(path, f"its header says {rank} dimensions of {dims[1:]}")
    demand_elements(path, math.prod(shape), dtype.itemsize, limits)
    pair = head[4:8] == b"ni2\0" if second else head[344:348] != b"n+1\0"
    offset = _offset(header["vox_offset"], path)
    start = offset if pair else max(offset, kind.sizeof_hdr + 4)
    return _Nifti(header, shape, dtype.itemsize, start, _voxels_of(path) if pair else path)


def _offset(value: float, path: str) -> int:
    if not math.isfinite(value) or not 0 <= value < 1 << 40:
        raise damaged(path, f"its header puts the voxels at byte {value}")
    return int(value)


def _nifti_head(file: IO[bytes], path: str) -> bytes:
    file.seek(0)
    start = file.read(2)
    packed, named = start == b"\x1f\x8b", path.lower().endswith(".gz")
    file.seek(0)
    if named and not packed:
        raise damaged(path, f"it is named .gz but is not gzip: starts with {start + file.read(6)[2:]!r}")
    if packed and not named:
        raise damaged(path, "it is gzip but its name does not end in .gz, so readers will not unpack it")
    if not packed:
        return file.read(_HEADER_BYTES)
    try:
        return gzip.GzipFile(fileobj=file).read(_HEADER_BYTES)
    except EOFError:
        raise truncated(path, "its gzip data ends inside the header") from None
    except (OSError, zlib.error) as error:
        raise damaged(path, f"its gzip data can't be unpacked ({error})") from error


def _voxels_of(path: str) -> str:
    """The .img beside a .hdr."""
    stem = re.sub(r"(?i)\.(hdr|img)(\.gz)?$", "", path)
    names = [stem + ext for ext in (".img", ".img.gz", ".IMG")]
    found = next((name for name in names if os.path.lexists(name)), None)
    if found is None:
        raise InputError(
            "missing", f"{shown(path)}: its voxels should be in {shown(names[0])}, which does not exist"
        )
    return found


def _demand_orientation(nifti: _Nifti, path: str) -> None:
    slope = float(nifti.header["scl_slope"])
    if math.isinf(slope):
        raise damaged(path, "its header scales every voxel by infinity")
    coded = int(nifti.header["sform_code"]) > 0 or int(nifti.header["qform_code"]) > 0
    if coded and nifti_geometry(nifti.header, nifti.shape) is None:
        raise damaged(path, "the orientation in its header is singular, so it has no place in space")


def nifti_geometry(header: Any, shape: tuple[int, ...]) -> Geometry | None:
    """From the sform, else the qform, else the voxel sizes; None where they are singular."""
    from nibabel.spatialimages import HeaderDataError

    with np.errstate(all="ignore"):  # what is not finite ends as None
        try:
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        except (HeaderDataError, ValueError):
            return None
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine * _METRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return of_steps(shape[:3], lps[:3, :3], lps[:3, 3].tolist())


def geometry_of_nifti(file: IO[bytes], path: str, limits: InputLimits) -> Geometry | None:
    """Of the file's header; InputError where there is none."""
    nifti = _nifti(file, path, limits)
    return nifti_geometry(nifti.header, nifti.shape)


def non_finite_of_nifti(file: IO[bytes], path: str, limits: InputLimits) -> int | None:
    """NaN and infinite voxels of a float NIfTI, counted block by block; None for an integer one."""
    nifti = _nifti(file, path, limits)
    dtype = nifti.header.get_data_dtype()
    if dtype.kind not in "fc":
        return None
    left, total = math.prod(nifti.shape) * nifti.itemsize, 0
    with open_regular(nifti.data_path, limits) as data:
        for block in _aligned(_skipped(data, nifti), dtype.itemsize):
            voxels = np.frombuffer(block[:left], dtype=dtype)
            left -= len(block)
            total += len(voxels) - int(np.isfinite(voxels).sum())
            if left <= 0:
                break
    return total


def _skipped(data: IO[bytes], nifti: _Nifti) -> Iterator[bytes]:
    packed = data.read(2) == b"\x1f\x8b"
    data.seek(0)
    skip = nifti.offset
    for block in unpacked(data, nifti.data_path, "gzip" if packed else "raw"):
        yield block[skip:]
        skip = max(0, skip - len(block))


def _aligned(blocks: Iterator[bytes], itemsize: int) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        rest += block
        whole = len(rest) // itemsize * itemsize
        yield rest[:whole]
        rest = rest[whole:]
