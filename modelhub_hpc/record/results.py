"""The result of one case: the values that shards hold and everything else is derived from."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelhub_hpc import strictjson
from modelhub_hpc.runfolder import Json, dumps


class FailureKind(str, enum.Enum):
    """Why a case failed."""

    INPUT = "input"  # the file was refused before the model saw it, or changed after planning
    MODEL = "model"  # the model raised an error
    OUTPUT = "output"  # the model returned something that cannot be stored
    CRASH = "crash"  # the model's process died on this case, twice
    TIMEOUT = "timeout"  # the case took longer than its limit, twice
    MEMORY = "memory"  # the model's process was killed for its memory


@dataclass(frozen=True)
class CaseError:
    """kind: a FailureKind or its value; message: one line; evidence: traceback, stderr, signal, log path.

    Raises ValueError for an unknown kind.
    """

    kind: str
    message: str
    evidence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FailureKind(self.kind).value)


@dataclass(frozen=True)
class Output:
    """One output of a model for one case.

    Either `prediction` holds the JSON value, or `dataset` says where the array is:
    "c000123.<attempt>.h5:/case/name", with its `dtype` as numpy writes it.
    """

    name: str
    type: str
    description: str
    shape: tuple[int, ...]
    prediction: Json = None
    dataset: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    index: row in the manifest, from 0; seconds: time in the model; started: seconds since 1970, UTC.
    """

    case_id: str
    index: int
    status: Literal["done", "failed"]
    outputs: tuple[Output, ...]
    seconds: float
    attempts: int
    error: CaseError | None
    notes: tuple[str, ...]
    host: str
    started: float

    def __post_init__(self) -> None:
        if (self.error is None) != (self.status == "done") or self.status not in ("done", "failed"):
            raise ValueError(f"case {self.case_id!r}: status {self.status!r} with error {self.error!r}")

    def to_json(self) -> str:
        """One line; index and status lead it, so that counting needs no parsing.

        Raises ValueError for numbers that JSON does not have.
        """
        error = None if self.error is None else vars(self.error)
        lead = {"index": self.index, "status": self.status}
        fields = {name: value for name, value in vars(self).items() if name != "outputs"}
        outputs = ", ".join(map(_output_json, self.outputs))
        return f'{dumps({**lead, **fields, "error": error})[:-1]}, "outputs": [{outputs}]}}'

    @classmethod
    def from_json(cls, line: bytes) -> CaseResult:
        """Raises ValueError, KeyError or TypeError for anything that to_json() did not write."""
        fields: dict[str, Any] = strictjson.loads(line)
        fields["outputs"] = tuple(_output(each) for each in fields["outputs"])
        fields["error"] = None if fields["error"] is None else CaseError(**fields["error"])
        fields["notes"] = tuple(fields["notes"])
        return cls(**fields)


def _output_json(output: Output) -> str:
    # the prediction may be long, and is most of the line
    fields = {name: value for name, value in vars(output).items() if name != "prediction"}
    return f'{dumps(fields)[:-1]}, "prediction": {strictjson.dumps(output.prediction)}}}'


def _output(fields: Mapping[str, Any]) -> Output:
    return Output(**{**fields, "shape": tuple(fields["shape"])})
