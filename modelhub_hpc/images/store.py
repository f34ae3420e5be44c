"""The image store: find an image, keep a new one, remove one; and what a conversion needs meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelhub_hpc import apptainer, sif
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, UnfitError, UsageError, shown
from modelhub_hpc.images import records
from modelhub_hpc.images.image import Image, ImageName, file_stem, parse
from modelhub_hpc.images.integrity import known_digest
from modelhub_hpc.images.records import Entry, entries, entries_of, folder, stores
from modelhub_hpc.images.work import blobs, claim, workspace
from modelhub_hpc.runfolder import drop, link_first, storage, sync_folder

__all__ = ["alias", "blobs", "certificate", "claim", "find", "find_digest", "publish", "remove", "workspace"]

_PATH = ("/", "./", "../")


def find(name: str, site: SiteConfig) -> Image:
    """The image of that name: libraries first, the newest of a store; or a SIF file.

    name: NAME[:TAG][@sha256:...], or the path of a SIF file. Without a tag it is latest, else the only one
    there is. A pin is the digest of the source, of the file tree or of the SIF. Raises InvalidError if there is
    none, if it is not the pinned one, or if its file is damaged or for another architecture.
    """
    if name.startswith(_PATH):
        return _file(Path(name).absolute())
    wanted = _reference(name)
    named = [each for each in _named(wanted, entries(site)) if each.is_there]
    chosen = _pinned(wanted, named)
    if chosen:
        return _usable(chosen[0].image)
    if named:
        raise _pinned_otherwise(name, named)
    if Path(name).is_file():
        return _file(Path(name).absolute())
    raise _absent(name, wanted, site)


def find_digest(digest: str, site: SiteConfig) -> Image | None:
    """The image that was converted from a source of this digest, whatever its name; None if there is none."""
    for entry in entries(site) if digest else ():
        if entry.image.digest == digest and _size(entry.image.path) == entry.image.bytes:
            return entry.image
    return None


def recorded(image: Image) -> Entry:
    """How its store records an image; for a SIF file outside of any store, what can be said of it."""
    own = [each for each in entries_of(image.path.parent) if each.image.path == image.path]
    own.sort(key=lambda each: each.image.name != image.name)
    alone = Entry(image, image.path.with_name(f"{image.path.name}{records.ENDING}"), str(image.path))
    return own[0] if own else alone


def certificate(image: Image) -> dict[str, Any] | None:
    """What the certificate beside an image of a store says; None without one."""
    return records.read_certificate(recorded(image))


def publish(
    image: Image,
    certificate: Mapping[str, Any] | None,
    site: SiteConfig,
    *,
    origin: str = "",
    created: str = "",
) -> Image:
    """Give the finished SIF at image.path, in a workspace of this store, its place; the image as it counts now.

    origin: what it was made from, default what the certificate says; created: default now. Raises TryAgainError or
    UnfitError if the storage fails; then nothing counts.
    """
    store = folder(site)
    final = store / f"{file_stem(image.name, image.sha256)}.sif"
    with storage(store, image.bytes):
        image.path.chmod(0o444)
        with open(image.path, "rb") as stream:
            os.fsync(stream.fileno())
        if not link_first(image.path, final) and file_digest(final) != image.sha256:
            raise InvalidError(f"{shown(final)} is damaged and in the way. Remove it, and try again.")
        sync_folder(store)
    named = dataclasses.replace(image, path=final, name=parse(image.name).full)
    return records.write(named, origin or _source(certificate), certificate, store, created)


def alias(image: Image, name: str, site: SiteConfig) -> Image:
    """Record an image of a store under another name too; its file stays where it is."""
    named = parse(name).full
    for each in entries(site):
        if each.image.path == image.path and each.image.name == named:
            return each.image
    renamed = dataclasses.replace(image, name=named)
    return records.write(renamed, recorded(image).source, certificate(image), folder(site))


def mark_used(image: Image, site: SiteConfig) -> None:
    """Remember that the image is in use, for `mh-hpc images gc --unused-for`: the time of its records."""
    for entry in entries_of(folder(site)):
        if entry.image.path == image.path:
            with contextlib.suppress(OSError):  # another user's, or on a disk that is read-only
                os.utime(entry.record)


def remove(name: str, site: SiteConfig) -> list[Path]:
    """Remove all images of that name, or that one file, from this user's store; the files that went.

    Models that run from them go on. Raises InvalidError if there is none, UnfitError if only a library has it.
    """
    wanted, own = parse(name), entries_of(folder(site))
    by_path = [each for each in own if str(each.image.path) == os.path.abspath(name)]
    chosen = by_path or _pinned(wanted, _named(wanted, own))
    if not chosen:
        image = find(name, site)
        raise UnfitError(
            f"{shown(image.path)} is not in this user's image store, {shown(folder(site))}, and stays."
        )
    return [path for entry in chosen for path in forget(entry)]


def forget(entry: Entry) -> list[Path]:
    """Remove a record, and the SIF beside it that no other record names; the files that went."""
    store, file = entry.record.parent, entry.image.path
    gone = [entry.record, entry.certificate]
    if file.parent == store and not any(
        each.image.path == file for each in entries_of(store) if each.record != entry.record
    ):
        gone.append(file)
    gone = [path for path in gone if path.exists()]
    for path in gone:  # the record first: without it nothing counts
        drop(path)
    return gone


def _reference(name: str) -> ImageName:
    try:
        return parse(name)
    except UsageError:
        if Path(name).is_file():
            return ImageName(name)
        raise


def _named(wanted: ImageName, known: list[Entry]) -> list[Entry]:
    """Those with the wanted repository and tag; any tag will do for a pin, and one that is the only one."""
    family = [each for each in known if parse(each.image.name).repository == wanted.repository]
    exact = [each for each in family if parse(each.image.name).full == wanted.full]
    if wanted.tag or (exact and not wanted.pin):
        return exact
    only = len({each.image.name for each in family}) == 1
    return family if wanted.pin or only else []


def _pinned(wanted: ImageName, named: list[Entry]) -> list[Entry]:
    return [each for each in named if not wanted.pin or each.image.is_pinned_by(wanted.pin)]


def _usable(image: Image) -> Image:
    size = _size(image.path)
    if size != image.bytes:
        raise InvalidError(
            f"The image file {shown(image.path)} is damaged: {size} bytes instead of {image.bytes}.\n"
            f"Remove it and convert the image again:  mh-hpc images rm {shown(image.name)}"
        )
    sif.require_architecture(sif.read(image.path))
    return image


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _file(path: Path) -> Image:
    """A SIF file by its path: as its store records it, else as it describes itself."""
    if not path.is_file():
        raise InvalidError(f"There is no file {shown(path)}.")
    for entry in entries_of(path.parent):
        if entry.image.path == path:
            return _usable(entry.image)
    contents = sif.read(path)
    sif.require_architecture(contents)
    image = Image(str(path), path, known_digest(path), path.stat().st_size, "")
    return _as_certified(image, contents) or dataclasses.replace(image, interpreter=_interpreter(path))


def _as_certified(image: Image, contents: sif.Sif) -> Image | None:
    """What the certificate inside a SIF says of it; None without one that can be read."""
    try:
        found = json.loads(contents.embedded(sif.CERTIFICATE) or b"")
        audit, digest, tree = found["audit"], str(found["origin"]["digest"]), str(found["tree"])
        interpreter, cwd, python = (str(audit[name]) for name in ("interpreter", "cwd", "python"))
    except (ValueError, KeyError, TypeError):
        return None
    facts = dataclasses.replace(image, digest=digest, tree=tree, cwd=cwd, python=python)
    return dataclasses.replace(facts, interpreter=interpreter) if interpreter else None


def _interpreter(path: Path) -> str:
    argv = apptainer.start_argv(path)
    return argv[0] if argv and Path(argv[0]).name.startswith("python") else "python3"


def _source(certificate: Mapping[str, Any] | None) -> str:
    origin = (certificate or {}).get("origin")
    return str(origin.get("pinned", "")) if isinstance(origin, Mapping) else ""


def _pinned_otherwise(name: str, named: list[Entry]) -> InvalidError:
    there = [f"  {e.image.digest or 'no digest known'} (SIF sha256:{e.image.sha256})" for e in named]
    return InvalidError(
        "The image on this machine is not the one that is asked for.\n"
        f"asked for: {shown(name)}\nthere is:\n"
        + "\n".join(there)
        + "\nConvert the wanted one from its digest, or leave the digest out."
    )


def _absent(name: str, wanted: ImageName, site: SiteConfig) -> InvalidError:
    family = {e.image.name for e in entries(site) if parse(e.image.name).repository == wanted.repository}
    there = f" There is: {', '.join(map(shown, sorted(family)))}." if family else ""
    return InvalidError(
        f"The image '{shown(name)}' is not on this machine.{there}\n"
        f"Searched: {', '.join(shown(store) for store in stores(site))}\n"
        f"Convert it once:  mh-hpc convert SOURCE --name {shown(name)}\n"
        "or name a SIF file: --image FILE.sif"
    )
