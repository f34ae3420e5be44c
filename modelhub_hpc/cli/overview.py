"""`mh-hpc status`: all runs in a folder, and those that SLURM works on elsewhere."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import config, request, slurm
from modelhub_hpc.cli import watching
from modelhub_hpc.cli.output import Voice, aligned, duration, one_line
from modelhub_hpc.cli.watching import Form
from modelhub_hpc.errors import ModelHubError, UsageError
from modelhub_hpc.record import RunPaths
from modelhub_hpc.runs import Queue, elsewhere, id_of, in_folder
from modelhub_hpc.runs.look import Look, look

_HEADS = ("id", "model", "state", "done/failed/total", "rate", "left", "folder")
_WORDS = 40


@dataclass(frozen=True)
class _Overview:
    """unread: folders of runs that cannot be read, and why; silence: what SLURM answered instead of its queue."""

    folder: Path
    runs: tuple[Look, ...]
    unread: tuple[tuple[Path, str], ...]
    silence: str


def overview(folder: Path, named: bool, watch: bool, voice: Voice) -> int:
    """Show the runs, with `watch` until none is driven any more; named: the user did; the exit code."""
    if named and not folder.is_dir():
        raise UsageError(f"--in {one_line(folder)}: there is no such folder.")
    queue = Queue(every_s=config.load().poll_s)
    form = Form(_lines, _line, _facts, _key)

    def see() -> _Overview:
        queue.look_again()
        return _see(folder, queue)

    if watch:
        watching.watch(see, lambda now: any(each.is_driven for each in now.runs), form, voice)
    else:
        watching.show(see(), form, voice)
    return 0


def _see(folder: Path, queue: Queue) -> _Overview:
    runs, unread = list[Look](), list[tuple[Path, str]]()
    here = in_folder(folder)
    more = elsewhere(queue, [each for each in map(id_of, here) if each]) if slurm.available() else ()
    for paths in (*here, *more):
        try:
            runs.append(look(paths, request.read(paths), queue, failures=False))
        except ModelHubError as error:
            unread.append((paths.root, str(error)))
    runs.sort(key=lambda now: (now.run.created, now.run.run_id), reverse=True)
    return _Overview(folder, tuple(runs), tuple(unread), queue.silence)


def _lines(now: _Overview) -> Iterator[str]:
    if not (now.runs or now.unread):
        yield f"No runs in {one_line(now.folder.absolute())}."
        yield "To begin one:  mh-hpc submit --model MODEL --inputs FOLDER"
    if now.runs:
        yield from aligned([_HEADS, *map(_row, now.runs)])
    for folder, why in now.unread:
        yield f"{one_line(folder)} cannot be read: {one_line(why)}"
    if now.silence:
        yield f"Runs elsewhere, and those that wait, are not known: {one_line(now.silence)}"


def _row(now: Look) -> Sequence[str]:
    counts = now.counts
    why = f" ({one_line(now.why, _WORDS)})" if now.why and now.is_driven else ""
    rate, left = (f"{counts.rate:.1f}/s", duration(counts.eta_s)) if counts.rate else ("", "")
    numbers = f"{counts.done:,}/{counts.failed:,}/{counts.total:,}"
    name = one_line(now.run.model.name, _WORDS)
    return (one_line(now.run.run_id), name, now.state + why, numbers, rate, left, _short(now.paths))


def _short(paths: RunPaths) -> str:
    """The folder, as it can be given to other commands from here."""
    relative = os.path.relpath(paths.root)
    folder = str(paths.root) if relative.startswith(("..", "-")) else relative
    return shlex.quote(folder) if folder.isprintable() else one_line(folder)


def _line(now: _Overview) -> str:
    states = [each.state for each in now.runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no runs"
    left = sum(each.counts.to_go for each in now.runs if each.is_driven)
    return f"{counts}; {left:,} cases to go" if left else counts


def _facts(now: _Overview) -> dict[str, Any]:
    return {
        "runs": [_run(each) for each in now.runs],
        "unread": [{"run": str(folder), "error": why} for folder, why in now.unread],
        "slurm_silent": now.silence or None,
    }


def _run(now: Look) -> dict[str, Any]:
    counts = now.counts
    return {
        "run": str(now.paths.root),
        "run_id": now.run.run_id,
        "model": now.run.model.name,
        "created": now.run.created,
        "state": now.state,
        "reason": now.why or None,
        "cases": counts.total,
        "done": counts.done,
        "failed": counts.failed,
        "to_go": counts.to_go,
        "cases_per_second": counts.rate,
        "eta_seconds": counts.eta_s,
    }


def _key(now: _Overview) -> object:
    runs = ((each.run.run_id, each.state, each.why, each.counts.done, each.counts.failed) for each in now.runs)
    return tuple(runs), now.unread, now.silence
