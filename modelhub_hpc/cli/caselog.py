"""`mh-hpc logs --case`: where one case was computed, what became of it, and what was written there meanwhile."""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import click

from modelhub_hpc.chunks import last_begun
from modelhub_hpc.cli.logfiles import DRIVER, SESSION, LogFile, end_of, log_facts, log_files, show_logs
from modelhub_hpc.cli.output import Voice, aligned, many_lines, one_line
from modelhub_hpc.errors import EXIT_DONE, UsageError
from modelhub_hpc.plan import Case, Chunk, Manifest, chunk_table
from modelhub_hpc.plan.tables import ORIGINAL
from modelhub_hpc.record import CaseResult, RunPaths, ShardInvalid, maker, read_shard
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import storage
from modelhub_hpc.runs.reading import result_facts

_ROWS = 10_000
_NEAR = 3


@dataclass(frozen=True)
class _Trace:
    """What is known of a case. chunk: None before the cases are cut; shard: the file that holds its result.

    by: who computed it; note: on what is known of a case without a result; mentions: lines of logs that name it.
    """

    case: Case
    row: int
    chunk: Chunk | None = None
    shard: str | None = None
    result: CaseResult | None = None
    by: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    job: str | None = None
    logs: tuple[LogFile, ...] = ()
    mentions: tuple[str, ...] = ()


def show_case(paths: RunPaths, of: RunRequest, wanted: str, lines: int, voice: Voice) -> int:
    """Say what is known of the case of that id; the exit code."""
    trace = _trace(paths, of, wanted)
    if voice.json:
        voice.answer(_facts(trace, lines))
        return EXIT_DONE
    for line in aligned((head, text) for head, text in _rows(trace) if text):
        click.echo(line)
    if trace.result and trace.result.error and trace.result.error.evidence:
        click.echo(f"\n{many_lines(trace.result.error.evidence)}")
    if trace.mentions:
        click.echo("\nlogs name it or its chunk:")
        for line in trace.mentions[-lines:]:
            click.echo(f"  {one_line(line)}")
    if trace.logs:
        click.echo("")
    show_logs(trace.logs, lines)
    return EXIT_DONE


def _trace(paths: RunPaths, of: RunRequest, wanted: str) -> _Trace:
    row, case = _find(paths, wanted)
    files = log_files(paths)
    chunks = chunk_table(paths.chunks_json) or [Chunk(0, 0, 1)]  # the first case comes before the others are cut
    chunk = chunks[bisect.bisect_right(chunks, row, key=lambda each: each.first) - 1]
    if row >= chunk.first + chunk.count:
        return _Trace(case, row, note="pending: the cases are not cut into chunks yet")
    found = _result(paths, of, chunk, row)
    if isinstance(found, str):
        noted = last_begun(paths, chunk.index) or {}
        job = noted.get("job")
        trace = _Trace(case, row, chunk, note=found or _pending(row, noted), job=job)
    else:
        shard, result = found
        by = maker(paths.shards / shard)
        trace = _Trace(case, row, chunk, shard, result, by, job=by.get("job"))
    return _with_logs(trace, files)


def _find(paths: RunPaths, wanted: str) -> tuple[int, Case]:
    """The case, by its id or by the one that the user's own table gave it. Raises UsageError."""
    manifest = Manifest.open(paths.manifest, paths.manifest_index)
    near: list[str] = []
    for first in range(0, len(manifest), _ROWS):
        for row, case in enumerate(manifest.cases(first, _ROWS), first):
            if wanted in (case.id, dict(case.columns).get(ORIGINAL)):
                return row, case
            if len(near) < _NEAR and wanted.lower() in case.id.lower():
                near.append(case.id)
    guess = f" Did you mean {' or '.join(near)}?" if near else f" {one_line(paths.manifest)} has them all."
    raise UsageError(f"The run has no case {one_line(wanted)!r}.{guess}")


def _result(paths: RunPaths, of: RunRequest, chunk: Chunk, row: int) -> tuple[str, CaseResult] | str:
    """The shard that says the last of a case, and what it says; or why there is none, "" if it is only missing."""
    plain = paths.shard(chunk.index)
    again = paths.shards.glob(f"{plain.stem}.g*.jsonl")
    shards = sorted(again, key=lambda path: int(path.name.split(".g")[1].split(".")[0]), reverse=True)
    try:
        for path in (*shards, plain):
            with storage(path):
                if not path.exists():
                    continue
                results = read_shard(path, of.run_id, of.plan, verify_arrays=False).results
            for result in results:
                if result.index == row:
                    return path.name, result
    except ShardInvalid as damage:
        return f"pending: {path.name} is damaged: {damage}; the next driver sets it aside and computes its cases again"
    return ""


def _pending(row: int, noted: dict[str, Any]) -> str:
    """What is known of a case without a result."""
    where = f"in job {noted['job']}" if noted.get("job") else "by a worker of this machine"
    if not noted:
        return "pending: its chunk has no results yet"
    if noted.get("row") is None:
        return f"pending: its chunk was begun {where}"
    if noted["row"] == row:
        return f"pending: it was the last that was begun {where}, with care since its chunk had lost workers before"
    return f"pending: its chunk had lost workers before; case {one_line(noted.get('case'))} was begun last {where}"


def _with_logs(trace: _Trace, files: list[LogFile]) -> _Trace:
    """With the logs of the model and of the job, and what drivers and that job have said of the case."""
    error = trace.result.error if trace.result else None
    names = {trace.by.get("log"), *re.findall(r"^log: .*?([^/\n]+)$", error.evidence if error else "", re.MULTILINE)}
    of_model = [file for file in files if file.kind == SESSION and file.path.name in names]
    of_job = [file for file in files if file.kind != SESSION and file.job and file.job == trace.job]
    drivers = [file for file in files if file.kind == DRIVER and file not in of_job]
    chunk = trace.chunk.index if trace.chunk else "-"
    named = re.compile(rf"\bcase {re.escape(trace.case.id)}(?![A-Za-z0-9._-])|\bchunk {chunk}(?![0-9])")
    mentions = (line for file in (*drivers, *of_job) for line in end_of(file.path) if named.search(line))
    return dataclasses.replace(trace, logs=(*of_model, *of_job), mentions=tuple(mentions))


def _rows(trace: _Trace) -> Iterator[tuple[str, str]]:
    yield "case", f"{trace.case.id} (row {trace.row + 1:,} of manifest.csv)"
    for key, path in trace.case.inputs:
        yield "input" if key == "single" else f"input {one_line(key)}", one_line(path)
    result = trace.result
    if result is None:
        yield "result", trace.note
    else:
        error = result.error
        yield "result", f"failed: {error.kind}: {one_line(error.message)}" if error else "done"
        yield "attempts", str(result.attempts)
        yield "seconds", f"{result.seconds:.3f} in the model"
        yield "notes", one_line("; ".join(result.notes))
        yield "computed", _where(trace.by, result)
    if trace.chunk is not None:
        last = trace.chunk.first + trace.chunk.count
        yield "chunk", f"{trace.chunk.index}, rows {trace.chunk.first + 1:,} to {last:,}"
    yield "shard", f"shards/{trace.shard}" if trace.shard else ""


def _where(by: dict[str, Any], result: CaseResult) -> str:
    worker = f"by worker {one_line(by['worker'])} " if by.get("worker") else ""
    job = f", job {one_line(by['job'])}" if by.get("job") else ""
    gpus = f", GPU {one_line(', '.join(map(str, by['gpus'])))}" if by.get("gpus") else ""
    return f"{worker}on {one_line(by.get('node') or result.host)}{job}{gpus}"


def _facts(trace: _Trace, lines: int) -> dict[str, Any]:
    chunk = trace.chunk
    return {
        "case": trace.case.id,
        "row": trace.row,
        "inputs": dict(trace.case.inputs),
        "chunk": chunk.index if chunk else None,
        "shard": trace.shard,
        "result": result_facts(trace.result) if trace.result else None,
        "pending": trace.note or None,
        "worker": trace.by.get("worker"),
        "node": trace.by.get("node"),
        "job": trace.job,
        "gpus": trace.by.get("gpus", []),
        "mentions": list(trace.mentions),
        "logs": [log_facts(file, lines) for file in trace.logs],
    }
