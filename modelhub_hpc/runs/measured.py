"""What a model took in runs that are over, by the hardware they had, from their records alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc.record import RunPaths
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.runs import in_folder

_UNRECORDED = "not recorded"


@dataclass(frozen=True)
class Measured:
    """A version of a model on one kind of hardware, which is the GPU where there was one, else the processor.

    seconds: in the model per case: the median of the runs' medians, each counted as often as it has cases; p95_s: the
    longest of theirs; peak_mb, gpu_peak_mb: most of any case, in MiB; gpu_energy_j: joules per case, of all that were
    measured. None: never measured.
    """

    hardware: str
    version: str
    runs: int
    cases: int
    seconds: float | None
    p95_s: float | None
    peak_mb: float | None
    gpu_peak_mb: float | None
    gpu_energy_j: float | None


@dataclass(frozen=True)
class _Figure:
    """A figure of one run, and of how many cases it is."""

    value: float
    cases: int


def measured(model_id: str, folders: Iterable[Path]) -> list[Measured]:
    """What runs of a model took, which lie in the folders or are those; runs that have not ended have no record."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in _records(folders):
        model = _part(record, "model")
        if model.get("id") == model_id:
            groups[_hardware(record), str(model.get("version"))].append(record)
    return [_measured(*key, records) for key, records in sorted(groups.items())]


def _records(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    runs = {paths.root.resolve(): paths for folder in folders for paths in (RunPaths(folder), *in_folder(folder))}
    return filter(None, (read_json(paths.record_json) for paths in runs.values()))


def _hardware(record: Mapping[str, Any]) -> str:
    workers = record.get("workers")
    kinds = {_kind(each) for each in workers if isinstance(each, dict)} if isinstance(workers, list) else set()
    return " + ".join(sorted(kinds)) or _UNRECORDED


def _kind(worker: Mapping[str, Any]) -> str:
    gpus = worker.get("gpu_models")
    if isinstance(gpus, list) and gpus:
        return " and ".join(map(str, gpus))
    return str(worker.get("cpu_model") or _UNRECORDED)


def _measured(hardware: str, version: str, records: Sequence[Mapping[str, Any]]) -> Measured:
    def figures(block: str, name: str, figure: str) -> list[_Figure]:
        found = (_figure(record, block, name, figure) for record in records)
        return [each for each in found if each is not None]

    done = [_number(_part(record, "counts").get("done")) or 0 for record in records]
    energy = figures("cost", "gpu_energy_j", "total")
    return Measured(
        hardware,
        version,
        len(records),
        int(sum(done)),
        _middle(figures("seconds_per_case", "", "median")),
        _most(figures("seconds_per_case", "", "p95")),
        _most(figures("cost", "peak_mb", "max")),
        _most(figures("cost", "gpu_peak_mb", "max")),
        sum(each.value for each in energy) / sum(each.cases for each in energy) if energy else None,
    )


def _figure(record: Mapping[str, Any], block: str, name: str, figure: str) -> _Figure | None:
    stats = _part(_part(record, block), name) if name else _part(record, block)
    cases = stats.get("cases") if name else _part(record, "counts").get("done")
    value, count = _number(stats.get(figure)), _number(cases)
    return _Figure(value, int(count)) if value is not None and count else None


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A record may be of another version, or anybody's."""
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if usable and isinstance(value, (int, float)) else None


def _most(figures: Sequence[_Figure]) -> float | None:
    return max((each.value for each in figures), default=None)


def _middle(figures: Sequence[_Figure]) -> float | None:
    """The weighted median."""
    rest = sum(each.cases for each in figures) / 2
    for each in sorted(figures, key=lambda one: one.value):
        rest -= each.cases
        if rest <= 0:
            return each.value
    return None
