"""What a conversion needs while it works: to be the only one, a place with room, and layers that stay."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from modelhub_hpc import config, owner
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import TryAgainError, UnfitError, shown
from modelhub_hpc.images.records import folder
from modelhub_hpc.owner import Owner
from modelhub_hpc.processes import ended_folders, private_folder, remove_tree
from modelhub_hpc.runfolder import storage

CLAIM = ".claim-"
WORK = ".work"

_UNQUOTED = re.compile("['\";\n]")
_BEAT_S = 5.0
_POLL_S = (0.1, 1.0)  # at first, and in the end: a thousand may wait

_log = logging.getLogger(__name__)

Waiting = Callable[[str], None]


@contextlib.contextmanager
def claim(key: str, site: SiteConfig, waiting: Waiting | None = None) -> Iterator[None]:
    """Be the only one on all machines that share the store who works on `key`; others wait until this ends.

    Whoever comes in should look first whether the work is done. A claimer that died is followed: at once on its
    own machine, after three missed heartbeats from elsewhere. waiting: told who is waited for.
    Raises TryAgainError or UnfitError if the storage fails.
    """
    place = claim_folder(key, site)
    with owner.beating(_acquired(place, waiting or (lambda _: None)), _BEAT_S):
        yield


def claim_folder(key: str, site: SiteConfig) -> Path:
    """Holds a few tiny records, and stays until `mh-hpc images gc`: removing it at once would be a race."""
    return folder(site) / f"{CLAIM}{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _acquired(place: Path, waiting: Waiting) -> Owner:
    pause_s, longest_s = _POLL_S
    while True:
        _make(place)
        found = owner.contend(place, _BEAT_S, config.caller().slurm_job_id)
        if isinstance(found, Owner):
            return found
        waiting(found.describe())
        time.sleep(pause_s)
        pause_s = min(longest_s, pause_s * 1.2)


@contextlib.contextmanager
def workspace(site: SiteConfig, need_bytes: int) -> Iterator[Path]:
    """A private folder on the store's file system, gone afterwards; those of dead processes go first.

    Raises TryAgainError if there is not enough room, UnfitError if the store cannot be written.
    """
    store = folder(site)
    _require_plain(store)
    _make(store)
    for left in ended_folders(store, WORK):
        _log.warning("removing what an interrupted conversion left: %s", shown(left))
        remove_tree(left)
    _require_room(store, need_bytes)
    with storage(store):
        place = private_folder(store, WORK)
    try:
        yield place
    finally:
        remove_tree(place)


def blobs(site: SiteConfig) -> Path:
    """The folder of downloaded layers, which outlive an interrupted conversion."""
    place = folder(site) / ".blobs"
    _make(place)
    return place


def _require_plain(store: Path) -> None:
    """Apptainer hands the path of its workspace to a shell, unquoted."""
    if _UNQUOTED.search(str(store)):
        raise UnfitError(
            "Apptainer cannot build in a folder whose path holds a quote, a semicolon or a line break:\n"
            f"{shown(store)}\n"
            "Choose another place: MH_HPC_CACHE_DIR=FOLDER"
        )


def _require_room(store: Path, need_bytes: int) -> None:
    with storage(store):
        found = os.statvfs(store)
    free = found.f_bavail * found.f_frsize
    if free < need_bytes:
        raise TryAgainError(
            f"This needs about {need_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free in {shown(store)}.\n"
            "Make room (mh-hpc images gc, mh-hpc images rm NAME), or choose another place: MH_HPC_CACHE_DIR=FOLDER"
        )


def _make(place: Path) -> None:
    try:
        with storage(place):
            place.mkdir(parents=True, exist_ok=True)
    except (UnfitError, NotADirectoryError, FileExistsError) as error:
        raise UnfitError(
            f"No image can be stored: {shown(place)}: {_reason(error)}.\n"
            "Choose another place: MH_HPC_CACHE_DIR=FOLDER"
        ) from error


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, UnfitError) else error
    return cause.strerror or str(cause) if isinstance(cause, OSError) else str(error)
