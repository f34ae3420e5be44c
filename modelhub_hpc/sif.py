"""The table of contents of a SIF file, read without Apptainer: what is in it, and for which machines."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.platforms import this_machine

CERTIFICATE = "mh-hpc-certificate.json"

# 32 bytes of launch script, magic, version, architecture, uuid, two times; then the table of descriptors
_HEADER = struct.Struct("<32s10s3s3s16sqqqqqqqq")
_DESCRIPTOR = struct.Struct("<i?III7q128s384s")
_MAGIC = b"SIF_MAGIC\0"
_PARTITION = 0x4004
_SIGNATURE = 0x4005
_JSON = 0x4006
_SQUASHFS, _PRIMARY = 1, 2
_MOST_OBJECTS = 10_000
_LARGEST_JSON = 64 * 2**20

_ARCHITECTURES = {
    b"01": "386",
    b"02": "amd64",
    b"03": "arm",
    b"04": "arm64",
    b"05": "ppc64",
    b"06": "ppc64le",
    b"11": "s390x",
    b"12": "riscv64",
}


@dataclass(frozen=True)
class SifObject:
    """One object of a SIF. group: objects that are signed together; offset and size in bytes."""

    kind: int
    group: int
    name: str
    offset: int
    size: int
    extra: bytes


@dataclass(frozen=True)
class Sif:
    """What a SIF file says that it holds. architecture: in Docker's words."""

    path: Path
    architecture: str
    objects: tuple[SifObject, ...]

    @property
    def file_system(self) -> SifObject | None:
        """The squashfs that is started; None where it is another kind, or encrypted."""
        for entry in self.objects:
            if entry.kind == _PARTITION and struct.unpack_from("<2i", entry.extra) == (_SQUASHFS, _PRIMARY):
                return entry
        return None

    @property
    def signers(self) -> tuple[str, ...]:
        """The fingerprints of the keys that it claims to be signed with; "" for what is no PGP key."""
        signatures = [each.extra for each in self.objects if each.kind == _SIGNATURE]
        return tuple(extra[4:24].hex().upper() if any(extra[4:24]) else "" for extra in signatures)

    def embedded(self, name: str) -> bytes | None:
        """The newest JSON object of that name; None if there is none."""
        found = [each for each in self.objects if each.kind == _JSON and each.name == name]
        if not found or found[-1].size > _LARGEST_JSON:
            return None
        with open(self.path, "rb") as stream:
            stream.seek(found[-1].offset)
            return stream.read(found[-1].size)


def read(path: Path) -> Sif:
    """The contents of a SIF file. Raises InvalidError if it is none or not whole, and OSError."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(_HEADER.size)
        if len(head) < _HEADER.size or head[32:42] != _MAGIC:
            raise InvalidError(f"{shown(path)} is not a SIF file.")
        _, _, _, code, _, _, _, free, total, table, _, _, _ = _HEADER.unpack(head)
        if not (0 <= free <= total <= _MOST_OBJECTS and 0 < table < size):
            raise _damaged(path, f"its header speaks of {total} objects")
        stream.seek(table)
        records = stream.read(_DESCRIPTOR.size * total)
    if len(records) != _DESCRIPTOR.size * total:
        raise _damaged(path, f"it ends after {size} bytes, within its table of contents")
    objects = tuple(_object(each) for each in _DESCRIPTOR.iter_unpack(records) if each[1])
    end = max((each.offset + each.size for each in objects), default=0)
    if end > size or any(each.offset < 0 or each.size < 0 for each in objects):
        raise _damaged(path, f"it has {size} bytes and should have {end} or more")
    return Sif(path, _architecture(objects, code), objects)


def require_architecture(sif: Sif) -> None:
    """Raises InvalidError for an image of other machines than this."""
    here = this_machine().architecture
    if sif.architecture != here:
        raise InvalidError(
            f"{shown(sif.path)} is for {sif.architecture} machines, and this is {here}.\n"
            "Convert the image on a machine of this kind, or from a source that has it for this kind."
        )


def _object(fields: tuple[object, ...]) -> SifObject:
    kind, _, _, group, _, offset, size, *_, name, extra = fields
    assert isinstance(kind, int) and isinstance(group, int) and isinstance(offset, int)
    assert isinstance(size, int) and isinstance(name, bytes) and isinstance(extra, bytes)
    return SifObject(
        kind, group & 0x0FFFFFFF, name.split(b"\0")[0].decode(errors="replace"), offset, size, extra
    )


def _architecture(objects: tuple[SifObject, ...], code: bytes) -> str:
    """That of the file system that is started, which the header repeats."""
    for entry in objects:
        if entry.kind == _PARTITION and struct.unpack_from("<i", entry.extra, 4)[0] == _PRIMARY:
            code = entry.extra[8:11]
    plain = code.split(b"\0")[0]
    return _ARCHITECTURES.get(plain, f"unknown ({plain!r})")


def _damaged(path: Path, why: str) -> InvalidError:
    return InvalidError(f"The SIF file {shown(path)} is damaged: {why}.")
