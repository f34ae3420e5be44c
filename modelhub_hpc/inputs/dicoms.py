"""Check DICOM files and series, and tell which file belongs to which series."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from modelhub_hpc.errors import InputError, shown
from modelhub_hpc.inputs.geometry import Geometry, of_steps
from modelhub_hpc.inputs.rawfiles import (
    BLOCK,
    InputLimits,
    damaged,
    demand_elements,
    open_regular,
    size_of,
    truncated,
)

if TYPE_CHECKING:
    from pydicom import FileDataset

_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_SERIES_UID, _MODALITY = 0x0020000E, 0x00080060
_WANTED = [
    _MODALITY,
    0x00180050,
    0x00180088,
    _SERIES_UID,
    0x00200032,
    0x00200037,
    0x00280002,
    0x00280004,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00280030,
    0x00280100,
]
_FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x08")  # of a file without preamble: meta, or data
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_IMPLICIT = b"1.2.840.10008.1.2"
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_ELEMENT = struct.Struct("<HH2sH")
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_QUICK_BYTES = 1 << 14
_MAX_INFLATED = 1 << 26
# What pydicom is known to raise on garbage, its own errors aside.
_ERRORS: tuple[type[Exception], ...] = (
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    NotImplementedError,
    TypeError,
    struct.error,
    zlib.error,
    OSError,
    IndexError,
    RecursionError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Series:
    """What a DICOM file says of the series that it belongs to; `uid` is "" where it says nothing."""

    uid: str
    modality: str


@dataclass
class _Reading:
    """Where pydicom was when it stopped: at the pixels, or at the last element before the end."""

    file: IO[bytes]
    last_tag: int
    reach: int = 0  # the byte after the last element seen
    pixels_at: int = -1
    pixel_bytes: int = 0

    def stop(self, tag: int, vr: str | None, length: int) -> bool:
        if tag in _PIXEL_TAGS:
            self.pixels_at, self.pixel_bytes = self.file.tell(), length
        elif length != _UNDEFINED:
            self.reach = self.file.tell() + length
        return tag > self.last_tag or tag in _PIXEL_TAGS


def _errors() -> tuple[type[Exception], ...]:
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*_ERRORS, BytesLengthException, InvalidDicomError)


def _read(reading: _Reading, path: str, tags: Sequence[int]) -> FileDataset:
    from pydicom import config  # here: pydicom takes longer to import than most commands run
    from pydicom.filereader import read_partial

    config.settings.reading_validation_mode = config.IGNORE  # it would log odd values, a patient's among them
    reading.file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values against the standard that no one here reads
        try:
            file = cast(BinaryIO, reading.file)
            return read_partial(file, stop_when=reading.stop, force=True, specific_tags=list(tags))
        except _errors() as error:
            if reading.reach > size_of(reading.file):
                raise truncated(path, f"the DICOM file ends inside an element ({_line(error)})") from error
            raise damaged(path, f"not readable as DICOM ({_line(error)})") from error


def series_of(path: str) -> Series | None:
    """The series of a DICOM file, read up to its series UID only; None where it can't be read as DICOM."""
    try:
        with open_regular(path, InputLimits()) as file:
            head = file.read(_QUICK_BYTES)
            if _DEFLATED in head[:1024]:
                return Series("", "")  # its UID is packed too: it is judged alone, when its turn comes
            quick = _quick_series(head)
            if quick is not None:
                return quick
            data = _read(_Reading(file, _SERIES_UID), path, [_MODALITY, _SERIES_UID])
            return Series(_text(data, "SeriesInstanceUID"), _text(data, "Modality"))
    except InputError:
        return None
    except _errors():
        return None


def _quick_series(head: bytes) -> Series | None:
    """The same from the first bytes alone, ten times as fast as pydicom; None where they don't suffice."""
    found, at, explicit = {0x00020010: b"", _MODALITY: b"", _SERIES_UID: b""}, 132, True
    if head[128:132] != b"DICM":
        return None
    while at + 12 <= len(head):
        group, element, vr, length = _ELEMENT.unpack_from(head, at)
        tag = group << 16 | element
        if group != 2:
            if found[0x00020010].rstrip(b"\0 ") == _BIG_ENDIAN:
                return None
            explicit = found[0x00020010].rstrip(b"\0 ") != _IMPLICIT
        if tag > _SERIES_UID:
            return Series(*(found[each].strip(b"\0 ").decode("ascii") for each in (_SERIES_UID, _MODALITY)))
        start = at + 8
        if not explicit or vr in _LONG:
            start = at + (12 if explicit else 8)
            length = int.from_bytes(head[start - 4 : start], "little")
        elif not vr.isalpha():
            return None
        if length == _UNDEFINED:
            return None
        at = start + length
        if tag in found and at <= len(head):
            found[tag] = head[start:at]
    return None


def series_files(folder: str, uid: str) -> list[str]:
    """The files of one series in a folder that holds several, by name."""
    paths = [path for path in _listed(folder) if (found := series_of(path)) is not None and found.uid == uid]
    return sorted(paths)


def _text(data: FileDataset, name: str) -> str:
    try:
        return str(data.get(name, "") or "")
    except _errors():
        return ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _listed(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.path
            for entry in entries
            if not entry.name.startswith(".") and entry.name.upper() != "DICOMDIR" and not entry.is_dir()
        ]


def check_dicom(file: IO[bytes], path: str, limits: InputLimits) -> tuple[int, int]:
    """The header, and pixels as complete as it announces; returns (rows, columns)."""
    file.seek(0)
    head = file.read(1024)
    if head[128:132] != b"DICM" and head[:2] not in _FIRST_GROUPS:
        raise damaged(path, f"not DICOM: starts with {head[:12]!r}")
    if _DEFLATED in head:
        return _check_deflated(file, path, limits)
    reading = _Reading(file, 0x7FE00010)
    data = _read(reading, path, _WANTED)
    if reading.pixels_at < 0:
        if reading.reach > size_of(file):
            raise truncated(
                path, f"the DICOM file should reach byte {reading.reach:,} at least, it has {size_of(file):,}"
            )
        raise InputError("no-pixels", f"{shown(path)}: {_object(data)} without an image (no pixel data)")
    wanted, frames = _pixel_bytes(data, path, limits)
    if reading.pixel_bytes == _UNDEFINED:
        _check_frames(file, path, reading.pixels_at, frames)
    else:
        _demand_bytes(path, wanted, min(reading.pixel_bytes, size_of(file) - reading.pixels_at))
    return int(data.Rows), int(data.Columns)


def _demand_bytes(path: str, wanted: int, found: int) -> None:
    if found < wanted:
        raise truncated(path, f"the DICOM header announces {wanted:,} bytes of pixels, {found:,} are there")


def _object(data: FileDataset) -> str:
    modality = _text(data, "Modality")
    return f"a DICOM {modality} object" if modality else "DICOM"


def _pixel_bytes(data: FileDataset, path: str, limits: InputLimits) -> tuple[int, int]:
    """(bytes of the pixels uncompressed, frames)."""
    try:
        rows, columns, bits = int(data.Rows), int(data.Columns), int(data.BitsAllocated)
        samples, frames = int(data.get("SamplesPerPixel") or 1), int(data.get("NumberOfFrames") or 1)
    except _errors() as error:  # pydicom converts a value when it is asked for
        raise damaged(path, f"the DICOM header lacks the size of its image ({_line(error)})") from error
    if min(rows, columns, bits, samples, frames) < 1:
        raise damaged(path, f"the DICOM header says {frames} frames of {columns} x {rows}, {bits} bits")
    elements = rows * columns * frames * samples
    demand_elements(path, elements, bits / 8, limits)
    if "422" in _text(data, "PhotometricInterpretation"):
        elements = rows * columns * frames * 2  # two pixels share their colours
    return (elements * bits + 7) // 8, frames


def _check_frames(file: IO[bytes], path: str, start: int, frames: int) -> None:
    """Walk the fragments of compressed pixels: each inside the file, and at least one per frame."""
    size, count = size_of(file), -1  # the first item is a table of offsets
    file.seek(start)
    while len(head := file.read(8)) == 8 and head[:4] == _ITEM:
        end = file.tell() + int.from_bytes(head[4:], "little")
        if end > size:
            raise truncated(path, f"a frame of the DICOM file reaches byte {end:,}, the file has {size:,}")
        file.seek(end)
        count += 1
    if head[:4] != _END and len(head) == 8:
        raise damaged(path, f"no frame at byte {file.tell() - 8} of the DICOM file's pixels")
    if count < frames or head[:4] != _END:
        raise truncated(path, f"the DICOM header announces {frames} frames, {max(count, 0)} are there")


def _check_deflated(file: IO[bytes], path: str, limits: InputLimits) -> tuple[int, int]:
    from pydicom import dcmread

    inflate, found = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for block in _deflated_part(file):
                while block and found <= _MAX_INFLATED:
                    found += len(inflate.decompress(block, BLOCK))
                    block = inflate.unconsumed_tail
            if found > _MAX_INFLATED:
                raise InputError("too-big", f"{shown(path)}: deflated DICOM of over {_MAX_INFLATED:,} bytes")
            file.seek(0)
            data = dcmread(file)
            pixels = len(data.get("PixelData") or b"")
        except _errors() as error:
            raise damaged(path, f"its deflated DICOM data can't be read ({error})") from error
    if not pixels:
        raise InputError("no-pixels", f"{shown(path)}: {_object(data)} without an image (no pixel data)")
    _demand_bytes(path, _pixel_bytes(data, path, limits)[0], pixels)
    return int(data.Rows), int(data.Columns)


def _deflated_part(file: IO[bytes]) -> list[bytes]:
    """What follows the file meta group: what is packed is small, what it unpacks to may not be."""
    file.seek(128 + 4)
    tag, length = struct.unpack("<8sI", file.read(12))
    if tag != b"\x02\0\0\0UL\x04\0":
        raise ValueError("its file meta group has no length")
    file.seek(length, 1)
    return [file.read(_MAX_INFLATED)]


def check_series(folder: str, limits: InputLimits) -> None:
    """Every DICOM file of a folder; InputError where one is faulty, sizes differ or none is there."""
    total, sizes = 0, set()
    for path in sorted(_dicom_files(folder)):
        with open_regular(path, limits) as file:
            rows, columns = check_dicom(file, path, limits)
        sizes.add((rows, columns))
        total += rows * columns
        demand_elements(folder, total, 1, limits)
    if not sizes:
        raise InputError("empty", f"{shown(folder)}: a folder without a DICOM file")
    if len(sizes) > 1:
        raise damaged(folder, f"its DICOM slices differ in size: {sorted(sizes)[:4]}")


def _dicom_files(folder: str) -> list[str]:
    named = (".dcm", ".dicom", ".ima")
    return [path for path in _listed(folder) if path.lower().endswith(named) or _has_magic(path)]


def _has_magic(path: str) -> bool:
    try:
        with open_regular(path, InputLimits()) as file:
            return file.read(132)[128:] == b"DICM"
    except InputError as error:
        if error.kind in ("not-a-file", "empty"):
            return False
        raise


@dataclass(frozen=True)
class _Slice:
    size: tuple[int, int]
    spacing: tuple[float, float]  # between columns (x), between rows (y), mm
    origin: tuple[float, ...]
    axes: tuple[float, ...]  # direction of x, then of y
    thickness: float
    frames: int


def geometry_of_dicom(file: IO[bytes], path: str) -> Geometry | None:
    """Of one file; None for several frames, or where the header has no place in the patient."""
    found = _slice(file, path)
    return None if found is None or found.frames > 1 else _stacked([found], found.thickness)


def geometry_of_series(folder: str, files: Sequence[str] = ()) -> Geometry | None:
    """Of these files, or all of a folder, ordered along their normal; None where they make no regular stack."""
    slices = []
    for path in files or _dicom_files(folder):
        with open_regular(path, InputLimits()) as file:
            slices.append(_slice(file, path))
    if not slices or any(each is None or each.frames > 1 for each in slices):
        return None
    known = [each for each in slices if each is not None]
    if len({each.size for each in known}) > 1 or np.ptp([each.axes for each in known], axis=0).max() > 1e-3:
        return None
    normal = np.cross(known[0].axes[:3], known[0].axes[3:])
    heights = [float(np.dot(normal, each.origin)) for each in known]
    known = [known[i] for i in np.argsort(heights)]
    step = (max(heights) - min(heights)) / (len(known) - 1) if len(known) > 1 else known[0].thickness
    return _stacked(known, step) if _regular([each.origin for each in known], normal * step) else None


def _regular(origins: Sequence[Sequence[float]], step: NDArray[np.float64]) -> bool:
    """Whether each slice lies where it is expected, to a twentieth of a step: none is missing, none is shifted."""
    places = np.asarray(origins)
    expected = places[0] + np.arange(len(places))[:, np.newaxis] * step
    return bool(np.linalg.norm(places - expected, axis=1).max() <= 0.05 * np.linalg.norm(step))


def _stacked(slices: list[_Slice], step: float) -> Geometry | None:
    first = slices[0]
    right, down = np.asarray(first.axes[:3]), np.asarray(first.axes[3:])
    columns = [right * first.spacing[0], down * first.spacing[1], np.cross(right, down) * step]
    steps = np.stack(columns, axis=1)
    return of_steps((*first.size, len(slices)), steps, first.origin)


def _slice(file: IO[bytes], path: str) -> _Slice | None:
    data = _read(_Reading(file, 0x7FE00010), path, _WANTED)
    try:
        position, axes, spacing = data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
        thickness = data.get("SpacingBetweenSlices") or data.get("SliceThickness") or 1.0
        if len(position) != 3 or len(axes) != 6:
            return None
        return _Slice(
            (int(data.Columns), int(data.Rows)),
            (float(spacing[1]), float(spacing[0])),
            tuple(float(v) for v in position),
            tuple(float(v) for v in axes),
            abs(float(thickness)),
            int(data.get("NumberOfFrames") or 1),
        )
    except _errors():
        return None
