"""What was seen when a model was pulled: the next pull of that version must see the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.models.pulled import LOCK

FORMAT = 1


@dataclass(frozen=True)
class LockedFile:
    """An external file. bytes: its size; sha256: as it was seen, whoever had said it before."""

    path: str
    url: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class LockedImage:
    """source: what it was converted from, without a digest; digest: that of this source; tree: that of its files."""

    name: str
    source: str
    digest: str
    tree: str


@dataclass(frozen=True)
class Lock:
    """One pull. registry, origin: where the entry and the contribution came from; commit: None for a plain folder;
    source: digest of the contribution without its external files; digest: with them; pulled: UTC, ISO 8601.
    """

    name: str
    version: str
    registry: str
    origin: str
    commit: str | None
    source: str
    digest: str
    files: tuple[LockedFile, ...]
    image: LockedImage | None
    pulled: str
    software: str

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


def read(folder: Path) -> Lock:
    """The lock of a pulled model; InvalidError if it cannot be read."""
    path = folder / LOCK
    try:
        data = json.loads(path.read_bytes())
        if data.pop("format") != FORMAT:
            raise ValueError("written by another version of mh-hpc")
        files = tuple(LockedFile(**each) for each in data.pop("files"))
        image = data.pop("image")
        return Lock(**data, files=files, image=LockedImage(**image) if image else None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidError(
            f"{shown(path)} cannot be read: {shown(error)}\nRemove the folder {shown(folder)} and pull the model again."
        ) from error


def changes(before: Lock, now: Lock) -> Iterator[str]:
    """In what two pulls of one version differ, a line each."""
    if before.source != now.source:
        yield f"the contribution: {_state(before)} -> {_state(now)}"
    old, new = ({each.path: each for each in lock.files} for lock in (before, now))
    for path in sorted(set(old) | set(new)):
        sums = [files[path].sha256 if path in files else "none" for files in (old, new)]
        if sums[0] != sums[1]:
            yield f"{path}: sha256 {sums[0]} -> {sums[1]}"
    then, since = before.image, now.image
    if then and since and then.source == since.source and then.digest != since.digest:
        yield f"the image {since.source}: {then.digest} -> {since.digest}"


def _state(lock: Lock) -> str:
    return f"commit {lock.commit}" if lock.commit else f"sha256 {lock.source}"
