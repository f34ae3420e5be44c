"""What a store says of its images: a JSON record beside each SIF, published last, which makes the image count.

Several records (other names, one source) may name the same SIF. Nothing is ever overwritten: apptainer truncates
its target in place, which kills running models.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.images.image import Image, distinct_stem, file_stem, parse
from modelhub_hpc.runfolder import publish_json, storage

FORMAT = 1
ENDING = ".json"
CERTIFICATE_ENDING = ".certificate.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A record, read. source: what was converted; created: UTC, ISO 8601; certified: None where nobody tried."""

    image: Image
    record: Path
    source: str = ""
    created: str = ""
    certified: bool | None = None

    @property
    def certificate(self) -> Path:
        return self.record.with_name(self.record.name.removesuffix(ENDING) + CERTIFICATE_ENDING)

    @property
    def is_there(self) -> bool:
        """Whether the SIF is there, which a record alone does not say."""
        return self.image.path.is_file()


def folder(site: SiteConfig) -> Path:
    """The store that this user writes to."""
    return config.cache_dir(site) / "images"


def stores(site: SiteConfig) -> list[Path]:
    """Libraries first, as they are searched. One may be a folder of images, or a cache that somebody else fills."""
    libraries = [each / "images" if (each / "images").is_dir() else each for each in site.library_dirs]
    return [*libraries, folder(site)]


def entries(site: SiteConfig) -> list[Entry]:
    """All records in the order in which stores are searched, newest first within each."""
    return [entry for store in stores(site) for entry in entries_of(store)]


def entries_of(store: Path) -> list[Entry]:
    found = [entry for path in _records(store) if (entry := read(path))]
    return sorted(found, key=lambda entry: (entry.created, entry.record.name), reverse=True)


def read(record: Path) -> Entry | None:
    """None, with a warning, for what is no record of an image."""
    try:
        return parsed(record.read_bytes(), record)
    except (OSError, InvalidError) as error:
        _log.warning("not counted: %s", error)
        return None


def parsed(data: bytes, record: Path) -> Entry:
    """What the text of a record says. Raises InvalidError."""
    try:
        facts = json.loads(data)
        told = {f.name: facts[f.name] for f in dataclasses.fields(Image) if f.name in facts}
        image = Image(**{**told, "path": record.parent / facts["path"]})
        _require_sense(image)
        certified = facts.get("certified")
        source, created = str(facts.get("source", "")), str(facts.get("created", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise InvalidError(f"{shown(record)} is no record of an image ({error!r})") from error
    return Entry(image, record, source, created, certified if isinstance(certified, bool) else None)


def read_certificate(entry: Entry) -> dict[str, Any] | None:
    try:
        found = json.loads(entry.certificate.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write(
    image: Image, source: str, certificate: Mapping[str, Any] | None, store: Path, created: str = ""
) -> Image:
    """Record an image: the certificate first, then what makes it count. Who was first stays, and is returned.

    Raises TryAgainError or UnfitError if the storage fails.
    """
    place = image.path.name if image.path.parent == store else str(image.path)
    facts = {"format": FORMAT, **dataclasses.asdict(image), "path": place, "source": source}
    facts |= {"created": created or now(), "modelhub_hpc": __version__}
    if certificate is not None:
        facts["certified"] = certificate.get("certified") is True
    with storage(store):
        store.mkdir(parents=True, exist_ok=True)
    for stem in (file_stem(image.name, image.sha256), distinct_stem(image.name, image.sha256)):
        record = store / f"{stem}{ENDING}"
        if certificate is not None and not record.exists():
            publish_json(store / f"{stem}{CERTIFICATE_ENDING}", dict(certificate))
        if publish_json(record, facts):
            return image
        first = read(record)
        if first and (first.image.name, first.image.sha256) == (image.name, image.sha256):
            return first.image
    raise InvalidError(f"{shown(record)} is damaged: remove it, and run the same command again.")


def now() -> str:
    """UTC, ISO 8601, precise enough to tell two conversions of one name apart."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"


def _records(store: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(store))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name in names:
        if name.endswith(ENDING) and not name.endswith(CERTIFICATE_ENDING) and not name.startswith("."):
            yield store / name


def _require_sense(image: Image) -> None:
    for field in dataclasses.fields(Image):
        kind = {"path": Path, "bytes": int}.get(field.name, str)
        if not isinstance(getattr(image, field.name), kind):
            raise TypeError(f"{field.name} is no {kind.__name__}")
    if "\0" in str(image.path):
        raise ValueError("no path")
    parse(image.name)
