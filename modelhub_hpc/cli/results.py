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

from modelhub_hpc import config
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.errors import UsageError
from modelhub_hpc.record import CaseResult, Output, write_failures_csv, write_results_csv
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runs import reading
from modelhub_hpc.runs.look import is_current
from modelhub_hpc.runs.reading import Reading, result_facts

_CELL = 120  # characters of a value in a table; JSON and CSV hold it whole


def results(folder: Path, csv: str | None, failed: bool, limit: int | None, voice: Voice) -> int:
    """Show the results that are there, of finished and unfinished runs alike; the exit code."""
    run = reading.read(folder)
    if csv is not None:
        _csv(run, csv, failed, limit)
        return 0
    chosen = itertools.islice((r for r in run.results() if r.error or not failed), limit)
    if voice.json:
        _json_array(result_facts(result) for result in chosen)
    else:
        voice.columns(result_table(run.request, chosen))
    return 0


def _json_array(items: Iterable[dict[str, Any]]) -> None:
    """One JSON array, an element per line, written as the elements come."""
    click.echo("[", nl=False)
    for index, item in enumerate(items):
        click.echo(("," if index else "") + "\n" + json.dumps(item, allow_nan=False), nl=False)
    click.echo("\n]")


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


def _csv(run: Reading, target: str, failed: bool, limit: int | None) -> None:
    if target != "-":
        path = Path(target).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"--csv {one_line(target)}: not a file in a folder that exists.")
        _write_csv(run, path, failed, limit)
        return
    ready = run.paths.failures_csv if failed else run.paths.results_csv
    if limit is None and is_current(run.paths, ready):
        _pour(ready)
        return
    with tempfile.TemporaryDirectory(prefix="mh-hpc-", dir=config.scratch_dir(run.request.site)) as folder:
        path = Path(folder) / "results.csv"
        _write_csv(run, path, failed, limit)
        _pour(path)


def _pour(table: Path) -> None:
    with open(table, "rb") as stream:
        sys.stdout.flush()
        shutil.copyfileobj(stream, sys.stdout.buffer)


def _write_csv(run: Reading, path: Path, failed: bool, limit: int | None) -> None:
    """The tables that a finished run has, made of what is there now; limit counts cases of the manifest."""
    rows = min(len(run.manifest), limit if limit is not None else len(run.manifest))
    some = itertools.takewhile(lambda result: result.index < rows, run.results())
    if failed:
        write_failures_csv(path, run.manifest.stream(rows), some)
    else:
        write_results_csv(path, run.manifest.stream(rows), some, run.request.model.outputs, run.manifest.columns)
