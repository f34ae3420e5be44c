"""Images for tests that build definitions: the ordinary one, cut down to what builds quickly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# a tenth of the time of the default packing
QUICKLY = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
_BIG = ("usr/lib/*/perl*", "usr/lib/*/gconv", "usr/share/doc", "usr/share/perl", "var/lib")
_PYTHON = ("usr/local/lib", "usr/lib/python3*")


def apptainer(*arguments: str | Path, cwd: Path | None = None) -> str:
    """The output of an apptainer command that has to end well."""
    done = subprocess.run(
        ["apptainer", "-q", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def small(image: Path, folder: Path, *, python: bool = False) -> Path:
    """An image as a folder to build from, without what is big; with or without its Python. Made once."""
    if folder.exists():
        return folder
    apptainer("build", "--sandbox", "--fix-perms", folder, image)
    for pattern in _BIG if python else (*_BIG, *_PYTHON):
        for each in folder.glob(pattern):
            shutil.rmtree(each)
    return folder
