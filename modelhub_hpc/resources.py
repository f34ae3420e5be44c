"""Where the files that travel with the package lie: engine/, registry/, recipes/, slurm/ and hpc/."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The named resource folder: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


KEEPER = _PACKAGE / "keeper.py"
