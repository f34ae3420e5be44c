"""How a run stands: from its files, and from SLURM's queue where they do not tell."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelhub_hpc import config, owner, run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import EXIT_INTERRUPTED, ModelHubError, TryAgainError, UnfitError
from modelhub_hpc.owner import OwnerRecord
from modelhub_hpc.plan import Chunk, chunk_table
from modelhub_hpc.record import CaseResult, RunPaths, iter_results
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.runs import NotedJob, Queue, drives, noted_jobs, site_now, tasks_of
from modelhub_hpc.slurm import Job

WAITING, RUNNING, COMPLETE, NOT_RUNNING = "waiting", "running", "complete", "not running"
UNKNOWN = "unknown"  # SLURM would have to say it, and does not
FRESH_S = 30.0  # progress.json of a living driver is never older

_AT_ONCE = "JobArrayTaskLimit"  # so many others of the array run, or have just ended
_FAILURES = 3
_SEARCHED = 5000  # cases, the latest, among which failures are looked for


@dataclass(frozen=True)
class Counts:
    """Cases of a run. rate: per second of now; failed_chunks: where the failed ones are, if it is known."""

    total: int
    done: int
    failed: int
    rate: float | None = None
    eta_s: float | None = None
    failed_chunks: Collection[int] | None = None

    @property
    def to_go(self) -> int:
        return self.total - self.done - self.failed

    def describe(self) -> str:
        """E.g. "842 of 899 done, 57 to go", or "840 of 899 done, 2 failed, 57 to go"."""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.done:,} of {self.total:,} done{failed}, {self.to_go:,} to go"


@dataclass(frozen=True)
class Workers:
    """Who computes. count: ready ones; jobs: number by SLURM's states; waiting: why some wait, in SLURM's words."""

    count: int = 0
    nodes: tuple[str, ...] = ()
    jobs: Mapping[str, int] = field(default_factory=dict)
    waiting: str = ""
    excluded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """A run as it stands now.

    why: SLURM's reason of a run that waits, the driver's of one that has stopped; waits_for: the jobs that wait;
    driver: who runs it, as far as this user may know; silence: what SLURM answered instead of its queue;
    is_driven: somebody does, or SLURM may yet say so.
    """

    paths: RunPaths
    run: RunRequest
    site: SiteConfig
    state: str
    why: str
    waits_for: tuple[str, ...]
    driver: OwnerRecord | None
    counts: Counts
    workers: Workers
    jobs: tuple[NotedJob, ...]
    failures: tuple[CaseResult, ...]
    silence: str
    is_driven: bool


@dataclass(frozen=True)
class _Life:
    """Whether and how a run is driven. state: "" if nothing does."""

    state: str
    why: str = ""
    waits_for: tuple[str, ...] = ()
    driver: OwnerRecord | None = None


def look(paths: RunPaths, of: RunRequest, queue: Queue, failures: bool = True) -> Look:
    """Look at a run; `failures`: with the latest of them."""
    site = site_now(paths, of)
    progress = read_json(paths.progress_json)
    jobs = noted_jobs(paths)
    life = _life(paths, of, site, progress, queue)
    counts = _counts(paths, of, site, progress, life.state == RUNNING)
    goes_on = _goes_on(life, queue)
    if life.state in ("", UNKNOWN) and not counts.to_go:
        life = _Life(COMPLETE)
    elif not life.state:
        life = _Life(NOT_RUNNING, _why_stopped(paths, bool(progress or jobs)))
    return Look(
        paths,
        of,
        site,
        life.state,
        life.why,
        life.waits_for,
        life.driver,
        counts,
        _workers(of, site, progress, life.state == RUNNING, queue),
        tuple(jobs),
        tuple(_failures(paths, of, counts)) if failures else (),
        queue.silence if config.on_slurm(site) else "",
        goes_on and life.state != COMPLETE,
    )


def is_driven(paths: RunPaths, of: RunRequest, queue: Queue) -> bool:
    """The same as Look.is_driven, for little."""
    return _goes_on(_life(paths, of, site_now(paths, of), read_json(paths.progress_json), queue), queue)


def _goes_on(life: _Life, queue: Queue) -> bool:
    return life.state in (WAITING, RUNNING) or (life.state == UNKNOWN and queue.passes)


# -- who drives it ----------------------------------------------------------------------------------------------------


def _life(paths: RunPaths, of: RunRequest, site: SiteConfig, progress: dict[str, Any], queue: Queue) -> _Life:
    """What drives the run. SLURM is asked only where the files do not say it."""
    fresh = progress.get("updated", 0.0) > time.time() - FRESH_S
    try:
        holder = owner.holder(paths.private)
    except UnfitError:  # another user's run: its private part is closed to this one
        return _Life(RUNNING if fresh else "")
    except TryAgainError:
        holder = None  # it has none
    if holder is not None and (fresh if holder.alive is None else holder.alive):
        return _Life(RUNNING, driver=holder.record)
    if not config.on_slurm(site) or _has_ended_for_good(paths):
        return _Life("")
    jobs = queue.jobs_of(of.run_id)
    return _Life(UNKNOWN) if queue.silence else _in_queue(of, site, jobs)


def _in_queue(of: RunRequest, site: SiteConfig, jobs: Sequence[Job]) -> _Life:
    """What drives a run of which only SLURM knows. Workers without a driver drive nothing."""
    driving = [job for job in jobs if drives(job.name, of.run_id)]
    if site.executor == "slurm-array":
        # what follows an array waits for it
        driving = [job for job in jobs if job not in driving] or driving
    waiting = [job for job in driving if job.state == "PENDING" and job.reason != _AT_ONCE]
    if not driving:
        return _Life("")
    if len(waiting) < len(driving):
        return _Life(RUNNING)
    reasons = dict.fromkeys(job.reason for job in waiting)
    return _Life(WAITING, ", ".join(reasons), tuple(job.id for job in waiting))


def _why_stopped(paths: RunPaths, begun: bool) -> str:
    """The reason that the last driver wrote down, if it came to that."""
    if not begun:
        return ""
    if _is_concluded(paths):
        return str(read_json(paths.record_json).get("stopped") or "")
    return "its driver ended without a word why"


def _is_concluded(paths: RunPaths) -> bool:
    """Whether the last driver has written its record: by the file system's clock, since those of two nodes differ."""
    begun = [*paths.private.glob("owner.??????"), *paths.jobs.glob("*.json"), paths.order_json]
    return max(map(_written, begun)) <= _written(paths.record_json)


def _has_ended_for_good(paths: RunPaths) -> bool:
    """Whether SLURM need not be asked; it may start a driver anew that was interrupted."""
    return _is_concluded(paths) and read_json(paths.record_json).get("exit_code") != EXIT_INTERRUPTED


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


# -- counts -----------------------------------------------------------------------------------------------------------


def _counts(paths: RunPaths, of: RunRequest, site: SiteConfig, progress: dict[str, Any], running: bool) -> Counts:
    """What the driver has counted, while it lives; else what is there."""
    if running and progress.get("updated", 0.0) > time.time() - FRESH_S:
        return Counts(of.cases, progress["done"], progress["failed"], progress.get("rate"), progress.get("eta_s"))
    found = settled(paths, of)
    rate = _rate_of_arrays(paths, found) if running and site.executor == "slurm-array" else None
    return dataclasses.replace(found, rate=rate, eta_s=found.to_go / rate) if rate else found


def settled(paths: RunPaths, of: RunRequest) -> Counts:
    """The cases of a run that have results, whoever drives it."""
    final = _final(paths)
    if final is not None:
        return Counts(of.cases, final["done"], final["failed"])
    state = run.survey(paths, of)
    return Counts(of.cases, state.done, state.failed, failed_chunks=state.failed_by_chunk.keys())


def _final(paths: RunPaths) -> dict[str, int] | None:
    """The counts in record.json, if it tells of all cases and no shard has come or gone since."""
    try:
        written, changed = paths.record_json.stat().st_mtime_ns, paths.shards.stat().st_mtime_ns
    except OSError:
        return None
    counts: dict[str, int] = read_json(paths.record_json).get("counts", {})
    return counts if counts.get("pending") == 0 and changed <= written else None


def is_current(paths: RunPaths, table: Path) -> bool:
    """Whether a table of the run tells of all results that are there, as its last driver left it."""
    return _final(paths) is not None and 0 < _written(table) <= _written(paths.record_json)


def _rate_of_arrays(paths: RunPaths, now: Counts) -> float | None:
    """Cases per second since the present array was submitted."""
    last = read_json(paths.round_json)
    cases = now.done + now.failed - last.get("settled", 0)
    seconds = time.time() - last.get("began", 0.0)
    return cases / seconds if last and cases > 0 and seconds > 0 else None


# -- workers ----------------------------------------------------------------------------------------------------------


def _workers(of: RunRequest, site: SiteConfig, progress: dict[str, Any], running: bool, queue: Queue) -> Workers:
    if site.executor == "slurm-array":
        return _tasks(of, queue) if running else Workers()
    said = progress.get("slurm", {})
    excluded = said.get("excluded", {})
    if not running:
        return Workers(excluded=excluded)
    nodes = tuple(said.get("nodes", ()))
    return Workers(progress.get("workers", 0), nodes, said.get("jobs", {}), said.get("waiting", ""), excluded)


def _tasks(of: RunRequest, queue: Queue) -> Workers:
    """The jobs of an array; SLURM lists those that wait as one."""
    jobs = [job for job in queue.jobs_of(of.run_id) if not drives(job.name, of.run_id)]
    states: dict[str, int] = {}
    for job in jobs:
        states[job.state] = states.get(job.state, 0) + tasks_of(job.id)
    nodes = sorted({job.node for job in jobs if job.state == "RUNNING"})
    reasons = dict.fromkeys(job.reason for job in jobs if job.state == "PENDING")
    return Workers(states.get("RUNNING", 0), tuple(nodes), states, ", ".join(reasons))


# -- failures ---------------------------------------------------------------------------------------------------------


def _failures(paths: RunPaths, of: RunRequest, counts: Counts) -> list[CaseResult]:
    """The latest failed cases, looked for among the latest chunks alone: a large run has too many to read."""
    if not counts.failed:
        return []
    with contextlib.suppress(ModelHubError):  # a damaged shard, which the next driver sets aside
        some = _latest(paths, chunk_table(paths.chunks_json) or [], counts.failed_chunks)
        failed = (r for r in iter_results(paths, of.run_id, of.plan, some) if r.error)
        return heapq.nlargest(_FAILURES, failed, key=lambda result: result.started)
    return []


def _latest(paths: RunPaths, chunks: Sequence[Chunk], failed: Collection[int] | None) -> list[Chunk]:
    """The chunks that were published last, which are about those with the highest numbers."""
    found: list[Chunk] = []
    there = failed if failed is not None else _published(paths)
    for chunk in reversed(chunks):
        if chunk.index in there:
            found.append(chunk)
        if sum(each.count for each in found) >= _SEARCHED:
            break
    return found


def _published(paths: RunPaths) -> set[int]:
    names = (name.partition(".")[0][1:] for name in os.listdir(paths.shards) if name.endswith(".jsonl"))
    return {int(number) for number in names if number.isdigit()}
