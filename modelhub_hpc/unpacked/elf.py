"""What a program file says about the machine that it runs on."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MACHINES = {3: "386", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64"}
_LOADER = 3  # the type of the segment that names the dynamic loader


@dataclass(frozen=True)
class Program:
    """architecture: in Docker's words; loader: the program that loads it, "" if it is linked statically."""

    architecture: str
    loader: str


def read_program(start: bytes) -> Program | None:
    """Read the first bytes (4 KiB will do) of a program; None if they are not an ELF file's."""
    if len(start) < 64 or start[:4] != b"\x7fELF":
        return None
    order = ">" if start[5] == 2 else "<"
    machine = struct.unpack_from(f"{order}H", start, 18)[0]
    return Program(_MACHINES.get(machine, f"ELF machine {machine}"), _loader(start, order))


def _loader(start: bytes, order: str) -> str:
    wide = start[4] == 2
    table, size, count = struct.unpack_from(
        order + ("Q14xHH" if wide else "I10xHH"), start, 32 if wide else 28
    )
    for index in range(count):
        where = table + index * size
        if where + 40 > len(start):
            break
        if struct.unpack_from(f"{order}I", start, where)[0] == _LOADER:
            at, length = _extent(start, where, order, wide)
            return start[at : at + length].rstrip(b"\0").decode("utf-8", "surrogateescape")
    return ""


def _extent(start: bytes, where: int, order: str, wide: bool) -> tuple[int, int]:
    """The place and length of a segment in the file."""
    if wide:
        at, length = struct.unpack_from(f"{order}Q16xQ", start, where + 8)
    else:
        at, length = struct.unpack_from(f"{order}I8xI", start, where + 4)
    return at, length
