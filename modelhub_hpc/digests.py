"""sha256 of files and folders, in hex."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def tree_digest(folder: Path) -> str:
    """sha256 over the names and contents of all files below the folder, byte-code caches aside."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        total.update(f"{path.relative_to(folder)}\0{file_digest(path)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()
