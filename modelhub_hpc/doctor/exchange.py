"""What the doctor and its job on a node tell each other: JSON files in one folder, each written once."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modelhub_hpc import runfolder

ASKED = "asked.json"
LOG = "job.log"
FOLDER_MODE, FILE_MODE = 0o700, 0o600
# seconds between two looks into the folder
LOOK_S = 0.1


@dataclass(frozen=True)
class Place:
    """Where a port is open; interface: the network interface that has this address, "" if the address was looked up."""

    address: str
    port: int
    interface: str = ""


@dataclass(frozen=True)
class Knock:
    """A try to connect. trouble: "" if that worked; ahead_s: the other's clock, give or take within_s."""

    place: Place
    trouble: str = ""
    ahead_s: float = 0.0
    within_s: float = 0.0


@dataclass(frozen=True)
class Asked:
    """From the doctor, before its job is submitted. token: what whoever answers at its ports says."""

    token: str
    places: list[Place]
    controller: str
    site: dict[str, Any]
    image: str | None
    python: str
    version: str


@dataclass(frozen=True)
class Met:
    """From the node, once it has found what was asked. troubles: what is not as it should be, by what it concerns."""

    node: str
    user: str
    python: str
    executable: str
    version: str
    token: str
    places: list[Place]
    troubles: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """From the doctor as soon as it has seen the above."""

    time: float


@dataclass(frozen=True)
class Tried:
    """From the doctor: the node's ports are not needed any more."""


@dataclass(frozen=True)
class Talk:
    """From the node. round_trip_s: how long it took until the answer to Met was seen; None if it never was."""

    round_trip_s: float | None
    ahead_s: float
    knocks: list[Knock]


@dataclass(frozen=True)
class Devices:
    """The job's CUDA_VISIBLE_DEVICES, and the GPUs that nvidia-smi shows it; None where there is no such thing."""

    visible: str | None
    listed: list[str] | None


@dataclass(frozen=True)
class Found:
    """From the node, at the end: what a look at it as at any machine gave."""

    devices: Devices
    checks: list[dict[str, Any]] = field(default_factory=list)


T = TypeVar("T", Asked, Met, Answer, Tried, Talk, Found)


def put(folder: Path, value: Asked | Met | Answer | Tried | Talk | Found) -> Path:
    """Show a value to the other side, whole. Raises TryAgainError or UnfitError."""
    path = path_of(folder, type(value))
    part = path.with_name(f".{path.name}")
    with runfolder.storage(path):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(runfolder.dumps(dataclasses.asdict(value)))
        os.rename(part, path)
    return path


def get(folder: Path, kind: type[T]) -> T | None:
    """A value that the other side has written; None if it is not seen here, or not yet."""
    try:
        # NFS remembers for a while that a file was missing; whoever lists the folder asks its server again
        os.listdir(folder)
        values = json.loads(path_of(folder, kind).read_bytes())
    except FileNotFoundError:
        return None
    return _made(kind, values)


def wait_for(folder: Path, kind: type[T], seconds: float) -> T | None:
    """The same, once it is there."""
    end = time.monotonic() + seconds
    while (found := get(folder, kind)) is None and time.monotonic() < end:
        time.sleep(LOOK_S)
    return found


def path_of(folder: Path, kind: type[Any]) -> Path:
    return folder / f"{kind.__name__.lower()}.json"


def _made(kind: type[T], values: dict[str, Any]) -> T:
    if "places" in values:
        values["places"] = [Place(**each) for each in values["places"]]
    if "knocks" in values:
        values["knocks"] = [Knock(**{**each, "place": Place(**each["place"])}) for each in values["knocks"]]
    if "devices" in values:
        values["devices"] = Devices(**values["devices"])
    return kind(**values)
