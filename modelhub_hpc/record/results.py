"""The result of one case: the values that shards hold and everything else is derived from."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from modelhub_hpc import strictjson
from modelhub_hpc.runfolder import Json, dumps


_MOST_TABLES = 8


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


class LabelList(NamedTuple):
    """A long list of {"label", "probability"}: the labels of a model are the same for every case."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    def plain(self) -> Json:
        return [{"label": label, "probability": value} for label, value in zip(*self, strict=True)]


@dataclass(frozen=True)
class Output:
    """One output of a model for one case.

    Either `value` holds the prediction, or `dataset` says where the array is:
    "c000123.<attempt>.h5:/case/name", with its `dtype` as numpy writes it.
    """

    name: str
    type: str
    description: str
    shape: tuple[int, ...]
    value: Json | LabelList = None
    dataset: str | None = None
    dtype: str | None = None

    @property
    def prediction(self) -> Json:
        """The prediction as the model gave it."""
        return self.value.plain() if isinstance(self.value, LabelList) else self.value


class LabelTables:
    """The labels that stand in the head of a shard, so that its lines hold numbers only.

    There are a few at most: a model that sorts its labels has others for each case, and they stand in its line.
    """

    def __init__(self, tables: Iterable[Iterable[str]] = ()) -> None:
        self.tables = [tuple(table) for table in tables]
        self._numbers = {table: number for number, table in enumerate(self.tables)}

    def number(self, labels: tuple[str, ...]) -> int | None:
        """Of the table with these labels, which becomes one; None where there are enough without it."""
        if labels not in self._numbers and len(self.tables) < _MOST_TABLES:
            self._numbers[labels] = len(self.tables)
            self.tables.append(labels)
        return self._numbers.get(labels)


@dataclass(frozen=True)
class Cost:
    """What a case took beside time; None where it was not measured.

    peak_mb: most memory of the model's process while it computed the case, in MiB; gpu_peak_mb: of its GPUs, in MiB;
    gpu_energy_j: of its GPUs, in joules.
    """

    peak_mb: float | None = None
    gpu_peak_mb: float | None = None
    gpu_energy_j: float | None = None


UNMEASURED = Cost()


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
    cost: Cost = UNMEASURED

    def __post_init__(self) -> None:
        if (self.error is None) != (self.status == "done") or self.status not in ("done", "failed"):
            raise ValueError(f"case {self.case_id!r}: status {self.status!r} with error {self.error!r}")

    def to_json(self, tables: LabelTables) -> str:
        """One line; index and status lead it, so that counting needs no parsing. Its labels are put into the tables.

        Raises ValueError for numbers that JSON does not have.
        """
        error = None if self.error is None else vars(self.error)
        lead = {"index": self.index, "status": self.status}
        fields = {name: value for name, value in vars(self).items() if name not in ("outputs", "cost")}
        if self.cost != UNMEASURED:
            fields["cost"] = {name: value for name, value in vars(self.cost).items() if value is not None}
        outputs = ", ".join(_output_json(output, tables) for output in self.outputs)
        return f'{dumps({**lead, **fields, "error": error})[:-1]}, "outputs": [{outputs}]}}'

    @classmethod
    def from_json(cls, line: bytes, tables: LabelTables) -> CaseResult:
        """Raises ValueError, KeyError, IndexError or TypeError for anything that to_json() did not write."""
        fields: dict[str, Any] = strictjson.loads(line)
        fields["outputs"] = tuple(_output(each, tables) for each in fields["outputs"])
        fields["error"] = None if fields["error"] is None else CaseError(**fields["error"])
        fields["notes"] = tuple(fields["notes"])
        fields["cost"] = Cost(**fields["cost"]) if "cost" in fields else UNMEASURED
        return cls(**fields)


def _output_json(output: Output, tables: LabelTables) -> str:
    fields = {name: value for name, value in vars(output).items() if name != "value"}
    table = tables.number(output.value.labels) if isinstance(output.value, LabelList) else None
    if isinstance(output.value, LabelList) and table is not None:
        fields["table"] = table
        return f'{dumps(fields)[:-1]}, "probabilities": {strictjson.dumps(output.value.probabilities)}}}'
    return f'{dumps(fields)[:-1]}, "prediction": {strictjson.dumps(output.prediction)}}}'


def _output(fields: dict[str, Any], tables: LabelTables) -> Output:
    if "table" in fields:
        labels, probabilities = tables.tables[fields.pop("table")], tuple(fields.pop("probabilities"))
        if len(labels) != len(probabilities):
            raise ValueError("not as many probabilities as labels")
        value: Json | LabelList = LabelList(labels, probabilities)
    else:
        value = fields.pop("prediction")
    return Output(**{**fields, "shape": tuple(fields["shape"])}, value=value)
