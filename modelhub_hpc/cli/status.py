"""`mh-hpc status RUN`: how a run stands; works while it runs, from any machine that sees its folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelhub_hpc import request, slurm
from modelhub_hpc.cli import watching
from modelhub_hpc.cli.logfiles import DRIVER
from modelhub_hpc.cli.output import Voice, aligned, duration, number, one_line
from modelhub_hpc.cli.runs import find
from modelhub_hpc.cli.submit import failure_facts, resume_command, retry_command
from modelhub_hpc.cli.watching import Form
from modelhub_hpc.record import CaseResult
from modelhub_hpc.runs import NotedJob, Queue, site_now
from modelhub_hpc.runs.look import COMPLETE, NOT_RUNNING, UNKNOWN, WAITING, Look, look

_SHOWN_JOBS = 6
_WORDS = 200  # characters of what others say

# why jobs wait, by SLURM's word for it, where that word alone does not say it
_REASONS = {
    "Resources": "it is next, once resources are free",
    "Priority": "other jobs go first",
    "Dependency": "another job of the run has to end first",
    "BeginTime": "SLURM has queued it again, and will try soon",
    "JobHeldUser": "it is held, and `scontrol release` lets it go",
    "JobHeldAdmin": "the cluster's administrators hold it",
    "PartitionDown": "the partition is closed, and starts jobs once it is open again",
    "PartitionInactive": "the partition is closed, and starts jobs once it is open again",
    "PartitionNodeLimit": "no node of the partition has what it asks for; cancel, and resume with less",
    "PartitionTimeLimit": "the partition gives less time; cancel, and resume with a shorter --time",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved",
}


def status(named: Path, watch: bool, voice: Voice) -> int:
    """Show how the run stands, with `watch` until nobody drives it any more; the exit code."""
    paths = find(named)
    of = request.read(paths)
    queue = Queue(slurm.job_name(of.run_id), site_now(paths, of).poll_s)
    form = Form(_lines, _line, _facts, _key)

    def see() -> Look:
        queue.look_again()
        return look(paths, of, queue)

    if watch:
        watching.watch(see, lambda now: now.is_driven, form, voice)
    else:
        watching.show(see(), form, voice)
    return 0


# -- for people -------------------------------------------------------------------------------------------------------


def _lines(now: Look) -> Iterator[str]:
    counts = now.counts
    speed = f"{counts.rate:.1f} cases/s, {duration(counts.eta_s)} left" if counts.rate else ""
    rows = [
        ("run", f"{one_line(now.paths.root)} ({one_line(now.run.model.name)}, begun {now.run.created})"),
        ("state", _state(now)),
        ("cases", counts.describe()),
        ("speed", speed),
        ("workers", _workers(now)),
        ("waiting", one_line(now.workers.waiting, _WORDS)),
        *(("excluded", f"{node}: {one_line(why, _WORDS)}") for node, why in now.workers.excluded.items()),
        ("jobs", _jobs(now.jobs)),
        *(("failure", _failure(result)) for result in now.failures),
        *_next(now),
    ]
    yield from aligned((head, text) for head, text in rows if text)


def _state(now: Look) -> str:
    if now.state == WAITING:
        jobs = f"job {', '.join(now.waits_for)}"
        return f"waiting: {jobs} {_reason(now.why)}"
    if now.state == UNKNOWN:
        return f"unknown: {one_line(now.silence, _WORDS)}"
    if now.state == NOT_RUNNING and now.why:
        return f"not running: {one_line(now.why, _WORDS)}"
    return now.state + (f" by {now.driver.describe()}" if now.driver else "")


def _reason(why: str) -> str:
    """SLURM's reasons, and what they mean.

    >>> _reason("Priority"), _reason("QOSMaxJobsPerUserLimit")
    ('(Priority): other jobs go first', '(QOSMaxJobsPerUserLimit)')
    """
    known = [_REASONS[word] for word in why.split(", ") if word in _REASONS]
    return f"({one_line(why)})" + (f": {known[0]}" if known else "")


def _workers(now: Look) -> str:
    found = now.workers
    if not (found.count or found.jobs):
        return ""
    on = f" on {', '.join(found.nodes)}" if found.nodes else ""
    jobs = ", ".join(f"{count:,} {state.lower()}" for state, count in sorted(found.jobs.items(), reverse=True))
    return f"{found.count:,} ready{on}" + (f" (jobs: {jobs})" if jobs else "")


def _jobs(jobs: Sequence[NotedJob]) -> str:
    """The numbers of a run's jobs; the latest of them, if they are many."""
    kinds = sorted({job.kind for job in jobs}, key=lambda kind: (kind != DRIVER, kind))
    return "; ".join(_of_kind(kind, [job.id for job in jobs if job.kind == kind]) for kind in kinds)


def _of_kind(kind: str, ids: Sequence[str]) -> str:
    """
    >>> _of_kind("driver", ["7"]), _of_kind("worker", [str(number) for number in range(9)])
    ('driver 7', '9 workers ... 3, 4, 5, 6, 7, 8')
    """
    if len(ids) == 1:
        return f"{kind} {ids[0]}"
    more = "... " if len(ids) > _SHOWN_JOBS else ""
    return f"{number(len(ids), kind)} {more}{', '.join(ids[-_SHOWN_JOBS:])}"


def _failure(result: CaseResult) -> str:
    assert result.error is not None
    return f"{result.case_id}: {result.error.kind}: {one_line(result.error.message, _WORDS)}"


def _next(now: Look) -> Iterator[tuple[str, str]]:
    """What a user may want to do now."""
    folder = shlex.quote(str(now.paths.root))
    if now.state in (NOT_RUNNING, UNKNOWN):
        yield "resume", resume_command(now.paths)
    if now.is_driven:
        yield "logs", f"mh-hpc logs {folder} -f"
        yield "cancel", f"mh-hpc cancel {folder}"
    if now.state == COMPLETE:
        yield "results", f"mh-hpc results {folder}"
    if now.counts.failed and not now.is_driven:
        yield "failures", f"mh-hpc results {folder} --failed"
        yield "retry", retry_command(now.paths)


def _line(now: Look) -> str:
    counts = now.counts
    parts = [now.state + (f" ({one_line(now.why, _WORDS)})" if now.why else ""), counts.describe()]
    if counts.rate:
        parts.append(f"{counts.rate:.1f} cases/s, {duration(counts.eta_s)} left")
    if now.workers.count or now.workers.waiting:
        waiting = f", waiting: {one_line(now.workers.waiting, _WORDS)}" if now.workers.waiting else ""
        parts.append(f"{number(now.workers.count, 'worker')}{waiting}")
    return "; ".join(parts)


# -- for programs -----------------------------------------------------------------------------------------------------


def _facts(now: Look) -> dict[str, Any]:
    driver, counts, workers = now.driver, now.counts, now.workers
    return {
        "run": str(now.paths.root),
        "run_id": now.run.run_id,
        "model": now.run.model.name,
        "executor": now.site.executor,
        "state": now.state,
        "reason": now.why or None,
        "waits_for": list(now.waits_for),
        "driver": {"host": driver.host, "pid": driver.pid, "user": driver.user, "job": driver.job_id}
        if driver
        else None,
        "cases": counts.total,
        "done": counts.done,
        "failed": counts.failed,
        "to_go": counts.to_go,
        "cases_per_second": counts.rate,
        "eta_seconds": counts.eta_s,
        "workers": workers.count,
        "nodes": list(workers.nodes),
        "worker_jobs": dict(workers.jobs),
        "workers_wait": workers.waiting or None,
        "excluded": dict(workers.excluded),
        "jobs": [{"id": job.id, "kind": job.kind, "name": job.name} for job in now.jobs],
        "slurm_silent": now.silence or None,
        "failures": [failure_facts(result) for result in now.failures],
        "next": [command for _, command in _next(now)],
    }


def _key(now: Look) -> object:
    """What makes a look worth showing; the speed changes all the time."""
    counts, workers = now.counts, now.workers
    return (
        now.state, now.why, counts.done, counts.failed, workers.count, workers.waiting, tuple(workers.jobs.items()),
        tuple(workers.excluded), len(now.jobs), now.silence,
    )  # fmt: skip
