"""Hand a run over to SLURM, and follow it from here if asked: the run goes on without this command."""

from __future__ import annotations

import dataclasses
import shlex
import time
from dataclasses import dataclass
from typing import Any

from modelhub_hpc import arrays, driver, owner, run, slurm
from modelhub_hpc.cli import progress as display
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.errors import EXIT_INTERRUPTED, EXIT_TRY_AGAIN, TryAgainError
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import Order, RunRequest
from modelhub_hpc.run import Progress
from modelhub_hpc.runfolder import read_json

FOLLOW_S = 1.0
_QUEUE_S = 15.0  # between two looks at SLURM's queue


@dataclass(frozen=True)
class Handed:
    """A run that SLURM has. jobs: what was submitted, by what it does; at: seconds since 1970.

    before: the record that an earlier driver had left, by its inode and time.
    """

    paths: RunPaths
    run: RunRequest
    jobs: dict[str, str]
    at: float
    before: tuple[int, int] | None = None
    over: arrays.Advance | None = None


def hand_over(paths: RunPaths, current: RunRequest, order: Order) -> Handed:
    """Start what drives the run. Raises TryAgainError if something does already, and what SLURM answers."""
    _refuse_second(paths, current)
    at, before = time.time(), _record(paths)
    if current.site.executor == "slurm-array":
        order.write(paths)
        done = arrays.advance(paths, current, order)
        if done.array_job is None:
            return Handed(paths, current, {}, at, before, done)
        jobs = {"array": f"job {done.array_job} ({done.tasks} tasks)", "follower": f"job {done.follower}"}
        return Handed(paths, current, jobs, at, before)
    order.write(paths)
    started = driver.start(paths, current)
    return Handed(paths, current, {"driver": started.describe()}, at, before)


def _record(paths: RunPaths) -> tuple[int, int] | None:
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
    job = driver_job(current)
    if job is not None:
        why = f" ({job.reason})" if job.state == "PENDING" else ""
        raise TryAgainError(f"The run is driven by job {job.id}, which is {job.state}{why}; it goes on by itself.")


def driver_job(current: RunRequest) -> slurm.Job | None:
    """The job that drives the run, waiting or running. Raises Unreachable."""
    name = slurm.job_name(current.run_id)
    return next((job for job in slurm.queue(name) if job.name == name and not job.ended), None)


def tell(handed: Handed, voice: Voice) -> None:
    """Say what was started, and what to do next."""
    folder = shlex.quote(str(handed.paths.root))
    if voice.json:
        voice.answer(
            {
                "run": str(handed.paths.root),
                "run_id": handed.run.run_id,
                "cases": handed.run.cases,
                "jobs": handed.jobs,
                "status": f"mh-hpc status {folder}",
            }
        )
    voice.columns(
        [
            ("run", handed.run.run_id),
            *handed.jobs.items(),
            ("status", f"mh-hpc status {folder}"),
            ("logs", f"mh-hpc logs {folder} -f"),
            ("results", f"mh-hpc results {folder}"),
            ("cancel", f"mh-hpc cancel {folder}"),
        ]
    )


def follow(handed: Handed, voice: Voice) -> int | None:
    """Show the run's progress until it ends; its exit code. Ctrl-C leaves the run alone: then None."""
    try:
        with display.reporter(voice) as observe:
            record = None
            looked = time.monotonic()
            while record is None:
                time.sleep(FOLLOW_S)
                progress = read_json(handed.paths.progress_json)
                if progress.get("updated", 0.0) >= handed.at:
                    observe(_progress(progress))
                record = _ended(handed)
                if record is not None and _goes_on(handed, record):
                    record = None
                if record is None and time.monotonic() - looked > _QUEUE_S:
                    looked = time.monotonic()
                    if _is_abandoned(handed):
                        record = _ended(handed) or {}
    except KeyboardInterrupt:
        voice.warn("The run goes on without this command.")
        tell(handed, dataclasses.replace(voice, json=False))
        return None
    if not record:
        voice.warn(
            "The run's driver has ended before the run did.\n"
            f"Its words:      mh-hpc logs {shlex.quote(str(handed.paths.root))}\n"
            f"To continue:    mh-hpc resume {shlex.quote(str(handed.paths.root))}"
        )
        return EXIT_TRY_AGAIN
    return int(record.get("exit_code", EXIT_TRY_AGAIN))


def _ended(handed: Handed) -> dict[str, Any] | None:
    """The record of the run, once its driver has written it."""
    if _record(handed.paths) in (None, handed.before):
        return None
    return read_json(handed.paths.record_json) or None


def _goes_on(handed: Handed, record: dict[str, Any]) -> bool:
    """Whether a driver that was interrupted is in the queue again."""
    if record.get("exit_code") != EXIT_INTERRUPTED:
        return False
    try:
        return driver_job(handed.run) is not None
    except slurm.Unreachable:
        return True


def _is_abandoned(handed: Handed) -> bool:
    """Whether nothing drives the run any more; what SLURM does not say counts as no."""
    holder = owner.holder(handed.paths.private)
    if holder is not None and holder.alive:
        return False
    try:
        return driver_job(handed.run) is None
    except slurm.Unreachable:
        return False


def _progress(found: dict[str, Any]) -> Progress:
    names = [field.name for field in dataclasses.fields(run.Progress)]
    return Progress(**{name: found[name] for name in names})


def advance_safely(paths: RunPaths, current: RunRequest, order: Order, wait_s: float) -> arrays.Advance:
    """The next round of arrays, although SLURM may not answer for a while."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return arrays.advance(paths, current, order)
        except (slurm.Unreachable, slurm.LimitReached) as error:
            if time.monotonic() > deadline:
                raise
            arrays.log.warning("%s", one_line(error))
            time.sleep(min(15.0, wait_s / 10))
