"""`mh-hpc run`: predict a few cases here and now, without a run folder."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelhub_hpc import run
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.cli.results import top_labels
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES, UsageError
from modelhub_hpc.predict import Predictor
from modelhub_hpc.record import ArrayOutput, CaseResult, Output
from modelhub_hpc.run import Asked, Planned
from modelhub_hpc.runfolder import storage

_TOP = 5
_CELL = 120


@dataclass(frozen=True)
class _Array:
    """What is left of an array when its case is over. axes: None where not known; file: None without -o."""

    dtype: str
    shape: tuple[int, ...]
    axes: str | None
    file: Path | None


@dataclass(frozen=True)
class _Predicted:
    """A result, and its arrays by output name."""

    result: CaseResult
    arrays: Mapping[str, _Array]


def predict(asked: Asked, folder: Path | None, voice: Voice) -> int:
    """Predict every case and show the outputs; arrays go to FOLDER/<case>/<output>.npy; the exit code."""
    planned = run.plan(asked)
    for each in planned.found.skipped:
        voice.warn(f"skipped {one_line(each.path)}: {one_line(each.reason)}")
    if folder is not None:
        _prepare(planned, folder)
    with contextlib.closing(Predictor(planned.run, logs=None)) as predictor:
        found = predictor.predict(enumerate(planned.found.cases))
        predicted = [_Predicted(result, _save(result, arrays, folder)) for result, arrays in found]
        predicted.sort(key=lambda each: each.result.index)
        _show(predicted, voice)  # before the model has ended, which takes a moment
    return _complain(predicted, folder, voice)


def _prepare(planned: Planned, folder: Path) -> None:
    """Before the model starts, and not when the first array is there."""
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    taken = [folder / case.id for case in planned.found.cases if (folder / case.id).exists()]
    if taken:
        raise UsageError(f"{one_line(taken[0])} exists already. Choose another folder with -o, or remove it.")


def _show(predicted: list[_Predicted], voice: Voice) -> None:
    if voice.json:
        facts = [_facts(each) for each in predicted]
        voice.answer(facts[0] if len(facts) == 1 else facts)
    else:
        voice.columns(row for each in predicted for row in _rows(each))


def _save(result: CaseResult, arrays: Mapping[str, ArrayOutput], folder: Path | None) -> dict[str, _Array]:
    """Write the arrays, which go when the next case comes."""
    kept = {}
    for name, output in arrays.items():
        with storage(folder or Path()):
            file = _write(folder / result.case_id, name, output) if folder else None
        axes = str(output.attributes["axes"]) if "axes" in output.attributes else None
        kept[name] = _Array(str(output.array.dtype), output.array.shape, axes, file)
    return kept


def _write(folder: Path, name: str, output: ArrayOutput) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    plain = re.sub("[^A-Za-z0-9._-]", "_", name).lstrip(".")[:80] or "output"
    path, number = folder / f"{plain}.npy", 1
    while path.exists():  # two output names that differ only in what a file name may not hold
        number += 1
        path = folder / f"{plain}-{number}.npy"
    with open(path, "xb") as stream:
        np.save(stream, output.array, allow_pickle=False)
    return path


def _facts(each: _Predicted) -> dict[str, Any]:
    error = each.result.error
    return {
        "case": each.result.case_id,
        "status": each.result.status,
        "output": [_output_facts(output, each.arrays) for output in each.result.outputs],
        "seconds": each.result.seconds,
        "notes": list(each.result.notes),
        "error": {"kind": error.kind, "message": error.message, "evidence": error.evidence}
        if error
        else None,
    }


def _output_facts(output: Output, arrays: Mapping[str, _Array]) -> dict[str, Any]:
    facts = {"name": output.name, "type": output.type, "description": output.description}
    array = arrays.get(output.name)
    if array is None:
        return {**facts, "shape": list(output.shape), "prediction": output.prediction}
    file = str(array.file) if array.file else None
    return {**facts, "shape": list(array.shape), "axes": array.axes, "dtype": array.dtype, "file": file}


def _rows(each: _Predicted) -> Iterator[tuple[str, str, str]]:
    """A row per value: the case is named in its first."""
    name = each.result.case_id
    for output in each.result.outputs:
        title = one_line(output.name, 40)
        for value in _values(output, each.arrays):
            yield name, title, value
            name = title = ""
    if each.result.error:
        yield name, "failed", f"{each.result.error.kind}: {one_line(each.result.error.message, _CELL)}"


def _values(output: Output, arrays: Mapping[str, _Array]) -> list[str]:
    array = arrays.get(output.name)
    if array is None:
        return top_labels(output, _TOP) or [one_line(json.dumps(output.prediction), _CELL)]
    return [f"{array.dtype} {list(array.shape)}" + (f" in {one_line(array.file)}" if array.file else "")]


def _complain(predicted: list[_Predicted], folder: Path | None, voice: Voice) -> int:
    failed = [each.result for each in predicted if each.result.error]
    for result in failed:
        assert result.error is not None
        voice.warn(f"{result.case_id} failed: {result.error.kind}: {one_line(result.error.message, 500)}")
    if folder is None and any(each.arrays for each in predicted):
        voice.warn("Arrays were not kept: name a folder for them with -o FOLDER.")
    return EXIT_FAILED_CASES if failed else EXIT_DONE
