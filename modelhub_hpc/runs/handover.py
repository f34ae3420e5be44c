"""Hand a run over: what drives it is started, as jobs or as a process of its own, and goes on without this one."""

from __future__ import annotations

import time
from dataclasses import dataclass

from modelhub_hpc import arrays, config, driver, owner, slurm
from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import Order, RunRequest


@dataclass(frozen=True)
class Handed:
    """A run that goes on by itself. jobs: what was started, by what it does; at: seconds since 1970.

    before: the record that an earlier driver had left, by its inode and time; pid: of a driver that is a child of
    this process, which lets nobody else see that it has ended.
    """

    paths: RunPaths
    run: RunRequest
    jobs: dict[str, str]
    at: float
    before: tuple[int, int] | None = None
    over: arrays.Advance | None = None
    pid: int | None = None


def hand_over(paths: RunPaths, current: RunRequest, order: Order) -> Handed:
    """Start what drives the run, so that it goes on without this process.

    Raises TryAgainError if something does already, and what SLURM answers.
    """
    _refuse_second(paths, current)
    at, before = time.time(), record_of(paths)
    if current.site.executor == "slurm-array":
        order.write(paths)
        done = arrays.advance(paths, current, order)
        if done.array_job is None:
            return Handed(paths, current, {}, at, before, done)
        jobs = {"array": f"job {done.array_job} ({done.tasks} tasks)", "follower": f"job {done.follower}"}
        return Handed(paths, current, jobs, at, before)
    order.write(paths)
    started = driver.start(paths, current)
    return Handed(paths, current, {"driver": started.describe()}, at, before, pid=started.pid)


def record_of(paths: RunPaths) -> tuple[int, int] | None:
    """Which record there is; a driver replaces it whole when it ends."""
    try:
        stat = paths.record_json.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _refuse_second(paths: RunPaths, current: RunRequest) -> None:
    holder = owner.holder(paths.private)
    if holder is not None and holder.alive:
        raise TryAgainError(f"The run is driven by {holder.record.describe()}; it goes on by itself.")
    job = driver_job(current) if config.on_slurm(current.site) else None
    if job is not None:
        why = f" ({job.reason})" if job.state == "PENDING" else ""
        raise TryAgainError(f"The run is driven by job {job.id}, which is {job.state}{why}; it goes on by itself.")


def driver_job(current: RunRequest) -> slurm.Job | None:
    """The job that drives the run, waiting or running. Raises Unreachable."""
    name = slurm.job_name(current.run_id)
    return next((job for job in slurm.queue(name) if job.name == name and not job.ended), None)
