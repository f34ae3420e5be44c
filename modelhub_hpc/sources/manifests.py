"""Read what Docker and OCI write about an image: indexes, manifests, configurations. All of it is untrusted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.origin import Blob, ImageConfig
from modelhub_hpc.platforms import Platform, this_machine

Json = dict[str, Any]

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYER = re.compile(r"application/vnd\.(oci\.image\.layer|docker\.image\.rootfs)\..*tar([+.](gzip|zstd))?")

MOST_BYTES = 8 * 2**20  # of one such document; OCI asks registries for 4 MiB at least
_LARGEST = 2**50
_GROWTH = 3  # of a compressed layer, once unpacked


@dataclass(frozen=True)
class Descriptor:
    """An entry of an index: a manifest, or another index, by its digest. tag: its name in a layout."""

    media_type: str
    blob: Blob
    platform: Platform
    tag: str = ""


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def require_digest(data: bytes, digest: str, what: str) -> bytes:
    """The data itself; InvalidError if they are not what the digest says."""
    found = hashlib.sha256(data).hexdigest()
    if f"sha256:{found}" != digest:
        raise mismatch(what, digest, found)
    return data


def mismatch(what: str, digest: str, found: str) -> InvalidError:
    """What to say of content that is not what its digest says; found: sha256 in hex."""
    return InvalidError(
        f"{what} is damaged or was changed:\nit should be {digest}\nand it is     sha256:{found}"
    )


def parse(data: bytes, what: str) -> Json:
    """A JSON object. Raises InvalidError naming `what`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{what} is not valid JSON: {shown(error)}") from error
    if not isinstance(value, dict):
        raise InvalidError(f"{what} is not a JSON object, but a {type(value).__name__}.")
    return value


def is_index(document: Json) -> bool:
    """Whether it lists manifests rather than layers; the media type may be missing."""
    return "manifests" in document and "layers" not in document


def descriptors(index: Json, what: str) -> list[Descriptor]:
    """The manifests of an index, without the attestations that builders put beside them."""
    found = [_descriptor(entry, what) for entry in _objects(index.get("manifests"), what)]
    return [each for each in found if each.platform.os != "unknown"]


def choose(entries: Sequence[Descriptor], what: str, machine: Platform | None = None) -> Descriptor:
    """The entry for this machine: linux, its architecture, and of several variants the first that all have.

    Raises InvalidError that names the platforms there are.
    """
    here = machine or this_machine()
    fitting = [each for each in entries if here.runs(each.platform)]
    if not fitting:
        there = ", ".join(dict.fromkeys(str(each.platform) for each in entries)) or "nothing"
        raise InvalidError(
            f"{what} is not for this machine: it has only {shown(there)}; this machine is {here}."
        )
    # on arm every variant includes those below it; elsewhere a higher one may ask for what this processor lacks
    best = max if here.architecture == "arm" else min
    return best(fitting, key=lambda each: each.platform.variant)


def contents(manifest: Json, what: str) -> tuple[Blob, tuple[Blob, ...]]:
    """The configuration and the layers of an image. Raises InvalidError for what is no image of Docker's or OCI's."""
    if manifest.get("schemaVersion") == 1 or "fsLayers" in manifest:
        raise InvalidError(
            f"{what} has a manifest of Docker's schema 1, which names no configuration and was given up in 2017.\n"
            "Pull and push it again with a current Docker, and convert that."
        )
    settings = _objects([manifest.get("config")], what)[0]
    layers = _objects(manifest.get("layers"), what)
    if settings.get("mediaType") not in _CONFIGS:
        raise InvalidError(f"{what} is not a container image, but {shown(settings.get('mediaType'))}.")
    for layer in layers:
        if not _LAYER.fullmatch(str(layer.get("mediaType"))):
            raise InvalidError(
                f"{what} has a layer that Apptainer cannot read: {shown(layer.get('mediaType'))}."
            )
    return _blob(settings, what), tuple(_blob(layer, what) for layer in layers)


def unpacked_bytes(layers: Iterable[Blob], compressed: bool) -> int:
    """Roughly what the layers take once unpacked."""
    return sum(layer.size for layer in layers) * (_GROWTH if compressed else 1)


def image_config(data: bytes, what: str) -> ImageConfig:
    """How Docker would start the image. Raises InvalidError if it is not for this machine."""
    document = parse(data, f"The configuration of {what}")
    config = document.get("config") or {}
    try:
        found = ImageConfig(
            entrypoint=_words(config.get("Entrypoint")),
            cmd=_words(config.get("Cmd")),
            working_dir=_text(config.get("WorkingDir")),
            user=_text(config.get("User")),
            env=_words(config.get("Env")),
            ports=tuple(_names(config.get("ExposedPorts"))),
            volumes=tuple(_names(config.get("Volumes"))),
            architecture=_text(document.get("architecture")),
            os=_text(document.get("os")) or "linux",
            labels={name: _text(value) for name, value in _names(config.get("Labels")).items()},
        )
    except (AttributeError, TypeError) as error:
        raise InvalidError(f"The configuration of {what} has not the form of an image's: {error}") from error
    _require_fitting(found, _text(document.get("variant")), what)
    return found


def diff_ids(data: bytes, what: str) -> tuple[str, ...]:
    """The digests of the layers before they were compressed, as the configuration has them."""
    rootfs = parse(data, f"The configuration of {what}").get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(
        isinstance(each, str) and DIGEST.fullmatch(each) for each in found
    ):
        raise InvalidError(
            f"The configuration of {what} does not say which layers belong to it (rootfs.diff_ids)."
        )
    return tuple(found)


def _require_fitting(config: ImageConfig, variant: str, what: str) -> None:
    image, here = Platform(config.os, config.architecture, variant), this_machine()
    if not here.runs(image):
        raise InvalidError(f"{what} is for {shown(image)}; this machine is {here}.")


def _descriptor(entry: Json, what: str) -> Descriptor:
    on, notes = entry.get("platform"), entry.get("annotations")
    said = on if isinstance(on, dict) else {}
    found = Platform(*(_plain(said.get(key)) for key in ("os", "architecture", "variant")))
    tag = notes.get("org.opencontainers.image.ref.name") if isinstance(notes, dict) else None
    return Descriptor(_plain(entry.get("mediaType")), _blob(entry, what), found, _plain(tag))


def _blob(entry: Json, what: str) -> Blob:
    digest, size = entry.get("digest"), entry.get("size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise InvalidError(f"{what} names a part by {shown(digest)}, and not by a sha256 digest.")
    if not isinstance(size, int) or not 0 <= size <= _LARGEST:
        raise InvalidError(f"{what} says that {digest} has {shown(size)} bytes.")
    return Blob(digest, size)


def _objects(value: object, what: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidError(f"{what} has no manifest of an image.")
    return value


def _words(value: object) -> tuple[str, ...]:
    """A list of words, or a shell command as very old builders wrote it."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | None):
        raise TypeError(f"{value!r:.80} is no list")
    return tuple(map(_text, value or ()))


def _text(value: object) -> str:
    if not isinstance(value, str | None):
        raise TypeError(f"{value!r:.80} is no text")
    return value or ""


def _names(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict | None):
        raise TypeError(f"{value!r:.80} is no table")
    return value or {}


def _plain(value: object) -> str:
    return value if isinstance(value, str) else ""
