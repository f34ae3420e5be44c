"""`mh-hpc results`: what a run has found so far, as a table, JSON or CSV; streamed, so a large run costs no memory."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from modelhub_hpc import config, request
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.errors import UsageError
from modelhub_hpc.plan import Case, Chunk, Manifest, chunk_table
from modelhub_hpc.record import (
    CaseResult,
    Output,
    RunPaths,
    iter_results,
    write_failures_csv,
    write_results_csv,
)
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import storage
from modelhub_hpc.runs.look import is_current

_ROWS = 10_000
_CELL = 120  # characters of a value in a table; JSON and CSV hold it whole


def open_run(folder: Path) -> tuple[RunPaths, RunRequest]:
    """The run in that folder; UsageError if there is none."""
    paths = RunPaths(folder.absolute())
    if not is_run(paths):
        raise UsageError(f"{one_line(folder)} is not the folder of a run: it has no run.json.")
    return paths, request.read(paths)


def is_run(paths: RunPaths) -> bool:
    """Whether the folder holds a run; UnfitError where this user may not even look."""
    with storage(paths.root):
        return paths.run_json.exists()


def results(folder: Path, csv: str | None, failed: bool, limit: int | None, voice: Voice) -> int:
    """Show the results that are there, of finished and unfinished runs alike; the exit code."""
    paths, of_run = open_run(folder)
    found = results_of(paths, of_run)
    if csv is not None:
        _csv(paths, of_run, csv, failed, limit)
        return 0
    chosen = itertools.islice((r for r in found if r.error or not failed), limit)
    if voice.json:
        _json_array(result_facts(result) for result in chosen)
    else:
        voice.columns(result_table(of_run, chosen))
    return 0


def results_of(paths: RunPaths, of_run: RunRequest) -> Iterator[CaseResult]:
    """All that were found so far, in the order of the manifest."""
    return iter_results(paths, of_run.run_id, of_run.plan, chunk_table(paths.chunks_json) or [Chunk(0, 0, 1)])


def _json_array(items: Iterable[dict[str, Any]]) -> None:
    """One JSON array, an element per line, written as the elements come."""
    click.echo("[", nl=False)
    for index, item in enumerate(items):
        click.echo(("," if index else "") + "\n" + json.dumps(item, allow_nan=False), nl=False)
    click.echo("\n]")


def result_facts(result: CaseResult) -> dict[str, Any]:
    """One result as `--json` shows it; `dataset` is FILE:PATH in the run's folder shards/."""
    error = result.error
    return {
        "case": result.case_id,
        "status": result.status,
        "outputs": [_output_facts(output) for output in result.outputs],
        "seconds": result.seconds,
        "attempts": result.attempts,
        "notes": list(result.notes),
        "error": {"kind": error.kind, "message": error.message, "evidence": error.evidence}
        if error
        else None,
    }


def _output_facts(output: Output) -> dict[str, Any]:
    facts = {
        "name": output.name,
        "type": output.type,
        "description": output.description,
        "shape": list(output.shape),
    }
    if output.dataset is None:
        return {**facts, "prediction": output.prediction}
    return {**facts, "dtype": output.dtype, "dataset": output.dataset}


def result_table(of_run: RunRequest, chosen: Iterable[CaseResult]) -> Iterator[tuple[str, ...]]:
    """A row for each, below one with titles."""
    names = [one_line(output.name, _CELL) for output in of_run.model.outputs]
    yield ("case", "status", "seconds", *names)
    for result in chosen:
        yield _row(result, len(names))


def _row(result: CaseResult, columns: int) -> tuple[str, ...]:
    if result.error:
        first = f"{result.error.kind}: {one_line(result.error.message, _CELL)}"
        cells = [first, *[""] * (columns - 1)]
    else:
        cells = [value_words(output) for output in result.outputs]
    return (result.case_id, result.status, f"{result.seconds:.3f}", *cells)


def value_words(output: Output) -> str:
    """An output in a few words: the top label and its probability, a short value, or where the array is.

    >>> labels = [{"label": "cat", "probability": 0.1}, {"label": "dog", "probability": 0.9}]
    >>> value_words(Output("p", "label_list", "", (2,), labels))
    'dog (0.900)'
    """
    if output.dataset is not None:
        return f"{output.dtype} {list(output.shape)} in {output.dataset}"
    top = top_labels(output, 1)
    return top[0] if top else one_line(json.dumps(output.prediction), _CELL)


def top_labels(output: Output, count: int) -> list[str]:
    """The most probable labels of a label list; [] for any other output."""
    entries = output.prediction
    if output.type != "label_list" or not isinstance(entries, list):
        return []
    labels = [e for e in entries if isinstance(e, dict) and "label" in e]
    return [_label_words(e) for e in sorted(labels, key=_probability, reverse=True)[:count]]


def _label_words(entry: dict[str, Any]) -> str:
    value = entry.get("probability")
    number = f"{value:.3f}" if isinstance(value, (int, float)) else "no number"
    return f"{one_line(entry['label'], _CELL)} ({number})"


def _probability(entry: dict[str, Any]) -> float:
    value = entry.get("probability")
    return float(value) if isinstance(value, (int, float)) else float("-inf")


def _csv(paths: RunPaths, of_run: RunRequest, target: str, failed: bool, limit: int | None) -> None:
    if target != "-":
        path = Path(target).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"--csv {one_line(target)}: not a file in a folder that exists.")
        _write_csv(paths, of_run, path, failed, limit)
        return
    ready = paths.failures_csv if failed else paths.results_csv
    if limit is None and is_current(paths, ready):
        _pour(ready)
        return
    with tempfile.TemporaryDirectory(prefix="mh-hpc-", dir=config.scratch_dir(of_run.site)) as folder:
        path = Path(folder) / "results.csv"
        _write_csv(paths, of_run, path, failed, limit)
        _pour(path)


def _pour(table: Path) -> None:
    with open(table, "rb") as stream:
        sys.stdout.flush()
        shutil.copyfileobj(stream, sys.stdout.buffer)


def _write_csv(paths: RunPaths, of_run: RunRequest, path: Path, failed: bool, limit: int | None) -> None:
    """The tables that a finished run has, made of what is there now; limit counts cases of the manifest."""
    manifest = Manifest.open(paths.manifest, paths.manifest_index)
    rows = min(len(manifest), limit if limit is not None else len(manifest))
    some = itertools.takewhile(lambda result: result.index < rows, results_of(paths, of_run))
    if failed:
        write_failures_csv(path, _cases(manifest, rows), some)
    else:
        write_results_csv(path, _cases(manifest, rows), some, of_run.model.outputs, manifest.columns)


def _cases(manifest: Manifest, rows: int) -> Iterator[Case]:
    for first in range(0, rows, _ROWS):
        yield from manifest.cases(first, min(_ROWS, rows - first))
