"""An entry of a registry: what is known of a model without having it. The rules are registry/schema.json."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelhub_hpc import resources, schemas
from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.models.pulled import precedence
from modelhub_hpc.schemas import Problem

# The fields below have the names, the order and the meaning that registry/schema.json gives them


@dataclass(frozen=True)
class Limit:
    min: int | None
    max: int | None


@dataclass(frozen=True)
class Input:
    key: str | None
    mime: tuple[str, ...]
    dim_limits: tuple[Limit, ...]
    description: str | None


@dataclass(frozen=True)
class Output:
    """axes: order of the array's axes, slowest first, such as "z,y,x"; None if unknown or no image."""

    name: str
    type: Literal["label_list", "contour", "vector", "mask_image", "heatmap", "image", "custom"]
    description: str | None
    axes: str | None
    labels: Mapping[str, str] | None


@dataclass(frozen=True)
class IO:
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Gpu:
    uses: bool
    required: bool
    cuda: str | None
    newest_arch: str | None


@dataclass(frozen=True)
class Licence:
    model: str | None
    sample_data: str | None


@dataclass(frozen=True)
class Reference:
    title: str
    authors: tuple[str, ...] | None
    year: int | None
    source: str | None
    url: str | None
    doi: str | None
    arxiv: str | None
    bibtex: str | None


@dataclass(frozen=True)
class Accuracy:
    metric: str
    dataset: str
    reported: float | None
    reproduced: float | None
    cases: int | None
    source: str | None


@dataclass(frozen=True)
class Resources:
    seconds_per_case: float | None
    memory_mb: float | None
    gpu_memory_mb: float | None
    hardware: str | None


@dataclass(frozen=True)
class Quirks:
    """writable: absolute folders in the container that the model writes to; network: why it needs one."""

    writable: tuple[str, ...]
    network: str | None
    sample_data_written: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """repository: a git URL; None if the folder lies in the registry itself. folder: relative, "." is the top."""

    repository: str | None
    branch: str | None
    commit: str | None
    folder: str


@dataclass(frozen=True)
class Image:
    name: str
    digest: str | None
    base: str | None
    holds: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """An external file; `path` is relative to the contribution's folder and stays below its contrib_src."""

    url: str
    path: str
    sha256: str | None
    bytes: int | None


@dataclass(frozen=True)
class Version:
    version: str
    source: Source
    image: Image
    files: tuple[File, ...]


@dataclass(frozen=True)
class Entry:
    schema: int
    id: str
    name: str
    title: str
    description: str
    task: str
    task_extended: str
    application_area: str
    data_type: str
    modality: str | None
    backend: tuple[str, ...]
    format: str | None
    python: str | None
    config_form: Literal["flat", "nested"] | None
    io: IO
    gpu: Gpu
    licence: Licence | None
    reference: Reference | None
    accuracy: tuple[Accuracy, ...]
    resources: Resources
    quirks: Quirks
    versions: tuple[Version, ...]

    @property
    def newest(self) -> Version:
        """The newest version; one before a release ("2.0.0-rc.1") only where there is no other."""
        released = [v for v in self.versions if "-" not in v.version.partition("+")[0]]
        return max(released or self.versions, key=lambda v: precedence(v.version))

    def version(self, number: str | None = None) -> Version:
        """The version of that number, by default the newest; InvalidError names those that there are."""
        if number is None:
            return self.newest
        for version in self.versions:
            if version.version == number:
                return version
        known = ", ".join(v.version for v in self.versions)
        raise InvalidError(f"Model '{shown(self.name)}' has no version {shown(number)}. It has: {known}.")

    def to_json(self) -> dict[str, Any]:
        """What `parse` takes."""
        return dataclasses.asdict(self)


def read(path: Path) -> Entry:
    """The entry in a file; InvalidError with every problem."""
    return parse(schemas.load(path), path)


def glance(path: Path) -> Entry:
    """The same for listings, a hundred times faster: types are checked, and no further rules."""
    data = schemas.load(path)
    try:
        entry: Entry = _build(Entry, data)
    except (TypeError, KeyError):
        return parse(data, path)  # which says what is wrong
    return entry


def parse(data: Any, where: object) -> Entry:
    """The entry that the data is; InvalidError with every problem. where: the file, for messages."""
    found = problems(data)
    if found:
        lines = "\n".join(f"  {shown(problem)}" for problem in found)
        raise InvalidError(f"{shown(where)} is no entry of a registry:\n{lines}")
    entry: Entry = _build(Entry, data)
    return entry


def problems(data: Any) -> list[Problem]:
    """Everything that is wrong with an entry: against the schema, else against what a schema cannot say."""
    return schemas.problems(data, schema()) or list(_beyond_the_schema(data))


@functools.cache
def schema() -> schemas.Schema:
    rules: schemas.Schema = json.loads((resources.folder("registry") / "schema.json").read_bytes())
    return rules


def _beyond_the_schema(data: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _versions(data["versions"])
    for i, version in enumerate(data["versions"]):
        yield from _files(f"versions[{i}].files", version["files"])
        source = version["source"]
        if source["repository"] is None and (source["branch"] or source["commit"]):
            yield Problem(f"versions[{i}].source.repository", "is null, but there is a branch or commit", "Name it.")
    yield from _inputs(data["io"]["inputs"])


def _versions(versions: Sequence[Any]) -> Iterator[Problem]:
    numbers = [version["version"] for version in versions]
    for i, number in enumerate(numbers):
        if number in numbers[:i]:
            yield Problem(f"versions[{i}].version", f"{number} comes twice", "Give each version its own number.")
        elif i and precedence(number) < precedence(numbers[i - 1]):
            yield Problem(f"versions[{i}].version", f"{number} comes after {numbers[i - 1]}", "Put the oldest first.")


def _files(where: str, files: Sequence[Any]) -> Iterator[Problem]:
    paths = [file["path"] for file in files]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            yield Problem(f"{where}[{i}].path", f"{json.dumps(path)} comes twice", "Name each file once.")


def _inputs(inputs: Sequence[Any]) -> Iterator[Problem]:
    keys = [each["key"] for each in inputs]
    for i, key in enumerate(keys):
        if len(keys) > 1 and (key is None or key in keys[:i]):
            yield Problem(f"io.inputs[{i}].key", "does not tell this input from another", "Give each its own name.")
        for j, limit in enumerate(inputs[i]["dim_limits"]):
            if None not in limit.values() and limit["min"] > limit["max"]:
                yield Problem(f"io.inputs[{i}].dim_limits[{j}]", "min is more than max", "Exchange them.")


def _build(kind: Any, value: Any) -> Any:
    """The JSON value as the type `kind`, a dataclass or what its fields are; TypeError or KeyError if it is no such."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # always of one type and None
        return None if value is None else _build(arguments[0], value)
    if origin is tuple:
        return tuple(_build(arguments[0], each) for each in _of(list, value))
    if origin is Literal:
        return _of(str, value)
    if origin is collections.abc.Mapping:
        return {name: _build(arguments[1], each) for name, each in _of(dict, value).items()}
    if fields := _fields(kind):
        return kind(**{name: _build(hint, _of(dict, value)[name]) for name, hint in fields.items()})
    return _of(kind, value)


def _of(kind: Any, value: Any) -> Any:
    if type(value) not in ((float, int) if kind is float else (kind,)):  # True is no number here
        raise TypeError
    return value


@functools.cache
def _fields(kind: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
