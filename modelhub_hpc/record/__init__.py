"""Everything a run leaves on disk: names, shards, results; here the tables and the record derived from them.

A case is done if and only if a complete, verified shard holds it.
"""

from __future__ import annotations

import csv
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path

import numpy as np

from modelhub_hpc.plan.manifest import Case, column_of
from modelhub_hpc.record.hdf5 import ArrayOutput, check_storable
from modelhub_hpc.record.makers import Maker, makers, stages
from modelhub_hpc.record.results import (
    UNMEASURED,
    CaseError,
    CaseResult,
    Cost,
    FailureKind,
    LabelList,
    Output,
)
from modelhub_hpc.record.shards import Shard, ShardInvalid, ShardWriter, maker, read_shard
from modelhub_hpc.record.state import State, iter_results, load_array, load_grid, load_volume, scan, sweep_orphans
from modelhub_hpc.record.volumes import Volume, volume
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.runfolder import Json, RunPaths, dumps, publish_json, publish_text, replace_json, replacing

__all__ = [
    "ArrayOutput",
    "CaseError",
    "CaseResult",
    "Cost",
    "Count",
    "FailureKind",
    "LabelList",
    "Maker",
    "Output",
    "RunFacts",
    "RunPaths",
    "SecondsStats",
    "Shard",
    "ShardInvalid",
    "ShardWriter",
    "State",
    "Tally",
    "UNMEASURED",
    "Volume",
    "build_record",
    "check_storable",
    "iter_results",
    "load_array",
    "load_grid",
    "load_volume",
    "maker",
    "makers",
    "publish_json",
    "publish_text",
    "read_shard",
    "replace_json",
    "scan",
    "sweep_orphans",
    "volume",
    "write_failures_csv",
    "write_results_csv",
]

RECORD_FORMAT = 1
_COSTS = tuple(each.name for each in fields(Cost))
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run apart from its results.

    versions: (software, version); site: the options in force; started, ended: seconds since 1970, UTC;
    stopped: why cases are missing, None for a complete run; exit_code: that of its last driver; workers: who
    computed; jobs: the SLURM jobs that were submitted for it, with what they used where SLURM keeps accounts.
    """

    run_id: str
    model_id: str
    model_name: str
    model_version: str
    model_digest: str
    image: str | None
    image_digest: str | None
    versions: tuple[tuple[str, str], ...]
    command: str
    site: Mapping[str, Json]
    started: float
    ended: float
    stopped: str | None = None
    exit_code: int = 0
    workers: tuple[Maker, ...] = ()
    jobs: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True)
class SecondsStats:
    """Seconds in the model per done case."""

    total: float
    mean: float
    median: float
    p95: float
    longest: float


@dataclass(frozen=True)
class CostStats:
    """One figure of Cost over the cases of which it was measured, failed ones too; total: None for peaks of memory."""

    cases: int
    mean: float
    median: float
    max: float
    total: float | None


@dataclass(frozen=True)
class Tally:
    """Counts over the results of a run.

    seconds: None if no case is done; cost: what was measured, by the name that Cost has for it.
    """

    cases: int
    done: int
    failed: int
    retried: int
    failures: Mapping[str, int]
    hosts: tuple[str, ...]
    seconds: SecondsStats | None
    cost: Mapping[str, CostStats] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        return self.cases - self.done - self.failed


class Count:
    """Counts results as they pass by; cases: rows of the manifest."""

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self._seconds = array("d")
        self._cost = {name: array("d") for name in _COSTS}
        self._failures: Counter[str] = Counter()
        self._hosts: set[str] = set()
        self._retried = 0

    def passing(self, results: Iterable[CaseResult]) -> Iterator[CaseResult]:
        """The same results, counted."""
        for result in results:
            self._hosts.add(result.host)
            self._retried += result.attempts > 1
            for name, value in vars(result.cost).items() if result.cost is not UNMEASURED else ():
                if value is not None:
                    self._cost[name].append(value)
            if result.error is None:
                self._seconds.append(result.seconds)
            else:
                self._failures[result.error.kind] += 1
            yield result

    def tally(self) -> Tally:
        return Tally(
            self._cases,
            len(self._seconds),
            self._failures.total(),
            self._retried,
            dict(sorted(self._failures.items())),
            tuple(sorted(self._hosts)),
            _stats(self._seconds),
            {name: _cost_stats(name, values) for name, values in self._cost.items() if values},
        )


def _stats(seconds: Sequence[float]) -> SecondsStats | None:
    if not seconds:
        return None
    median, p95 = np.percentile(seconds, (50, 95))
    total = float(np.sum(seconds))
    return SecondsStats(total, total / len(seconds), float(median), float(p95), max(seconds))


def _cost_stats(name: str, values: Sequence[float]) -> CostStats:
    mean, median = float(np.mean(values)), float(np.median(values))
    return CostStats(len(values), mean, median, max(values), None if name.endswith("_mb") else float(np.sum(values)))


def build_record(facts: RunFacts, counts: Tally) -> dict[str, Json]:
    """The content of record.json: what ran, on what, with what outcome.  Touches nothing else."""
    return {
        "format": RECORD_FORMAT,
        "run_id": facts.run_id,
        "command": facts.command,
        "started": _utc(facts.started),
        "ended": _utc(facts.ended),
        "ended_s": facts.ended,
        "stopped": facts.stopped,
        "exit_code": facts.exit_code,
        "model": {
            "id": facts.model_id,
            "name": facts.model_name,
            "version": facts.model_version,
            "digest": facts.model_digest,
        },
        "image": None if facts.image is None else {"name": facts.image, "digest": facts.image_digest},
        "versions": dict(facts.versions),
        "counts": {
            "cases": counts.cases,
            "done": counts.done,
            "failed": counts.failed,
            "pending": counts.pending,
            "retried": counts.retried,
        },
        "failures": dict(counts.failures),
        "seconds_per_case": None if counts.seconds is None else asdict(counts.seconds),
        "seconds_per_stage": dict(stages(list(facts.workers))),
        "cost": _cost(facts, counts),
        "nodes": list(counts.hosts),
        "workers": [worker.to_json() for worker in facts.workers],
        "jobs": [dict(job) for job in facts.jobs],
        "site": dict(facts.site),
    }


def _cost(facts: RunFacts, counts: Tally) -> dict[str, Json]:
    """What cases took beside time, and of what there is no figure: "missing" says why."""
    measured: dict[str, Json] = {
        name: asdict(counts.cost[name]) if name in counts.cost else None for name in _COSTS
    }
    reasons = {name: _why_missing(name, facts.workers, name in counts.cost) for name in _COSTS}
    missing: dict[str, Json] = {name: reason for name, reason in reasons.items() if reason is not None}
    seconds = counts.seconds.total if counts.seconds else 0.0
    return {"model_seconds": seconds, **measured, "missing": missing}


def _why_missing(name: str, workers: Sequence[Maker], of_some: bool) -> str | None:
    """of_some: some cases have that figure, and those of the workers that say why not have none."""
    reasons = sorted({worker.unmeasured[name] for worker in workers if name in worker.unmeasured})
    if reasons or of_some:
        return "; ".join(reasons) or None
    if name == "peak_mb":
        return "no model's process said it: its kernel does not tell, no case reached one, or the run is from before"
    return "not asked of the GPUs" if any(worker.gpus for worker in workers) else "no GPU was used"


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def write_results_csv(
    path: Path,
    cases: Iterable[Case],
    results: Iterable[CaseResult],
    outputs: Sequence[OutputSpec],
    columns: Sequence[str] = (),
    first: int = 0,
) -> None:
    """One row per case of the manifest, also for those without a result (status "pending").

    Nothing in it tells when or where a case was computed: runs with the same outcome have the same table.

    cases and results are in manifest order, `first` is the row of the first case there; columns: the free columns of
    the manifest to repeat.
    A label list fills two columns, its most probable label and "<name>_probability"; other values are
    JSON, arrays the place of their dataset.  Outputs belong to `outputs` by position.
    Raises TryAgainError or UnfitError if the storage fails.
    """
    remaining = iter(cases)
    leading = next(remaining, None)
    if leading is not None:
        remaining = chain((leading,), remaining)
    with replacing(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        header = _header(leading, outputs, columns)
        writer.writerow(header)
        for case, result in _joined(remaining, results, first):
            row = [_cell(text) for text in _row(case, result, outputs, columns)]
            writer.writerow(row + [""] * (len(header) - len(row)))


def write_failures_csv(path: Path, cases: Iterable[Case], results: Iterable[CaseResult]) -> None:
    """One row per failed case; both iterables are in manifest order.

    Raises TryAgainError or UnfitError if the storage fails.
    """
    with replacing(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("case_id", "input", "kind", "message", "attempts", "evidence"))
        for case, result in _joined(cases, results):
            if result is not None and result.error is not None:
                error = result.error
                row = (
                    case.id,
                    _input(case),
                    error.kind,
                    error.message,
                    str(result.attempts),
                    _gist(error.evidence),
                )
                writer.writerow([_cell(text) for text in row])


def _joined(
    cases: Iterable[Case], results: Iterable[CaseResult], first: int = 0
) -> Iterator[tuple[Case, CaseResult | None]]:
    """Every case with its result, if it has one.  Raises ValueError for a result that no case claims."""
    upcoming = iter(results)
    result = next(upcoming, None)
    for index, case in enumerate(cases, first):
        if result is not None and (result.index, result.case_id) == (index, case.id):
            yield case, result
            result = next(upcoming, None)
        else:
            yield case, None
    if result is not None:
        raise ValueError(f"result {result.index} ({result.case_id!r}) is not in the order of the manifest")


def _header(case: Case | None, outputs: Sequence[OutputSpec], columns: Sequence[str]) -> list[str]:
    names = ["case_id", "status"]
    names += [column_of(key) for key, _ in case.inputs] if case is not None else []
    names += columns
    for spec in outputs:
        names += [spec.name, f"{spec.name}_probability"] if spec.type == "label_list" else [spec.name]
    return [_cell(name) for name in _distinct(names)]


def _distinct(names: Iterable[str]) -> Iterator[str]:
    taken: set[str] = set()
    for name in names:
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        yield candidate


def _row(
    case: Case, result: CaseResult | None, outputs: Sequence[OutputSpec], columns: Sequence[str]
) -> list[str]:
    free = dict(case.columns)
    inputs = [text for _, text in case.inputs] + [free.get(name, "") for name in columns]
    if result is None:
        return [case.id, "pending", *inputs]
    row = [case.id, result.status, *inputs]
    for spec, output in zip(outputs, result.outputs):
        row += _label(output) if spec.type == "label_list" else [_value(output)]
    return row


def _label(output: Output) -> list[str]:
    labels = output.prediction
    if not isinstance(labels, list) or not labels:
        return [_value(output), ""]
    best: Json = max(labels, key=_probability)
    if not isinstance(best, dict) or "label" not in best:
        return [_value(output), ""]
    label = best["label"]
    return [label if isinstance(label, str) else dumps(label), dumps(best.get("probability"))]


def _probability(entry: Json) -> float:
    value = entry.get("probability") if isinstance(entry, dict) else None
    return value if isinstance(value, (int, float)) else float("-inf")


def _value(output: Output) -> str:
    return dumps(output.prediction) if output.dataset is None else output.dataset


def _input(case: Case) -> str:
    paths = dict(case.inputs)
    return next(iter(paths.values())) if len(paths) == 1 else dumps(paths)


def _gist(evidence: str) -> str:
    """The line that says most: the last one of a traceback, else the first."""
    lines = [line.strip() for line in evidence.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1] if lines[0] == _TRACEBACK else lines[0]


def _cell(text: str) -> str:
    """Text that the file can hold: names of files keep their bytes, other half characters are escaped."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
