"""A contribution: a model in ModelHub's template, as a folder; what it takes and gives."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelhub_hpc.digests import tree_digest
from modelhub_hpc.errors import InvalidError

# where the engine, the model and the system are
_NOT_WRITABLE = ("", "framework", "contrib_src", "input", "proc", "sys", "dev")
_AXES = re.compile("[nczyx](,[nczyx])*")


@dataclass(frozen=True)
class InputSpec:
    """One input of a model; `key` is "single" for a model with one input.

    dim_limits: (min, max) per dimension of the raw image in ModelHub's order: (channels or z, y, x).
    """

    key: str
    formats: tuple[str, ...]
    dim_limits: tuple[tuple[int | None, int | None], ...]
    description: str


@dataclass(frozen=True)
class OutputSpec:
    """One output of a model.

    axes: what the axes of its array are, such as "z,y,x" (as SimpleITK gives arrays), "x,y,z" (as nibabel does)
    or "c,z,y,x"; "" where that is not known. labels: what the numbers of a mask, or the places of a label list, mean.
    """

    name: str
    type: str
    description: str
    axes: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        names = self.axes.split(",")
        if self.axes and not (_AXES.fullmatch(self.axes) and len(set(names)) == len(names)):
            raise InvalidError(f"""
                Output {self.name!r}: {self.axes!r} is no order of axes. Write the letters x, y, z, c (channel) and
                n (batch) with commas between, first the slowest: 'z,y,x'.""")


@dataclass(frozen=True)
class Needs:
    """What a model needs beyond what all models have, as its registry entry says.

    writable: absolute folders in the container that it writes to; network: why it needs one, "" if it does not;
    gpu: whether it runs on a GPU only.
    """

    writable: tuple[str, ...] = ()
    network: str = ""
    gpu: bool = False

    def __post_init__(self) -> None:
        for folder in self.writable:
            top = posixpath.normpath(folder).split("/")[1:2]
            if not folder.startswith("/") or "/.." in folder or not folder.isprintable() or top[0] in _NOT_WRITABLE:
                raise InvalidError(f"{folder!r} is no folder that a model may be given to write to (quirks.writable).")


@dataclass(frozen=True)
class Contribution:
    """A model that can be run: its folder and the image it needs."""

    name: str
    id: str
    version: str
    path: Path
    contrib_src: Path
    image: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    seconds_per_case: float | None
    digest: str
    needs: Needs = Needs()

    @property
    def single(self) -> bool:
        """Whether a case is one file rather than several named ones."""
        return len(self.inputs) == 1 and self.inputs[0].key == "single"


def read(path: Path) -> Contribution:
    """Read a contribution folder in ModelHub's template (init/init.json, contrib_src/model/config.json)."""
    config = _json(path / "contrib_src/model/config.json")
    init = read_init(path)
    # what the registry knows of a model that was pulled, whose config.json stays as published
    entry = _json(path / "entry.json") if (path / "entry.json").exists() else None
    try:
        io = config["model"]["io"]
        modelhub = config.get("modelhub", {})
        return Contribution(
            name=str(config["meta"]["name"]),
            id=str(config["id"]),
            version=str(_version_of_lock(path / "lock.json") or modelhub.get("version", "0")),
            path=path,
            contrib_src=path / "contrib_src",
            image=str(init["docker_id"]),
            inputs=_inputs(io["input"]),
            outputs=_outputs(io["output"], _outputs_of_entry(entry)),
            seconds_per_case=modelhub.get("seconds_per_case"),
            digest=tree_digest(path / "contrib_src"),
            needs=_needs_of_entry(entry),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidError(f"{path}: config.json or init.json lacks a required part: {error!r}") from error


def read_init(path: Path) -> dict[str, Any]:
    """The init.json of a contribution folder: docker_id, external_contrib_files."""
    return _json(path / "init/init.json")


def file_place(given: str) -> str | None:
    """Where a dest_file_path of init.json lies in a contribution's folder: contrib_src/...; None if anywhere else.

    >>> file_place("/contrib_src/model/a.h5"), file_place("contrib_src/model/a.h5/")
    ('contrib_src/model/a.h5', 'contrib_src/model/a.h5')
    >>> file_place("contrib_src/../../a"), file_place("/etc/passwd"), file_place("contrib_src")
    (None, None, None)
    """
    path = given.strip("/")
    parts = path.split("/")
    plain = path.isprintable() and "\\" not in path and not {"", ".", ".."} & set(parts)
    return path if plain and len(parts) > 1 and parts[0] == "contrib_src" else None


def _inputs(given: Mapping[str, Any]) -> tuple[InputSpec, ...]:
    """Both forms of config.json: flat (format and dim_limits at the top) and nested (an object per input)."""
    named = [_input(key, value) for key, value in given.items() if isinstance(value, dict)]
    return tuple(named or [_input("single", given)])


def _input(key: str, given: Mapping[str, Any]) -> InputSpec:
    limits = tuple((limit.get("min"), limit.get("max")) for limit in given.get("dim_limits", ()))
    return InputSpec(key, tuple(given.get("format", ())), limits, str(given.get("description", "")))


def _outputs(given: Sequence[Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]) -> tuple[OutputSpec, ...]:
    """known: outputs of the registry entry by name; what they say counts more than config.json."""
    return tuple(_output(o, known.get(o["name"], {})) for o in given)


def _output(given: Mapping[str, Any], known: Mapping[str, Any]) -> OutputSpec:
    axes, labels = (known.get(name) or given.get(name) for name in ("axes", "labels"))
    return OutputSpec(given["name"], given["type"], given.get("description", ""), axes or "", dict(labels or {}))


def _outputs_of_entry(entry: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {output["name"]: output for output in entry["io"]["outputs"]} if entry else {}


def _needs_of_entry(entry: Mapping[str, Any] | None) -> Needs:
    if entry is None:
        return Needs()
    quirks = entry["quirks"]
    return Needs(tuple(quirks["writable"]), quirks["network"] or "", entry["gpu"]["required"])


def _version_of_lock(path: Path) -> Any:
    """The version of a model that was pulled; None for others."""
    return _json(path).get("version") if path.exists() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidError(
            f"{path} cannot be read: {error.strerror}. Is this a ModelHub contribution?"
        ) from error
    except ValueError as error:
        raise InvalidError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidError(f"{path} must hold a JSON object")
    return data
