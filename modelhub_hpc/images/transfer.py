"""Move images to a site without network: as a folder of files, with a list of checksums that sha256sum reads, too.

A bundle comes from anywhere. Nothing of it counts before every checksum was right, and its files get the names that
this store gives them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from modelhub_hpc import sif
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.images import integrity, records, store, work
from modelhub_hpc.images.image import Image, file_stem
from modelhub_hpc.images.records import CERTIFICATE_ENDING, ENDING, Entry
from modelhub_hpc.processes import remove_tree
from modelhub_hpc.runfolder import PART, dumps, storage, sync_folder, token, write_synced

SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._-]{0,250})")
_LARGEST_TEXT = 64 * 2**20
_BLOCK = 2**20


@dataclass(frozen=True)
class Imported:
    """An image of a bundle; new: whether it was not in this user's store before."""

    image: Image
    new: bool


def export(names: Sequence[str], target: Path, site: SiteConfig) -> list[Image]:
    """Write images, with their records and certificates, to the new folder `target`, whole or not at all.

    Raises InvalidError for an image that is not there or damaged, UsageError if the folder exists.
    """
    if os.path.lexists(target):
        raise UsageError(f"{shown(target)} exists already. Name a new folder.")
    images = list(
        {image.sha256 + image.name: image for image in (store.find(n, site) for n in names)}.values()
    )
    part = target.with_name(f".{target.name[:100]}.{token()}{PART}")
    with storage(target, sum(image.bytes for image in images)):
        part.mkdir(parents=True)
        try:
            _write_bundle(images, part)
            os.rename(part, target)
            sync_folder(target.parent)
        finally:
            remove_tree(part)
    return images


def import_(bundle: Path, site: SiteConfig) -> list[Imported]:
    """Take all images of a bundle into this user's store, or none.

    Raises InvalidError, with both sums, for a bundle that is damaged or no bundle; TryAgainError without room.
    """
    sums = _sums(bundle)
    parcels = [_parcel(bundle, name, sums) for name in sums if _is_record(name)]
    if not parcels:
        raise InvalidError(f"{shown(bundle)} holds no image: {SUMS} names no record of one.")
    _require_no_strangers(bundle, sums, parcels)
    there = {(e.image.sha256, e.image.name): e.image for e in records.entries_of(records.folder(site))}
    wanted = [each for each in parcels if each.key not in there]
    with work.workspace(site, sum({each.image.path: each.image.bytes for each in wanted}.values())) as folder:
        copies = {path: _copied(path, sums, folder) for path in {each.image.path for each in wanted}}
        made = {each.key: _publish(each, copies[each.image.path], site) for each in wanted}
    return [Imported(made.get(each.key) or there[each.key], each.key in made) for each in parcels]


@dataclass(frozen=True)
class _Parcel:
    """One image of a bundle, whose texts had the right sums."""

    entry: Entry
    certificate: dict[str, Any] | None

    @property
    def image(self) -> Image:
        return self.entry.image

    @property
    def key(self) -> tuple[str, str]:
        return self.image.sha256, self.image.name


def _write_bundle(images: Sequence[Image], folder: Path) -> None:
    sums: dict[str, str] = {}
    for number, image in enumerate(images):
        file = f"{image.sha256}.sif"
        if file not in sums:
            sums[file] = _copy(image.path, folder / file)
        if sums[file] != image.sha256:
            integrity.verify(image)  # which says it with both digests
            raise InvalidError(f"{shown(image.path)} changed while it was copied.")
        for name, value in _texts(image, file, f"{file_stem(image.name, image.sha256)}-{number}"):
            data = f"{dumps(value, indent=2)}\n".encode("ascii")
            write_synced(folder / name, data)
            sums[name] = hashlib.sha256(data).hexdigest()
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    write_synced(folder / SUMS, lines.encode("ascii"))


def _texts(image: Image, file: str, stem: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The record and the certificate of an image, by file name."""
    entry, certificate = store.recorded(image), store.certificate(image)
    facts = {"format": records.FORMAT, **dataclasses.asdict(image), "path": file}
    yield f"{stem}{ENDING}", {**facts, "source": entry.source, "created": entry.created or records.now()}
    if certificate is not None:
        yield f"{stem}{CERTIFICATE_ENDING}", certificate


def _sums(bundle: Path) -> dict[str, str]:
    """File name -> sha256. Names without folders only, so that nothing outside of the bundle is meant."""
    found = {}
    for line in _text(bundle, SUMS).decode("ascii", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if not match or match[2] in found:
            raise InvalidError(
                f"{shown(bundle / SUMS)} has a line that is no checksum of a file: {shown(line[:200])}"
            )
        found[match[2]] = match[1]
    return found


def _is_record(name: str) -> bool:
    return name.endswith(ENDING) and not name.endswith(CERTIFICATE_ENDING)


def _parcel(bundle: Path, name: str, sums: Mapping[str, str]) -> _Parcel:
    entry = records.parsed(_summed(bundle, name, sums), bundle / name)
    file = entry.image.path
    if file.parent != bundle or sums.get(file.name) != entry.image.sha256:
        raise InvalidError(
            f"{shown(bundle / name)} speaks of {shown(file.name)}, of which {SUMS} says otherwise."
        )
    with _opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
    if size != entry.image.bytes:
        raise InvalidError(f"{shown(file)} has {size} bytes instead of {entry.image.bytes}.")
    return _Parcel(entry, _certificate(bundle, entry.certificate.name, sums))


def _certificate(bundle: Path, name: str, sums: Mapping[str, str]) -> dict[str, Any] | None:
    if name not in sums:
        return None
    try:
        found = json.loads(_summed(bundle, name, sums))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidError(f"{shown(bundle / name)} is no certificate.")
    return found


def _require_no_strangers(bundle: Path, sums: Mapping[str, str], parcels: Sequence[_Parcel]) -> None:
    entries = [each.entry for each in parcels]
    named = {path.name for e in entries for path in (e.record, e.certificate, e.image.path)}
    if strangers := sorted(set(sums) - named):
        raise InvalidError(f"{shown(bundle / SUMS)} names {strangers[0]}, which belongs to no image.")


def _summed(bundle: Path, name: str, sums: Mapping[str, str]) -> bytes:
    data = _text(bundle, name)
    _require_sum(bundle / name, sums[name], hashlib.sha256(data).hexdigest())
    return data


def _copied(path: Path, sums: Mapping[str, str], folder: Path) -> Path:
    copy = folder / path.name
    with storage(folder):
        digest = _copy(path, copy)
    _require_sum(path, sums[path.name], digest)
    sif.read(copy)
    return copy


def _publish(parcel: _Parcel, copy: Path, site: SiteConfig) -> Image:
    entry, target = parcel.entry, records.folder(site)
    same = [
        e.image.path
        for e in records.entries_of(target)
        if e.image.sha256 == entry.image.sha256 and e.is_there
    ]
    image = dataclasses.replace(entry.image, path=same[0] if same else copy)
    if same:
        return records.write(image, entry.source, parcel.certificate, target, entry.created)
    return store.publish(image, parcel.certificate, site, origin=entry.source, created=entry.created)


def _text(bundle: Path, name: str) -> bytes:
    with _opened(bundle / name) as stream:
        data = stream.read(_LARGEST_TEXT + 1)
    if len(data) > _LARGEST_TEXT:
        raise InvalidError(f"{shown(bundle / name)} has more than {_LARGEST_TEXT // 2**20} MiB.")
    return data


def _opened(path: Path) -> IO[bytes]:
    """A plain file of a bundle, never a link or a device. Raises InvalidError."""
    try:
        stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise InvalidError(
            f"{shown(path)} cannot be read: {error.strerror}. Is {shown(path.parent)} a bundle?"
        ) from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise InvalidError(f"{shown(path)} is not a plain file.")
    return stream


def _copy(source: Path, target: Path) -> str:
    """Copy a file and sync it; the sha256 of what was written."""
    digest = hashlib.sha256()
    with _opened(source) as stream, open(target, "xb") as copy:
        while block := stream.read(_BLOCK):
            digest.update(block)
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()


def _require_sum(path: Path, wanted: str, found: str) -> None:
    if found != wanted:
        raise InvalidError(
            f"{shown(path)} is damaged, so nothing was imported.\nexpected: sha256 {wanted}\nfound:    sha256 {found}\n"
            "Copy the bundle again from where it was made."
        )
