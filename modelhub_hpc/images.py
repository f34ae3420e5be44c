"""The image store: find the SIF of a model, and convert one into the store.

A store is a folder of `<name>_<tag>_<digest>.sif` files, each with a JSON file beside it that says what it is.
Files appear whole and are never overwritten: apptainer truncates its target in place, which kills running models.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, apptainer, config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.digests import file_digest
from modelhub_hpc.runfolder import link_first, publish_json, storage, sync_folder


@dataclass(frozen=True)
class Image:
    """An image on this machine. sha256 of the SIF file in hex; interpreter: the Python of its start command."""

    name: str
    path: Path
    sha256: str
    bytes: int
    interpreter: str


def find(name: str, site: SiteConfig) -> Image:
    """The newest image of that name in the stores, libraries first, or a SIF file; InvalidError if absent.

    name: "repository/image:tag", or the path of a SIF file.
    """
    stores = [*site.library_dirs, _store(site)]
    for store in stores:
        found = [record for record in _records(store) if record["name"] == name]
        if found:
            return _checked(max(found, key=lambda record: str(record["created"])), store)
    if Path(name).is_file():
        return _describe(name, Path(name).absolute())
    raise InvalidError(
        f"The image '{name}' is not on this machine.\n"
        f"Searched: {', '.join(str(s) for s in stores)}\n"
        f"Convert it once:  mh-hpc convert docker-archive:FILE.tar --name {name}\n"
        "or name a SIF file: --image FILE.sif"
    )


def convert(source: str, name: str, site: SiteConfig) -> Image:
    """Convert a Docker image into the store, as this user and whole or not at all.

    source: anything `apptainer build` takes, e.g. docker-archive:FILE. Raises InvalidError with apptainer's reason.
    """
    store = _store(site)
    with storage(store):
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=store) as folder:
            part = Path(folder) / "image.sif"
            apptainer.build(part, source, Path(folder))
            return _publish(_describe(name, part), store, source)


def _store(site: SiteConfig) -> Path:
    return config.cache_dir(site) / "images"


def _publish(image: Image, store: Path, source: str) -> Image:
    """Move the built file under its final name, then its record: only the record makes it count."""
    stem = f"{image.name.replace('/', '-').replace(':', '_')}_{image.sha256[:12]}"
    final = dataclasses.replace(image, path=store / f"{stem}.sif")
    with open(image.path, "rb+") as stream:
        os.fsync(stream.fileno())
    image.path.chmod(0o644)
    link_first(image.path, final.path)
    sync_folder(store)
    facts = {
        "source": source,
        "created": _now(),
        "apptainer": apptainer.version(),
        "modelhub_hpc": __version__,
    }
    publish_json(store / f"{stem}.json", {**dataclasses.asdict(final), "path": final.path.name, **facts})
    return final


def _describe(name: str, path: Path) -> Image:
    argv = apptainer.start_argv(path)
    interpreter = argv[0] if argv and Path(argv[0]).name.startswith("python") else "python3"
    return Image(name, path, file_digest(path), path.stat().st_size, interpreter)


def _records(store: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(store.glob("*.json")):
        yield json.loads(path.read_bytes())


def _checked(record: dict[str, Any], store: Path) -> Image:
    path = store / record["path"]
    size = path.stat().st_size if path.is_file() else None
    if size != record["bytes"]:
        raise InvalidError(
            f"The image file {path} is damaged: {size} bytes instead of {record['bytes']}.\n"
            "Remove it and its .json file, and convert the image again."
        )
    return Image(record["name"], path, record["sha256"], record["bytes"], record["interpreter"])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
