"""Images in files: what `docker save` writes, and OCI layouts in a folder or an archive."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.origin import Blob, Kind, Origin
from modelhub_hpc.runfolder import storage
from modelhub_hpc.sources import manifests
from modelhub_hpc.sources.holders import Holder, opened
from modelhub_hpc.sources.layout import Layout
from modelhub_hpc.sources.manifests import Descriptor

Progress = Callable[[int, int], None]

_BLOCK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MOST_NESTED = 3


def kind_of(path: Path) -> Kind | None:
    """What an archive or a folder holds, by its content; None if it is no image. Raises InvalidError."""
    with opened(path) as holder:
        names = holder.names()
    layout: Kind = "oci" if path.is_dir() else "oci-archive"
    # new versions of Docker save both forms in one archive
    return "docker-archive" if "manifest.json" in names else layout if "index.json" in names else None


def resolve(source: str, kind: Kind, path: Path, name: str) -> Origin:
    """The image called `name` in the file or folder ("" for the only one). Raises InvalidError."""
    with opened(path) as holder:
        read = _saved if kind == "docker-archive" else _laid_out
        found = read(holder, name, shown(path))
    pinned = f"{kind}:{path.absolute()}{':' if name else ''}{name}@{found.digest}"
    return replace(found, source=source, pinned=pinned, kind=kind)


def extract(origin: Origin, path: Path, folder: Path, progress: Progress) -> str:
    """Copy the image's layers into a layout in the new `folder`, each compared with its digest.

    What `apptainer build` takes; progress in bytes. Raises InvalidError, TryAgainError or UnfitError.
    """
    assert origin.settings is not None
    layout, total, done = Layout(folder), sum(layer.size for layer in origin.files), 0
    with opened(path) as holder:
        settings = _read(holder, origin.settings, shown(path))
        for layer in sorted(origin.files, key=lambda each: holder.order(each.where)):
            with holder.open(layer.where) as stream:
                inflate = origin.kind == "docker-archive" and holder.head(layer.where).startswith(_GZIP)
                for position in _copy(stream, inflate, layer, layout.path(layer)):
                    progress(done + position, total)
            done += layer.size
    return layout.finish(settings, origin.layers)


def _copy(stream: IO[bytes], inflate: bool, layer: Blob, target: Path) -> Iterator[int]:
    """Copy a layer, decompressed where its digest is that of its content; how far it is in the stream."""
    content = cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if inflate else stream
    digest = hashlib.sha256()
    with storage(target, layer.size), open(target, "xb", buffering=0) as copy:
        while block := content.read(_BLOCK):
            digest.update(block)
            copy.write(block)
            yield stream.tell()
    if digest.hexdigest() != layer.hex:
        raise manifests.mismatch(f"The layer {shown(layer.where)}", layer.digest, digest.hexdigest())


def _saved(holder: Holder, name: str, what: str) -> Origin:
    """An image as `docker save` writes it; its digest is that of its configuration, Docker's image id."""
    entry = _chosen(_entries(holder, what), name, what)
    place, places = entry.get("Config"), entry.get("Layers")
    if not isinstance(place, str) or not isinstance(places, list) or not _are(str, places):
        raise InvalidError(f"The manifest.json in {what} does not name a configuration and layers.")
    data = _document(holder, place, what)
    contents = manifests.diff_ids(data, what)
    if len(contents) != len(places):
        raise InvalidError(
            f"{what} has {len(places)} layers, and its configuration tells of {len(contents)}."
        )
    layers = tuple(Blob(d, holder.size(w), w) for d, w in zip(contents, places, strict=True))
    if any(holder.head(layer.where) == _ZSTD for layer in layers):
        raise InvalidError(
            f"{what} has layers in zstd. Read it as an OCI archive instead: oci-archive:{what}"
        )
    settings = Blob(manifests.digest_of(data), len(data), place)
    return _origin(holder, settings.digest, settings, layers, what)


def _entries(holder: Holder, what: str) -> list[dict[str, Any]]:
    if "manifest.json" not in holder.names():
        raise InvalidError(f"{what} is not what `docker save` writes: it has no manifest.json.")
    try:
        entries = json.loads(_document(holder, "manifest.json", what))
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"The manifest.json in {what} is not valid JSON: {shown(error)}") from error
    if not _are(dict, entries):
        raise InvalidError(f"The manifest.json in {what} is not a list of images.")
    return cast(list[dict[str, Any]], entries)


def _chosen(entries: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    """The entry with that tag; without a name the only one."""
    wanted = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    found = [each for each in entries if wanted in _tags(each)] if name else entries
    if len(found) != 1:
        raise _which(name, [tag for each in entries for tag in _tags(each)], what)
    return found[0]


def _tags(entry: dict[str, Any]) -> list[str]:
    tags = entry.get("RepoTags")
    return tags if tags and _are(str, tags) else [""]


def _laid_out(holder: Holder, name: str, what: str) -> Origin:
    """An image of an OCI layout; its digest is that of its manifest."""
    if "index.json" not in holder.names():
        raise InvalidError(f"{what} is no OCI layout: it has no index.json.")
    index = manifests.parse(_document(holder, "index.json", what), f"The index.json in {what}")
    entry = manifests.choose(_named(manifests.descriptors(index, what), name, what), what)
    for _ in range(_MOST_NESTED):
        found = manifests.parse(_read(holder, _placed(entry.blob), what), f"{entry.blob.digest} in {what}")
        if not manifests.is_index(found):
            break
        entry = manifests.choose(manifests.descriptors(found, what), what)
    settings, layers = manifests.contents(found, what)
    return _origin(holder, entry.blob.digest, _placed(settings), tuple(map(_placed, layers)), what)


def _named(entries: list[Descriptor], name: str, what: str) -> list[Descriptor]:
    """The entries with that tag; without a name all of them, if they are one image."""
    found = [each for each in entries if each.tag == name] if name else entries
    if not found or len({each.tag for each in found}) > 1:
        raise _which(name, [each.tag for each in entries], what)
    return found


def _which(name: str, tags: list[str], what: str) -> InvalidError:
    listed = ", ".join(shown(tag) or "one without a name" for tag in tags) or "none"
    if name:
        return InvalidError(f"{what} holds no image called {shown(name)}; it holds: {listed}")
    return InvalidError(f"Which image of {what}? It holds: {listed}\nWrite :NAME at the end of the source.")


def _placed(blob: Blob) -> Blob:
    return replace(blob, where=f"blobs/sha256/{blob.hex}")


def _origin(holder: Holder, digest: str, settings: Blob, layers: tuple[Blob, ...], what: str) -> Origin:
    config = manifests.image_config(_read(holder, settings, what), what)
    for layer in layers:
        found = holder.size(layer.where)
        if found != layer.size:
            raise InvalidError(
                f"{what} is not whole: {layer.digest} has {found} bytes instead of {layer.size}."
            )
    compressed = any(holder.head(layer.where).startswith((_GZIP, _ZSTD)) for layer in layers)
    size = manifests.unpacked_bytes(layers, compressed)
    return Origin("", "", digest, config, size, settings=settings, layers=layers)


def _read(holder: Holder, blob: Blob, what: str) -> bytes:
    data = _document(holder, blob.where, what)
    return manifests.require_digest(data, blob.digest, f"{shown(blob.where)} in {what}")


def _document(holder: Holder, name: str, what: str) -> bytes:
    """A file that describes others, which is small."""
    if holder.size(name) > manifests.MOST_BYTES:
        raise InvalidError(
            f"{shown(name)} in {what} has {holder.size(name)} bytes, too many for what it should be."
        )
    with holder.open(name) as stream:
        return stream.read()


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(isinstance(each, kind) for each in values)
