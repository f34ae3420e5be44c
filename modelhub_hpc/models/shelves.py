"""Several registries beside each other: folders, git repositories, and the one that travels with this package.

A registry is a folder with models/<name>.json, or one that has it as registry/models/<name>.json. The first one that
has a name has the say about it. A git repository is read from a copy in the cache, which only `refresh` brings.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import config, git, resources
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.models import entry as entries
from modelhub_hpc.models.entry import Entry, Source, Version
from modelhub_hpc.processes import ended_folders, private_folder, remove_tree
from modelhub_hpc.runfolder import read_json, replace_json, storage

SHIPPED = "mh-hpc"  # what the registry of this package is called
_LISTED = ("registry/models", "models")
_MOST_BYTES = 64 << 20
_HEAD = "head.json"


@dataclass(frozen=True)
class Shelf:
    """A registry that can be read now. name: as its user gives it; folder: the one that has models/.

    origin: the registry's own place in git, with its commit; None for one that is a folder.
    """

    name: str
    folder: Path
    origin: Source | None = None

    def files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "models").glob("*.json") if path.is_file())


@dataclass(frozen=True)
class Found:
    """A model as a registry knows it. hidden: the later registries that have that name too."""

    entry: Entry
    shelf: Shelf
    path: Path
    hidden: tuple[str, ...] = ()

    def source(self, version: Version) -> Source:
        """Where the version's folder is. With repository None it is below the folder of the shelf."""
        own, registry = version.source, self.shelf.origin
        if own.repository or not registry:
            return own
        return dataclasses.replace(registry, folder=posixpath.normpath(f"{registry.folder}/{own.folder}"))


def shelves(site: SiteConfig, refresh: bool = False) -> list[Shelf]:
    """Those of the option `registries`, then the one of this package.

    refresh: bring copies of git repositories up to date, which needs the network. Raises InvalidError (no registry
    there, no copy yet) and what git.fetch raises.
    """
    return [*(_shelf(place, site, refresh) for place in site.registries), shipped()]


def shipped() -> Shelf:
    return Shelf(SHIPPED, resources.folder("registry"))


def everything(places: Sequence[Shelf]) -> tuple[list[Found], list[InvalidError]]:
    """All models by name, each from the first registry that has it; and what is wrong with files that are none."""
    having = dict[str, list[tuple[Shelf, Path]]]()
    for shelf in places:
        for path in shelf.files():
            having.setdefault(path.stem, []).append((shelf, path))
    found, flaws = list[Found](), list[InvalidError]()
    for name in sorted(having, key=str.lower):
        try:
            found.append(_found(having[name], entries.glance))
        except InvalidError as error:
            flaws.append(error)
    return found, flaws


def find(name: str, places: Sequence[Shelf]) -> Found:
    """The model of that name, its entry checked in full; InvalidError with near names if there is none."""
    having = [(shelf, path) for shelf in places for path in shelf.files() if path.stem == name]
    if not having:
        raise _unknown(name, places)
    return _found(having, entries.read)


def _found(having: Sequence[tuple[Shelf, Path]], read: Callable[[Path], Entry]) -> Found:
    """The model as the first of these has it. Where that one is wrong, no other stands in for it: InvalidError."""
    (shelf, path), *later = having
    entry = read(path)
    if entry.name != path.stem:
        raise InvalidError(
            f"{shown(path)} is an entry of '{shown(entry.name)}': the file must be called {shown(entry.name)}.json."
        )
    return Found(entry, shelf, path, tuple(each.name for each, _ in later))


def _unknown(name: str, places: Sequence[Shelf]) -> InvalidError:
    known = {path.stem.lower(): path.stem for shelf in places for path in shelf.files()}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    guess = f" Did you mean '{shown(known[near[0]])}'?" if near else ""
    looked = ", ".join(shown(shelf.name) for shelf in places)
    return InvalidError(
        f"No registry has a model '{shown(name)}'.{guess}\nSearched: {looked}. To see all:  mh-hpc models"
    )


def _shelf(place: str, site: SiteConfig, refresh: bool) -> Shelf:
    if not _is_git(place):
        return Shelf(place, root(Path(place)))
    address, _, branch = place.partition("#")
    home = config.cache_dir(site) / "registries" / hashlib.sha256(place.encode("utf-8")).hexdigest()[:24]
    if refresh:
        _fetch(address, branch, home)
    commit = str(read_json(home / _HEAD).get("commit"))
    if not (home / commit).is_dir():
        raise InvalidError(
            f"The registry {shown(place)} is not here yet. Fetch it, with the network:  mh-hpc models --refresh"
        )
    folder = root(home / commit)
    top = folder.relative_to(home / commit).as_posix()
    return Shelf(place, folder, Source(address, branch or None, commit, top))


def _is_git(place: str) -> bool:
    """Whether the place is the address of a git repository rather than a folder here."""
    return not place.startswith("/")  # which the configuration makes all folders start with


def root(place: Path) -> Path:
    """The folder of a registry, which has models/; InvalidError if the place is none."""
    for listed in _LISTED:
        if (place / listed).is_dir():
            return (place / listed).parent
    raise InvalidError(f"{shown(place)} is no registry: it has neither {' nor '.join(_LISTED)} with entries of models.")


def _fetch(address: str, branch: str, home: Path) -> None:
    """Bring the newest commit; who reads or fetches meanwhile is not disturbed."""
    with storage(home):
        home.mkdir(parents=True, exist_ok=True)
        work = private_folder(home, "fetch")
    try:
        with storage(work):
            (work / "git").mkdir()
        commit = git.fetch(address, branch, None, work / "git")
        git.export(work / "git", commit, _LISTED, work / commit, _MOST_BYTES)
        with storage(home):
            _move(work / commit, home / commit)
        before = read_json(home / _HEAD).get("commit", commit)
        replace_json(home / _HEAD, {"repository": address, "branch": branch, "commit": commit})
    finally:
        remove_tree(work)
    for old in (*ended_folders(home, "fetch"), *([home / str(before)] if before != commit else [])):
        remove_tree(old)


def _move(new: Path, place: Path) -> None:
    try:
        os.rename(new, place)
    except OSError:
        if not place.is_dir():  # else another process has brought the same
            raise
