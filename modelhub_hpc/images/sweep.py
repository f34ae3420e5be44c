"""Remove what nobody needs from the store that this user writes to; libraries are never touched.

An image that a run is using may go: the model has its file open and keeps it, until the last session ends.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import owner
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import shown
from modelhub_hpc.images import records, store
from modelhub_hpc.images.work import CLAIM, WORK
from modelhub_hpc.processes import ended_folders, remove_tree
from modelhub_hpc.runfolder import PART, drop, token

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
_WEEK_S = 7 * _DAY_S

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removed:
    """Something that went, or would go. bytes: what it took on the disk."""

    path: Path
    bytes: int
    why: str


def gc(
    site: SiteConfig, dry_run: bool = False, unused_days: float | None = None, now_s: float | None = None
) -> list[Removed]:
    """Remove leftovers, and with `unused_days` the images that no run has used for so long; now_s: since 1970.

    A run elsewhere that is at work in the store is safe: what may be in the making is left alone.
    """
    folder, age = records.folder(site), _Ages(time.time() if now_s is None else now_s)
    found: list[Removed] = []
    for path, why in _leftovers(folder, age):
        found.append(Removed(path, _size(path), why))
        if not dry_run:
            _remove(path)
    for entry in _unused(folder, unused_days, age):
        found.append(Removed(entry.record, entry.image.bytes, f"not used for {unused_days:g} days"))
        if not dry_run:
            store.forget(entry)
    return found


@dataclass(frozen=True)
class _Ages:
    """How long ago things happened, in seconds; what went meanwhile, or is of the future, is new."""

    now_s: float

    def of(self, path: Path) -> float:
        """Since any change, a new name included."""
        found = _stat(path)
        return self.now_s - max(found.st_mtime, found.st_ctime) if found else 0.0

    def unused(self, record: Path) -> float:
        """Since a run has used the image, or it was made."""
        found = _stat(record)
        return self.now_s - found.st_mtime if found else 0.0


def _leftovers(folder: Path, age: _Ages) -> Iterator[tuple[Path, str]]:
    ended = set(ended_folders(folder, WORK))
    known = records.entries_of(folder)
    files = {entry.image.path for entry in known}
    gone = {entry.record for entry in known if entry.image.path.parent == folder and not entry.is_there}
    certificates = {entry.certificate for entry in known if entry.record not in gone}
    for path in _listed(folder):
        name, age_s = path.name, age.of(path)
        if path in ended:
            yield path, "of a conversion that was interrupted"
        elif name.startswith(f"{WORK}-") and age_s > _WEEK_S:
            yield path, "of a conversion elsewhere that was interrupted"
        elif name.startswith(".") and name.endswith(PART) and age_s > _DAY_S:
            yield path, "half written"
        elif name.startswith(CLAIM) and age_s > _HOUR_S and _is_over(path, age_s):
            yield path, "of a conversion that is over"
        elif path.suffix == ".sif" and path not in files and age_s > _HOUR_S:
            yield path, "an image without a record"
        elif name.endswith(records.CERTIFICATE_ENDING) and path not in certificates and age_s > _HOUR_S:
            yield path, "the certificate of an image that is gone"
        elif path in gone:
            yield path, "the record of an image that is gone"
    for path in _listed(folder / ".blobs"):
        if age.of(path) > _WEEK_S:
            yield path, "a downloaded layer that nobody came back for"


def _is_over(claim: Path, age_s: float) -> bool:
    holder = owner.holder(claim)
    return holder is None or holder.alive is False or (holder.alive is None and age_s > _WEEK_S)


def _unused(folder: Path, days: float | None, age: _Ages) -> Iterator[records.Entry]:
    for entry in records.entries_of(folder):
        if days is not None and entry.is_there and age.unused(entry.record) > days * _DAY_S:
            yield entry


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    """Of a file, or of all files below a folder; what went meanwhile has none."""
    files = (
        [path]
        if not path.is_dir()
        else [Path(top, name) for top, _, names in os.walk(path) for name in names]
    )
    return sum(found.st_size for file in files if (found := _stat(file)))


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        drop(path)
        return
    aside = path.with_name(f".{token()}{PART}")
    try:
        path.rename(aside)  # at once, so that nobody takes half a claim for a whole one
    except OSError as error:
        _log.warning("left behind: %s (%s)", shown(path), error.strerror)
    else:
        remove_tree(aside)
