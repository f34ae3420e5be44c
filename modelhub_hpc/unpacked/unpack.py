"""Unpack an image into a folder of this user's, whatever the image would like to do to this machine meanwhile."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from modelhub_hpc import apptainer, sif
from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.unpacked.guard import require_guarded


def unpack(tree: Path, source: str, scratch: Path) -> None:
    """Make the new folder `tree` of what `sources.fetch` returned, or of a SIF; all of it is this user's.

    Raises InvalidError if the source cannot be unpacked safely, UnfitError or TryAgainError for this machine.
    """
    path = Path(source)
    if path.is_dir():
        require_guarded(path)
        apptainer.unpack(tree, source, scratch)
    elif path.is_file():
        _unpack_sif(tree, path, scratch)
    else:
        apptainer.unpack(tree, source, scratch)


def _unpack_sif(tree: Path, path: Path, scratch: Path) -> None:
    """Apptainer would unpack a SIF, but also write into what it has unpacked."""
    system = sif.read(path).file_system
    if system is None:
        raise InvalidError(f"{shown(path)} holds no squashfs file system to unpack.")
    apptainer.unsquash(tree, path, system.offset, scratch)
    _open_up(tree)
    require_guarded(tree)


def _open_up(folder: Path) -> None:
    """Let the owner read everything and enter every folder, as `apptainer build --fix-perms` does."""
    waiting = [os.fspath(folder)]
    while waiting:
        place = waiting.pop()
        os.chmod(place, stat.S_IMODE(os.lstat(place).st_mode) | 0o700)
        with os.scandir(place) as found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    waiting.append(each.path)
                elif each.is_file(follow_symlinks=False):
                    _make_readable(each)


def _make_readable(file: os.DirEntry[str]) -> None:
    mode = stat.S_IMODE(file.stat(follow_symlinks=False).st_mode)
    if mode & 0o600 != 0o600:
        os.chmod(file.path, mode | 0o600)
