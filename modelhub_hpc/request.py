"""run.json: what was asked for, resolved once; workers and later drivers read nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError, TryAgainError
from modelhub_hpc.images import Image
from modelhub_hpc.inputs import InputLimits
from modelhub_hpc.launch import SessionSpec
from modelhub_hpc.contribution import Contribution, InputSpec, Needs, OutputSpec
from modelhub_hpc.runfolder import Json, RunPaths, replace_json

FORMAT = 1


@dataclass(frozen=True)
class RunRequest:
    """One run. plan: sha256 of the manifest; roots: folders that the model may read; created: UTC, ISO 8601.

    repeats: the id of the run that this one repeats.
    """

    run_id: str
    created: str
    command: str
    software: str
    engine: str
    model: Contribution
    image: Image | None
    site: SiteConfig
    inputs: tuple[str, ...]
    roots: tuple[Path, ...]
    plan: str
    cases: int
    repeats: str | None = None

    def to_json(self) -> dict[str, Json]:
        plain = _plain({f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "site"})
        if self.repeats is None:
            del plain["repeats"]  # which earlier versions do not know
        return {"format": FORMAT, **plain, "site": config.to_json(self.site)}

    def session_spec(self, logs: Path | None, gpus: tuple[str, ...]) -> SessionSpec:
        """How this run's sessions are started on the machine where this is called."""
        path, interpreter = (self.image.path, self.image.interpreter) if self.image else (None, config.PYTHON)
        return SessionSpec.of(
            self.site, self.model, path, interpreter, roots=self.roots, gpus=gpus, logs=logs
        )

    def limits(self) -> InputLimits:
        return InputLimits(max_bytes=self.site.max_input_mb * 2**20, max_elements=self.site.max_elements)


@dataclass(frozen=True)
class Retry:
    """Failed cases of a chunk (rows of the manifest) to try again, and the generation of the shard to hold them."""

    chunk: int
    generation: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """What the next driver of a run is asked to do; it is the same when SLURM starts that driver anew.

    site: the options of now, which may differ from those the run was begun with.
    """

    site: SiteConfig
    retries: tuple[Retry, ...] = ()
    max_failures: int | None = None

    def write(self, paths: RunPaths) -> None:
        plain = _plain({"retries": self.retries, "max_failures": self.max_failures})
        replace_json(paths.order_json, {"format": FORMAT, **plain, "site": config.to_json(self.site)})


def read_order(paths: RunPaths) -> Order | None:
    """The last order that was given for a run; None if there was none."""
    try:
        data = json.loads(paths.order_json.read_bytes())
    except FileNotFoundError:
        return None
    retries = tuple(Retry(r["chunk"], r["generation"], tuple(r["rows"])) for r in data["retries"])
    return Order(config.from_json(data["site"]), retries, data["max_failures"])


def read(paths: RunPaths) -> RunRequest:
    """The request of a run folder; TryAgainError if the folder is not there, InvalidError if it is no run."""
    try:
        data = json.loads(paths.run_json.read_bytes())
    except FileNotFoundError:
        if not paths.root.is_dir():
            raise TryAgainError(f"There is no folder {paths.root} (moved, or not mounted here?).") from None
        raise InvalidError(f"{paths.root} is not a run folder: it has no run.json.") from None
    except ValueError as error:
        raise InvalidError(f"{paths.run_json} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise InvalidError(f"{paths.run_json} is damaged: it holds no object.")
    if data.pop("format", None) != FORMAT:
        raise InvalidError(
            f"{paths.run_json} was written by another version of mh-hpc ({data.get('software')})."
        )
    try:
        return _request(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidError(f"{paths.run_json} is damaged, or of another version of mh-hpc: {error!r}") from error


def _request(data: dict[str, Any]) -> RunRequest:
    image = data["image"]
    return RunRequest(
        **{
            **data,
            "model": _model(data["model"]),
            "image": Image(**{**image, "path": Path(image["path"])}) if image else None,
            "site": config.from_json(data["site"]),
            "inputs": tuple(data["inputs"]),
            "roots": tuple(Path(root) for root in data["roots"]),
        }
    )


def _model(data: Mapping[str, Any]) -> Contribution:
    inputs = tuple(
        InputSpec(i["key"], tuple(i["formats"]), tuple((a, b) for a, b in i["dim_limits"]), i["description"])
        for i in data["inputs"]
    )
    outputs = tuple(OutputSpec(**o) for o in data["outputs"])
    needs = data.get("needs", {})
    needs = Needs(**{**needs, "writable": tuple(needs.get("writable", ()))})
    places = {name: Path(data[name]) for name in ("path", "contrib_src")}
    return Contribution(**{**data, **places, "inputs": inputs, "outputs": outputs, "needs": needs})


def _plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
