"""Copies of images on a machine's own disk, for sites whose shared file system is slow to start containers from.

A user has one copy of an image on each machine, in a folder that nobody else may enter. Who needs it first makes it,
the others wait. Its name is its sha256. Each process that runs from a copy holds a lock on it until it ends; a copy
that nobody has used for a week, or that is in the way of a new one, goes when nobody holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import UnfitError, shown
from modelhub_hpc.images.image import Image
from modelhub_hpc.images.integrity import changed, known_digest, remember
from modelhub_hpc.processes import alone, ended_folders, own_folder, private_folder, remove_tree
from modelhub_hpc.runfolder import drop, link_first

log = logging.getLogger(__name__)

UNUSED_S = 7 * 24 * 3600.0
_BLOCK = 2**22
_SPARE = 2**26  # bytes of the disk that are left to sessions
_ATTEMPTS = 3
_WORK = "copying"

_held: dict[Path, BinaryIO] = {}  # what this process runs from


def stage(image: Image, site: SiteConfig) -> Image:
    """The image as a copy on this machine's own disk, made if need be.

    Where there can be no copy, above all for lack of room, it is the image itself, with a warning: a run needs none.
    Raises InvalidError if what is copied is not what was converted.
    """
    base = config.scratch_dir(site)
    folder = own_folder(base / f"mh-hpc-images-{os.getuid()}")
    try:
        if folder is None:
            raise PermissionError(f"{base} has no folder for images that is this user's alone")
        return dataclasses.replace(image, path=_copy_of(image, folder))
    except (OSError, UnfitError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        log.warning("no copy of %s in %s (%s): its file is used where it lies", image.name, shown(base), reason)
        return image


def _copy_of(image: Image, folder: Path) -> Path:
    """The path of a copy that is right, and that this process holds."""
    copy = folder / f"{image.sha256}.sif"
    with alone(_stamp(copy)):
        os.utime(_stamp(copy))
        for _ in range(_ATTEMPTS):
            if _hold(copy) and _is_right(copy, image):
                return copy
            drop(copy)
            _clear(folder, image.bytes)
            _make(copy, image)
    raise OSError(f"{shown(copy)} does not stay what it is")


def _is_right(copy: Path, image: Image) -> bool:
    if known_digest(copy) == image.sha256:
        return True
    log.warning("%s was damaged or changed, and is copied anew", shown(copy))
    return False


def _make(copy: Path, image: Image) -> None:
    """Copy the image, and compare what is read with its record. Raises OSError, and InvalidError if it differs."""
    began = time.monotonic()
    work = private_folder(copy.parent, _WORK)
    try:
        part = work / copy.name
        digest = _copied(image, part)
        if digest != image.sha256:
            raise changed(image, digest, part.stat().st_size)
        link_first(part, copy)
    finally:
        remove_tree(work)
    remember(copy, digest)
    log.info("copied %s to %s in %.1f s", image.name, shown(copy), time.monotonic() - began)


def _copied(image: Image, part: Path) -> str:
    """Copy the file; sha256 of what was read."""
    digest = hashlib.sha256()
    with open(image.path, "rb", buffering=0) as source, open(part, "xb") as target:
        os.fchmod(target.fileno(), 0o400)
        while block := source.read(_BLOCK):
            digest.update(block)
            target.write(block)  # all of it, or an error: a raw file may take less where the disk ends
        target.flush()
        os.fsync(target.fileno())  # what a crash of the machine has taken from it nobody would read again
    return digest.hexdigest()


def _hold(copy: Path) -> bool:
    """Keep the copy from being removed until this process ends; False if there is none."""
    held = _held.get(copy)
    if held is not None and _is_at(held, copy):
        return True
    if held is not None:
        _held.pop(copy).close()
    try:
        stream = open(copy, "rb", buffering=0)
    except FileNotFoundError:
        return False
    fcntl.flock(stream, fcntl.LOCK_SH)
    if not _is_at(stream, copy):
        stream.close()
        return False
    _held[copy] = stream
    return True


def _is_at(stream: BinaryIO, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    return False


def _clear(folder: Path, wanted: int) -> None:
    """Remove what the killed have left and what was not used for long; for so many bytes, also what nobody uses now."""
    for left in ended_folders(folder, _WORK):
        remove_tree(left)
    for copy in sorted(folder.glob("*.sif"), key=_used_s):
        if time.time() - _used_s(copy) > UNUSED_S or shutil.disk_usage(folder).free < wanted + _SPARE:
            _remove(copy)
    if shutil.disk_usage(folder).free < wanted + _SPARE:
        raise OSError(f"it takes {wanted / 1e6:,.0f} MB, and {shutil.disk_usage(folder).free / 1e6:,.0f} MB are free")


def _remove(copy: Path) -> None:
    """Unless a process holds it."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), open(copy, "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        drop(copy)
        drop(_stamp(copy))
        log.info("removed %s, which nobody uses", shown(copy))


def _stamp(copy: Path) -> Path:
    """Beside the copy: locked while it is made, and touched when it is used, as the copy itself must never be."""
    return copy.with_suffix(".used")


def _used_s(copy: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return _stamp(copy).stat().st_mtime
    return 0.0
