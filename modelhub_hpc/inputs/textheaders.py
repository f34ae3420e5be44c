"""Read and check the volumes whose headers are text: NRRD and MetaImage, with their data inside or beside."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import IO

from modelhub_hpc.errors import InputError, shown
from modelhub_hpc.inputs.geometry import Geometry, filled, of_steps
from modelhub_hpc.inputs.rawfiles import (
    InputLimits,
    damaged,
    demand_elements,
    demand_payload,
    open_regular,
    truncated,
)

_MAX_HEADER = 1 << 20
_NRRD_BYTES = {
    1: "int8 int8_t uint8 uint8_t uchar char signed unsigned",
    2: "int16 int16_t uint16 uint16_t short ushort",
    4: "int32 int32_t uint32 uint32_t int uint float",
    8: "int64 int64_t uint64 uint64_t longlong ulonglong double",
}
_NRRD_SIZE = {name: size for size, names in _NRRD_BYTES.items() for name in names.split()}
_NRRD_SIZE |= {
    "signed char": 1,
    "unsigned char": 1,
    "short int": 2,
    "signed short": 2,
    "unsigned short": 2,
    "unsigned short int": 2,
    "signed int": 4,
    "unsigned int": 4,
    "long long": 8,
    "unsigned long long": 8,
    "long long int": 8,
    "unsigned long long int": 8,
}
_NRRD_ENCODING = {
    "raw": "raw",
    "gzip": "gzip",
    "gz": "gzip",
    "bzip2": "bzip2",
    "bz2": "bzip2",
    "txt": "text",
    "text": "text",
    "ascii": "text",
    "hex": "text",
}
_MET_SIZE = {
    "CHAR": 1,
    "UCHAR": 1,
    "SHORT": 2,
    "USHORT": 2,
    "INT": 4,
    "UINT": 4,
    "LONG": 4,
    "ULONG": 4,
    "LONG_LONG": 8,
    "ULONG_LONG": 8,
    "FLOAT": 4,
    "DOUBLE": 8,
}
_TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
}
_SHORT_SPACES = {
    "lps": "left-posterior-superior",
    "ras": "right-anterior-superior",
    "las": "left-anterior-superior",
}


@dataclass(frozen=True)
class _Volume:
    """What a header says. Data files are empty where the data follow the header, at `begins`."""

    sizes: tuple[int, ...]
    itemsize: int
    encoding: str
    begins: int
    skip: int  # unpacked bytes before the first voxel; -1: the voxels are the end of the file
    data_files: tuple[str, ...]
    geometry: Geometry | None
    packed_bytes: int | None = None  # what a MetaImage header says of its compressed data


def check_nrrd(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """The header against the limits, then every byte that it announces."""
    _check(_nrrd(file, path), file, path, limits)


def check_mha(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """The header against the limits, then every byte that it announces."""
    _check(_mha(file, path), file, path, limits)


def geometry_of_nrrd(file: IO[bytes], path: str) -> Geometry | None:
    return _nrrd(file, path).geometry


def geometry_of_mha(file: IO[bytes], path: str) -> Geometry | None:
    return _mha(file, path).geometry


def _check(volume: _Volume, file: IO[bytes], path: str, limits: InputLimits) -> None:
    elements = math.prod(volume.sizes)
    demand_elements(path, elements, volume.itemsize, limits)
    count = elements * volume.itemsize // max(len(volume.data_files), 1)
    if not volume.data_files:
        file.seek(volume.begins)
        _check_data(volume, file, path, count, limits)
    for name in volume.data_files:
        beside = _beside(path, name)
        try:
            with open_regular(beside, limits) as data:
                _check_data(volume, data, beside, count, limits)
        except InputError as error:
            raise InputError(error.kind, f"{shown(path)}: its data file {error}") from error


def _check_data(volume: _Volume, file: IO[bytes], path: str, count: int, limits: InputLimits) -> None:
    if volume.encoding == "text":
        return  # numbers in text have no length that could be told without reading them as the model will
    if volume.packed_bytes is not None:
        _demand_packed_bytes(file, path, volume.packed_bytes)
    demand_payload(file, path, volume.encoding, max(volume.skip, 0), count, limits)


def _demand_packed_bytes(file: IO[bytes], path: str, announced: int) -> None:
    """SimpleITK unpacks as much as CompressedDataSize says, and takes what is left of memory for voxels."""
    there = os.fstat(file.fileno()).st_size - file.tell()
    if there < announced:
        raise truncated(path, f"{there} of {announced} bytes of compressed data are there")
    if there > announced:
        raise damaged(
            path, f"CompressedDataSize is {announced or 'not given'}, and {there} bytes of data are there"
        )


def _beside(path: str, name: str) -> str:
    """A data file in its header's folder: the container sees no other."""
    if "\0" in name:
        raise damaged(path, "the name of its data file holds a zero byte")
    folder = os.path.dirname(os.path.abspath(path))
    data = os.path.normpath(os.path.join(folder, name))
    if not data.startswith(folder.rstrip("/") + "/"):
        raise InputError("unsupported", f"{shown(path)}: its voxels are in {shown(name)}, outside its folder")
    return data


def _numbers(text: str) -> list[float]:
    return [float(each) for each in text.replace(",", " ").split()]


def _vectors(text: str) -> list[list[float]]:
    """(1,0,0) (0,1,0) none -> the vectors of the axes that lie in space."""
    return [_numbers(each) for each in re.findall(r"\(([^)]*)\)", text)]


def _nrrd(file: IO[bytes], path: str) -> _Volume:
    fields, rest = _nrrd_fields(file, path)
    try:
        sizes = tuple(int(each) for each in fields["sizes"].split())
        encoding = _NRRD_ENCODING[fields["encoding"].lower()]
        kind = fields["type"].lower()
        itemsize = int(fields["block size"]) if kind == "block" else _NRRD_SIZE[kind]
        skip, lines = int(fields.get("byte skip", "0")), int(fields.get("line skip", "0"))
        rank = int(fields.get("dimension", len(sizes)))
    except (KeyError, ValueError) as error:
        raise damaged(path, f"its NRRD header lacks a sound {error}") from error
    if len(sizes) != rank or any(n < 1 for n in sizes) or itemsize < 1:
        raise damaged(path, f"its NRRD header says {rank} dimensions of {sizes}, {itemsize} bytes each")
    if lines or skip < -1:
        raise InputError("unsupported", f"{shown(path)}: line skip {lines}, byte skip {skip}")
    names = _data_files(fields.get("data file", fields.get("datafile", "")), rest, path)
    return _Volume(sizes, itemsize, encoding, file.tell(), skip, names, _nrrd_geometry(fields, sizes))


def _nrrd_fields(file: IO[bytes], path: str) -> tuple[dict[str, str], list[str]]:
    """Header fields, and the lines after `data file: LIST`; leaves the file at the data."""
    file.seek(0)
    file.readline(256)
    fields: dict[str, str] = {}
    listed: list[str] = []
    while (line := file.readline(_MAX_HEADER)).strip():
        if file.tell() > _MAX_HEADER:
            raise damaged(path, "its NRRD header has no end")
        text = line.decode("utf-8", "surrogateescape").strip()
        if fields.get("data file", fields.get("datafile", "")).upper().startswith("LIST"):
            listed.append(text)
        elif not text.startswith("#") and ":=" not in text:
            name, colon, value = text.partition(":")
            if not colon:
                raise damaged(path, f"no field in the NRRD header line {text[:60]!r}")
            fields[name.strip().lower()] = value.strip()
    if not line and "data file" not in fields and "datafile" not in fields:
        raise truncated(path, "it ends inside its NRRD header")
    return fields, listed


def _data_files(value: str, listed: list[str], path: str) -> tuple[str, ...]:
    """LOCAL or nothing, a name, LIST and lines, or a pattern with its range."""
    if not value or value.upper() == "LOCAL":
        return ()
    if value.upper().startswith("LIST"):
        return tuple(listed)
    pattern = re.fullmatch(r"(.*%0?\d*d.*?)\s+(\d+)\s+(\d+)\s+(\d+)(?:\s+\d+)?", value)
    if pattern is None:
        return (value,)
    first, last, step = (int(pattern[i]) for i in (2, 3, 4))
    if not 0 < step or last - first > 1_000_000:
        raise damaged(path, f"its data files are {value!r}")
    width = re.search(r"%(0?)(\d*)d", pattern[1])
    assert width is not None  # the pattern above holds it
    digits = int(width[2] or 0)
    return tuple(pattern[1].replace(width[0], f"{i:0{digits}d}") for i in range(first, last + 1, step))


def _nrrd_geometry(fields: dict[str, str], sizes: tuple[int, ...]) -> Geometry | None:
    space = fields.get("space", "").lower()
    signs = _TO_LPS.get(_SHORT_SPACES.get(space, space))
    try:
        vectors = _vectors(fields.get("space directions", ""))
        origin = (_vectors(fields.get("space origin", "")) or [[0.0, 0.0, 0.0]])[0]
    except ValueError:
        return None
    if signs is None or len(vectors) != 3 or any(len(each) != 3 for each in (*vectors, origin)):
        return None
    named = re.findall(r"\([^)]*\)|none", fields["space directions"])
    axes = [i for i, each in enumerate(named) if each != "none"]
    steps = filled([[s * v for s, v in zip(signs, each)] for each in vectors])
    return of_steps([sizes[i] for i in axes if i < len(sizes)], steps, [s * v for s, v in zip(signs, origin)])


def _mha(file: IO[bytes], path: str) -> _Volume:
    fields, listed = _mha_fields(file, path)
    try:
        sizes = tuple(int(each) for each in fields["DimSize"].split())
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        itemsize = _MET_SIZE[fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")]
        header_size = int(fields.get("HeaderSize", "0"))
        packed = fields.get("CompressedData", "False").lower() in ("true", "1")
        packed_bytes = int(fields.get("CompressedDataSize", "0")) if packed else None
        count = int(fields.get("NDims", len(sizes)))
    except (KeyError, ValueError) as error:
        raise damaged(path, f"its MetaImage header lacks a sound {error}") from error
    if len(sizes) != count or any(n < 1 for n in sizes) or channels < 1:
        raise damaged(path, f"its MetaImage header says {count} dimensions of {sizes}, {channels} channels")
    binary = fields.get("BinaryData", "True").lower() in ("true", "1")
    encoding = "zlib" if packed else "raw" if binary else "text"
    names = _data_files(fields["ElementDataFile"], listed, path)
    shape = (*sizes, channels) if channels > 1 else sizes
    if packed and len(names) > 1:
        raise InputError("unsupported", f"{shown(path)}: compressed data in several files")
    geometry = _mha_geometry(fields, sizes)
    return _Volume(shape, itemsize, encoding, file.tell(), header_size, names, geometry, packed_bytes)


def _mha_fields(file: IO[bytes], path: str) -> tuple[dict[str, str], list[str]]:
    """Header fields, and the lines after `ElementDataFile = LIST`; leaves the file at the data."""
    file.seek(0)
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = file.readline(_MAX_HEADER)
        if not line:
            raise truncated(path, "it ends inside its MetaImage header")
        name, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
        if not equals or file.tell() > _MAX_HEADER:
            raise damaged(path, f"no field in the MetaImage header line {line[:60]!r}")
        fields[name.strip()] = value.strip()
    listed = []
    if fields["ElementDataFile"].upper().startswith("LIST"):
        listed = file.read(_MAX_HEADER).decode("utf-8", "surrogateescape").splitlines()
    return fields, [line.strip() for line in listed if line.strip()]


def _mha_geometry(fields: dict[str, str], sizes: tuple[int, ...]) -> Geometry | None:
    if len(sizes) not in (2, 3):
        return None
    try:
        spacing = _numbers(fields.get("ElementSpacing", fields.get("ElementSize", "1 1 1")))
        turn = fields.get("TransformMatrix", fields.get("Rotation", fields.get("Orientation", "")))
        matrix = _numbers(turn)
        origin = _numbers(fields.get("Offset", fields.get("Position", fields.get("Origin", "0 0 0"))))
    except ValueError:
        return None
    rank = len(sizes)
    if not matrix:
        matrix = [float(i == j) for i in range(rank) for j in range(rank)]
    if len(matrix) != rank * rank or len(origin) < rank or len(spacing) < rank:
        return None
    steps = filled([[v * spacing[i] for v in matrix[i * rank : (i + 1) * rank]] for i in range(rank)])
    return of_steps(sizes, steps, [*origin[:rank], 0.0][:3])
