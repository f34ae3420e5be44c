"""Models that `mh-hpc pull` has brought: <cache_dir>/models/<name>/<version>/, each whole from the start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig

ENTRY = "entry.json"
LOCK = "lock.json"

# what can be the name of a folder and nothing else
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SEMVER = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII)

_Rank = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


@dataclass(frozen=True)
class PulledModel:
    """A model of the cache. version: as its registry entry says it."""

    name: str
    version: str
    path: Path


def folder(site: SiteConfig) -> Path:
    return config.cache_dir(site) / "models"


def parse(model: str) -> tuple[str, str]:
    """Name and version of NAME[@VERSION]; "" for no version.

    >>> parse("vgg-19@1.0.0"), parse("vgg-19")
    (('vgg-19', '1.0.0'), ('vgg-19', ''))
    """
    name, _, version = model.partition("@")
    return name, version


def everything(site: SiteConfig) -> list[PulledModel]:
    """All of them, by name, the newest version first."""
    places = sorted(folder(site).glob("*"))
    return [model for place in places if place.is_dir() for model in versions(place.name, site)]


def versions(name: str, site: SiteConfig) -> list[PulledModel]:
    """Those of that name, the newest version first."""
    if not _NAME.fullmatch(name):
        return []
    found = sorted(_complete(folder(site) / name), key=lambda path: precedence(path.name), reverse=True)
    return [PulledModel(name, path.name, path) for path in found]


def find(model: str, site: SiteConfig) -> PulledModel | None:
    """NAME or NAME@VERSION; without a version the newest, one before a release only where there is no other."""
    name, version = parse(model)
    here = versions(name, site)
    if version:
        return next((each for each in here if each.version == version), None)
    released = (each for each in here if "-" not in each.version.partition("+")[0])
    return next(released, next(iter(here), None))


def place(name: str, version: str, site: SiteConfig) -> Path:
    """Where a model belongs. Raises ValueError for what could be no folder's name."""
    for part in (name, version):
        if not _NAME.fullmatch(part.replace("+", "-")):
            raise ValueError(part)
    return folder(site) / name / version


def precedence(version: str) -> _Rank:
    """A key that sorts versions as Semantic Versioning orders them, and what is none of them first.

    >>> sorted(["1.10.0", "1.9.0", "1.10.0-rc.2", "1.10.0-rc.10", "odd"], key=precedence)
    ['odd', '1.9.0', '1.10.0-rc.2', '1.10.0-rc.10', '1.10.0']
    """
    match = _SEMVER.fullmatch(version)
    if not match:
        return -1, 0, 0, False, ()
    words = (match[4] or "").split(".")
    before = tuple((not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in words)
    return int(match[1]), int(match[2]), int(match[3]), not match[4], before


def _complete(place: Path) -> Iterator[Path]:
    return (path.parent for path in place.glob(f"*/{LOCK}") if not path.parent.name.startswith("."))
