"""The identity of an unpacked image: what is in its files, not when and where it was unpacked."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelhub_hpc.unpacked.tree import Entry, Tree

# Apptainer writes the time of conversion, the path of the source, and those of earlier conversions in here
_OF_THE_CONVERSION = re.compile(
    "/[.]singularity[.]d/(labels[.]json|Singularity|bootstrap_history(/.*)?)", re.DOTALL
)
_BLOCK = 1 << 20
_THREADS = 2  # more than read ahead of the disk
_BATCHES = 64


def fingerprint(folder: Path) -> str:
    """ "sha256:..." over names, kinds, permissions, link targets and contents. Raises OSError.

    Owners, times and extended attributes do not count, which differ with who unpacks; nor does what describes
    the conversion. Hard links are files like others.
    """
    entries = sorted(entry for entry in Tree(folder).walk() if not _OF_THE_CONVERSION.fullmatch(entry.path))
    digests = _digests([entry for entry in entries if stat.S_ISREG(entry.mode)])
    total = hashlib.sha256()
    for entry in entries:
        total.update(_line(entry, digests))
    return f"sha256:{total.hexdigest()}"


def _line(entry: Entry, digests: dict[tuple[int, int], str]) -> bytes:
    """Kind, permissions, name, and what is in it; NUL ends a name, which cannot hold one."""
    if stat.S_ISREG(entry.mode):
        inside = digests[_inode(entry)]
    elif stat.S_ISLNK(entry.mode):
        inside = os.readlink(entry.place)
    else:
        inside = ""
    # the mode of a link means nothing, and differs between file systems
    mode = 0 if stat.S_ISLNK(entry.mode) else stat.S_IMODE(entry.mode) & 0o777
    return f"{stat.S_IFMT(entry.mode):o} {mode:o} {entry.path}\0{inside}\0".encode("utf-8", "surrogateescape")


def _digests(files: Sequence[Entry]) -> dict[tuple[int, int], str]:
    """sha256 of each file by its inode, so that hard links are read once."""
    once = list({_inode(entry): entry for entry in files}.values())
    # dealt out like cards, since neighbours in a folder are often alike in size
    batches = [once[start::_BATCHES] for start in range(_BATCHES)]
    with ThreadPoolExecutor(_THREADS) as threads:
        return {inode: digest for batch in threads.map(_digest_all, batches) for inode, digest in batch}


def _digest_all(files: Sequence[Entry]) -> list[tuple[tuple[int, int], str]]:
    block = memoryview(bytearray(_BLOCK))
    return [(_inode(entry), _digest(entry.place, block)) for entry in files]


def _digest(place: str, block: memoryview) -> str:
    digest = hashlib.sha256()
    with open(place, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def _inode(entry: Entry) -> tuple[int, int]:
    return entry.stat.st_dev, entry.stat.st_ino
