"""Bring a model here: its contribution, the files that this lacks, its image; whole, or not at all.

Everything is put together in <cache_dir>/models/.work/<name>@<version>, where a later pull goes on with what an
interrupted one has left, and becomes <cache_dir>/models/<name>/<version> by one rename.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import __version__, contribution, convert, images, sources
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, UnfitError, UsageError, shown
from modelhub_hpc.images import Image, store
from modelhub_hpc.models import pulled, shelves
from modelhub_hpc.models.entry import File, Version
from modelhub_hpc.models.shelves import Found
from modelhub_hpc.processes import remove_tree
from modelhub_hpc.pulling import files, lock, source
from modelhub_hpc.pulling.lock import Lock, LockedFile, LockedImage
from modelhub_hpc.pulling.remote import Remote, download
from modelhub_hpc.runfolder import drop, link_first, replace_json, storage, sync_folder, write_synced

__all__ = ["Lock", "Pulled", "Terms", "pull"]

# what is going on, and how far it is: bytes done and in all, (0, 0) where nobody knows
Observer = Callable[[str, int, int], None]

_WORK, _REPLACED = ".work", "replaced"
_RECIPES = "modelhub-hpc/"  # how images are called that nobody publishes
_WITHOUT = "The model can be pulled without its image: --no-image."


@dataclass(frozen=True)
class Terms:
    """How to pull.

    folder: a clone or a plain contribution to take instead of the repository; image: the source of the image instead of
    the registry that its name says, with_image: False to leave it; again: also what is here already, to compare it;
    accept: take what has changed; https: False to allow servers that encrypt nothing.
    """

    folder: Path | None = None
    image: str | None = None
    with_image: bool = True
    again: bool = False
    accept: bool = False
    offline: bool = False
    https: bool = True


@dataclass(frozen=True)
class Pulled:
    """A model that is here. lock: None for one that travels with mh-hpc; image: None if left.

    new: brought just now; compared: fetched again, and found to have these changes; differs: the registry says other
    things of this version now than when it was pulled.
    """

    model: Contribution
    version: str
    lock: Lock | None
    image: Image | None
    new: bool
    compared: bool = False
    changes: tuple[str, ...] = ()
    differs: bool = False


def pull(found: Found, number: str | None, site: SiteConfig, terms: Terms, observe: Observer) -> Pulled:
    """Bring the model of that entry, by default its newest version, and its image; once, whoever asks.

    Raises InvalidError (not there, not as it was or should be, hostile), UsageError, UnfitError, or TryAgainError,
    after which the same call goes on where this one ended.
    """
    version = found.entry.version(number)
    if found.shelf.name == shelves.SHIPPED and version.source.repository is None and not terms.folder:
        model = contribution.read(found.shelf.folder / version.source.folder)
        image = _image(model, version, site, dataclasses.replace(terms, again=False, accept=False), observe)
        return Pulled(model, version.version, None, image, new=False)
    place = pulled.place(found.entry.name, version.version, site)
    work = pulled.folder(site) / _WORK / f"{found.entry.name}@{version.version}"
    with store.claim(f"model {place}", site, lambda who: observe(f"Waiting for {who}", 0, 0)):
        there = _locked(place, work)
        if there and not (terms.again or terms.accept):
            return _present(version, there, place, site, terms, observe)
        return _Pull(found, version, place, work, there, site, terms, observe).run()


def _locked(place: Path, work: Path) -> Lock | None:
    """The lock of the model that is here, or was until a pull was killed between two renames; None for none."""
    if not place.exists() and (work / _REPLACED).exists():
        with storage(place):
            os.rename(work / _REPLACED, place)
    if not place.exists():
        return None
    if not (place / pulled.LOCK).exists():
        raise InvalidError(f"{shown(place)} is in the way, and no pulled model: it has no {pulled.LOCK}. Remove it.")
    return lock.read(place)


def _present(
    version: Version, there: Lock, place: Path, site: SiteConfig, terms: Terms, observe: Observer
) -> Pulled:
    """A model that is here already, with its image, which an earlier pull may have left."""
    model = contribution.read(place)
    image = _image(model, version, site, terms, observe)
    if image and not there.image:
        there = dataclasses.replace(there, image=_locked_image(image))
        replace_json(place / pulled.LOCK, there.to_json())
    differs = not _agrees(version, there)
    return Pulled(model, version.version, there, image, new=False, differs=differs)


def _agrees(version: Version, there: Lock) -> bool:
    """Whether what the registry says of this version now is what was pulled."""
    here = {each.path: each.sha256 for each in there.files}
    commits = version.source.commit, there.commit
    return (None in commits or commits[0] == commits[1]) and all(
        each.sha256 in (None, here.get(each.path)) for each in version.files
    )


def _image(model: Contribution, version: Version, site: SiteConfig, terms: Terms, observe: Observer) -> Image | None:
    """The model's image, in the store under the name that the model has for it."""
    if not terms.with_image:
        return None
    made, digest = _is_made(version), version.image.digest
    if not terms.image and (made or not (terms.again or terms.accept)):
        try:
            image = images.find(model.image, site)
            if digest is None or image.is_pinned_by(digest):
                return image
        except InvalidError:
            pass  # it is not here yet
    if not terms.image and made:
        raise InvalidError(
            f"The image {shown(version.image.name)} is not here, and in no registry: it is made from a recipe of "
            f"mh-hpc.\nMake it (recipes/README.md), or name another source of it: --image SOURCE. {_WITHOUT}"
        )
    origin = terms.image or _origin(version)
    how = convert.Terms(offline=terms.offline, https=terms.https)
    try:
        return convert.convert(origin, model.image, site, how, observe).image
    except ModelHubError as error:
        kinds = (InvalidError, UnfitError, UsageError)
        kind = next((each for each in kinds if isinstance(error, each)), TryAgainError)
        raise kind(f"{error}\n{_WITHOUT} Another source of it: --image SOURCE") from error


def _is_made(version: Version) -> bool:
    """Whether the image is one that nobody publishes; whoever published that name would not be us."""
    return version.image.name.startswith(_RECIPES) and not version.image.digest


def _origin(version: Version) -> str:
    digest = version.image.digest
    return f"docker://{version.image.name}{f'@{digest}' if digest else ''}"


def _locked_image(image: Image) -> LockedImage:
    return LockedImage(image.name, _unpinned(store.recorded(image).source), image.digest, image.tree)


def _unpinned(origin: str) -> str:
    return origin.partition("@")[0]


@dataclass(frozen=True)
class _Pull:
    """One pull, by the only process that may."""

    found: Found
    version: Version
    place: Path
    work: Path
    before: Lock | None
    site: SiteConfig
    terms: Terms
    observe: Observer

    def run(self) -> Pulled:
        with storage(self.work):
            self._parts.mkdir(parents=True, exist_ok=True)
        for left in (self._tree, self.work / _REPLACED):
            remove_tree(left)
        taken = self._take()
        files.require_confined(self._tree)  # before anything of it is read
        wanted = files.needed(self._tree, contribution.read_init(self._tree), self.version.files)
        self._require_room(wanted)
        locked = tuple(self._obtain(each) for each in wanted)
        model = contribution.read(self._tree)
        now = self._lock(taken, locked)
        self._compare(dataclasses.replace(now, image=self._image_there(model)))
        image = _image(model, self.version, self.site, self.terms, self.observe)
        earlier = self.before.image if self.before else None
        now = dataclasses.replace(now, image=_locked_image(image) if image else earlier)
        changes = self._compare(now)
        if self.before and not changes:
            self._confirm(now)
        else:
            self._publish(now)
        again = self.before is not None
        return Pulled(contribution.read(self.place), now.version, now, image, not again, again, changes)

    def _image_there(self, model: Contribution) -> LockedImage | None:
        """The image that its registry has now, where that can be another one than was seen: not converted yet, which
        would give it the name of the other.
        """
        earlier = self.before and self.before.image
        if not (earlier and self.terms.with_image) or self.terms.image or _is_made(self.version):
            return None
        there = sources.resolve(_origin(self.version), offline=self.terms.offline, https=self.terms.https)
        return LockedImage(model.image, _unpinned(there.pinned), there.digest, "")

    @property
    def _tree(self) -> Path:
        return self.work / "tree"

    @property
    def _parts(self) -> Path:
        return self.work / "files"

    def _take(self) -> source.Taken:
        where, terms = self.found.source(self.version), self.terms
        if terms.offline and where.repository and not terms.folder:
            raise InvalidError(
                f"The model lies in {shown(where.repository)}, and --offline allows no network.\n"
                "Bring a clone of that, or a copy of its files, and name it: --from FOLDER"
            )
        self.observe(f"Fetching {terms.folder or where.repository or 'the contribution'}", 0, 0)
        return source.take(where, self.found.shelf.folder, terms.folder, terms.https, self.work, self._tree)

    def _require_room(self, wanted: Sequence[File]) -> None:
        need = sum(each.bytes or 0 for each in wanted)
        here = sum(path.stat().st_size for path in self._parts.iterdir())
        with storage(self.work):
            free = shutil.disk_usage(self.work).free
        if free < need - here:
            raise TryAgainError(
                f"The files of the model take {need / 1e6:,.1f} MB, {here / 1e6:,.1f} of them are here, and "
                f"{free / 1e6:,.1f} MB are free in {shown(self.work.parent.parent)}.\n"
                "Make room there, or choose another place: MH_HPC_CACHE_DIR=FOLDER"
            )

    def _obtain(self, file: File) -> LockedFile:
        """Put an external file into the tree: from the user's folder if it is there, else over the network."""
        files.require_no_links(self._tree, file.path)
        target = self._tree / file.path
        own = self._own(file)
        if own is None:
            kept = self._downloaded(file)
            with storage(target, file.bytes):
                target.parent.mkdir(parents=True, exist_ok=True)
                drop(target)
                link_first(kept, target)
        elif not _same(own, target):  # a plain folder is copied with all that is in it
            with storage(target, file.bytes):
                target.parent.mkdir(parents=True, exist_ok=True)
                drop(target)
                shutil.copyfile(own, target)
        return LockedFile(file.path, file.url, file_digest(target), target.stat().st_size)

    def _own(self, file: File) -> Path | None:
        """The file in the folder of --from, if it lies there and is the right one."""
        if self.terms.folder is None:
            return None
        given = source.root(self.found.source(self.version), self.terms.folder)
        path = given / file.path
        if not path.is_file():
            return None
        if not os.path.realpath(path).startswith(f"{os.path.realpath(given)}/"):
            raise InvalidError(f"{shown(path)} is a link that leaves that folder.")
        return path if file.sha256 in (None, file_digest(path)) else None

    def _downloaded(self, file: File) -> Path:
        if not file.url:
            raise InvalidError(
                f"The repository keeps {shown(file.path)} in Git LFS, from which nothing is fetched.\n"
                "Clone it with `git lfs pull`, and name that clone: --from FOLDER"
            )
        if self.terms.offline:
            raise InvalidError(
                f"{shown(file.path)} is missing, and --offline allows no network.\n"
                f"Download {shown(file.url)}\nto that place in a folder, and name it: --from FOLDER"
            )

        def told(done: int, total: int) -> None:
            self.observe(f"Fetching {file.path}", done, total)

        return download(Remote(file.url, file.sha256, file.bytes), self._parts, self.terms.https, told)

    def _lock(self, taken: source.Taken, locked: tuple[LockedFile, ...]) -> Lock:
        return Lock(
            name=self.found.entry.name,
            version=self.version.version,
            registry=self.found.shelf.name,
            origin=taken.origin,
            commit=taken.commit,
            source=source.digest(self._tree, {each.path: None for each in locked}),
            digest=source.digest(self._tree, {each.path: each.sha256 for each in locked}),
            files=locked,
            image=None,
            pulled=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            software=__version__,
        )

    def _compare(self, now: Lock) -> tuple[str, ...]:
        """In what this differs from what is here; InvalidError if the user does not accept that."""
        if self.before is None:
            return ()
        changes = list(lock.changes(self.before, now))
        if source.digest(self.place) != self.before.digest:
            changes.append("files were changed in the folder here since they were pulled")
        if changes and not self.terms.accept:
            listed = "\n".join(f"  {shown(change)}" for change in changes)
            raise InvalidError(
                f"{now.name} {now.version} is not what it was when it was pulled ({self.before.pulled}):\n{listed}\n"
                f"What is here stays: {shown(self.place)}\n"
                "A version should never change: ask who publishes it. To take the new state: --accept-changes"
            )
        return tuple(changes)

    def _confirm(self, now: Lock) -> None:
        """All is as it was: runs may be using it, and only what is told of it is renewed."""
        replace_json(self.place / pulled.ENTRY, self.found.entry.to_json())
        replace_json(self.place / pulled.LOCK, now.to_json())
        remove_tree(self.work)

    def _publish(self, now: Lock) -> None:
        tree, home = self._tree, self.place.parent
        with storage(self.place):
            write_synced(tree / pulled.ENTRY, _dumps(self.found.entry.to_json()))
            write_synced(tree / pulled.LOCK, _dumps(now.to_json()))
            _sync(tree)
            home.mkdir(parents=True, exist_ok=True)
            if self.before:
                os.rename(self.place, self.work / _REPLACED)
            os.rename(tree, self.place)
            sync_folder(home)
        remove_tree(self.work)


def _same(own: Path, target: Path) -> bool:
    return target.is_file() and not target.is_symlink() and file_digest(own) == file_digest(target)


def _dumps(value: object) -> bytes:
    return json.dumps(value, indent=1).encode("ascii") + b"\n"


def _sync(tree: Path) -> None:
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                with open(path, "rb") as stream:
                    os.fsync(stream.fileno())
        sync_folder(Path(folder))
