"""What goes over the pipe to a model and comes back; ARCHITECTURE.md has the table of messages."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import strictjson
from modelhub_hpc.model_output import ArrayFile, open_array
from modelhub_hpc.record import LabelList
from modelhub_hpc.runfolder import Json

PROTOCOL = 2
_MOST_MB = 2.0**30  # no machine has as much memory


@dataclass(frozen=True)
class Request:
    """One case for the model. inputs: (key, visible path) pairs; a single-input model has the key "single"."""

    id: str
    inputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RawOutput:
    """One output as the model gave it: a value, or an array still lying in the session's scratch folder."""

    name: str
    type: str
    description: str
    shape: tuple[int, ...]
    value: Json | LabelList
    array: ArrayFile | None

    @property
    def prediction(self) -> Json:
        """The value as the model gave it."""
        return self.value.plain() if isinstance(self.value, LabelList) else self.value


@dataclass(frozen=True)
class Reply:
    """The model's answer: outputs, or the error it raised (kind "model" or "output").

    asked: with how many cases it was to be computed together; batch: with how many it was, of whose time in the model
    `seconds` is its share; peak_mb: what the model's process needed meanwhile, in MiB, None where it could not tell.
    """

    id: str
    outputs: tuple[RawOutput, ...]
    seconds: float
    asked: int
    batch: int
    notes: tuple[str, ...]
    error: str | None
    kind: str
    traceback: str
    peak_mb: float | None = None


@dataclass(frozen=True)
class Ready:
    """What the engine said of itself once the model was loaded. batches: whether it computes several cases together."""

    python: str
    engine: str
    model_id: str
    model_name: str
    batches: bool


def predict_line(requests: Sequence[tuple[Request, str]]) -> bytes:
    """The message that asks for cases, together if the model can; with each the output_dir as the model sees it."""
    given = [{"id": each.id, "input": _input(each), "output_dir": output_dir} for each, output_dir in requests]
    return json.dumps({"type": "predict", "requests": given}).encode("ascii") + b"\n"


def _input(request: Request) -> str | dict[str, dict[str, str]]:
    inputs = dict(request.inputs)
    return inputs.get("single") or {key: {"fileurl": path} for key, path in inputs.items()}


def message(line: bytes) -> dict[str, Any]:
    """A message of the container; ValueError if the line is none."""
    fields = strictjson.loads(line)
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise ValueError("no object with a type")
    return fields


def ready(fields: Mapping[str, Any]) -> Ready:
    model = fields.get("model") or {}
    python, engine = str(fields.get("python")), str(fields.get("engine"))
    return Ready(python, engine, str(model.get("id")), str(model.get("name")), fields.get("batches") is True)


class Answers:
    """Reads the answers of one session: long label lists come without the labels that they had the last time."""

    def __init__(self) -> None:
        self._labels: dict[int, tuple[str, ...]] = {}  # by position of the output

    def reply(self, fields: Mapping[str, Any], folder: Path, asked: int) -> Reply:
        """The answer to a request, its arrays opened in `folder`. asked: as Reply has it.

        Raises ValueError, KeyError or TypeError for anything that is none.
        """
        failed = fields["type"] == "failed"
        outputs = () if failed else enumerate(fields["outputs"])
        return Reply(
            id=fields["id"],
            outputs=tuple(self._output(position, output, folder) for position, output in outputs),
            seconds=float(fields.get("seconds", 0.0)),
            asked=asked,
            batch=_batch(fields.get("batch", 1), asked),
            notes=tuple(str(n) for n in fields.get("notes", ())),
            error=str(fields["error"]) if failed else None,
            kind=str(fields.get("kind", "model")),
            traceback=str(fields.get("traceback", "")),
            peak_mb=_peak_mb(fields.get("peak_mb")),
        )

    def _output(self, position: int, output: Mapping[str, Any], folder: Path) -> RawOutput:
        array = open_array(folder, output["file"]) if "file" in output else None
        return RawOutput(
            name=str(output["name"]),
            type=str(output["type"]),
            description=str(output.get("description", "")),
            shape=tuple(int(n) for n in output["shape"]),
            value=None if array else self._value(position, output),
            array=array,
        )

    def _value(self, position: int, output: Mapping[str, Any]) -> Json | LabelList:
        if "probabilities" not in output:
            value: Json = output["prediction"]
            return value
        if "labels" in output:
            self._labels[position] = tuple(map(str, output["labels"]))
        labels, packed = self._labels[position], base64.b64decode(output["probabilities"], validate=True)
        if len(packed) != 8 * len(labels):
            raise ValueError("not as many probabilities as labels")
        probabilities = struct.unpack(f"<{len(labels)}d", packed)
        if not math.isfinite(sum(probabilities)):
            raise ValueError("a probability is no finite number")
        return LabelList(labels, probabilities)


def _batch(given: object, asked: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= asked:
        raise ValueError(f"batch is {str(given)[:40]}, and {asked} cases were asked for together")
    return given


def _peak_mb(given: object) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < _MOST_MB:
        raise ValueError(f"peak_mb is {str(given)[:40]}, which is no amount of memory")
    return float(given)
