"""What the jobs of a run do: `mh-hpc drive` holds scheduler and loop, `mh-hpc work` is one job of an array."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from modelhub_hpc import arrays, config, driver, run, slurm
from modelhub_hpc.cli import progress as display
from modelhub_hpc.cli.handover import advance_safely
from modelhub_hpc.cli.output import Voice
from modelhub_hpc.errors import EXIT_DONE
from modelhub_hpc.processes import share_job
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import Order, RunRequest, read, read_order
from modelhub_hpc.run import Options, Stop
from modelhub_hpc.runfolder import privately
from modelhub_hpc.workplace import HERE

_PATIENCE_S = 900.0  # with a slurmctld that does not answer, or takes no more jobs


def drive(folder: Path, voice: Voice) -> int:
    """Carry out the run's order, in this process; the exit code."""
    paths = RunPaths(folder.absolute())
    _log_for_jobs()
    order = read_order(paths) or Order(read(paths).site)
    current = run.resume(paths, order.site)
    with privately(current.site.group_readable):
        if current.site.executor == "slurm-array":
            return advance_safely(paths, current, order, _PATIENCE_S).code
        return _drive(paths, current, order, voice)


def _drive(paths: RunPaths, current: RunRequest, order: Order, voice: Voice) -> int:
    stop = Stop()
    walltime: list[int] = []
    options = Options(order.retries, order.max_failures)
    with _signals(stop, walltime), display.reporter(voice) as observe:
        outcome = run.execute(paths, current, options, observe, stop)
    if outcome.stopped is not None:
        voice.warn(f"Stopped: {outcome.stopped}")
    if walltime and outcome.stopped is not None:
        # not `scontrol requeue`, which lets a job wait for minutes
        started = driver.start(paths, current, after=config.caller().slurm_job_id)
        voice.warn(f"The walltime of this driver is over; {started.describe()} goes on.")
        return EXIT_DONE
    return outcome.code


@contextlib.contextmanager
def _signals(stop: Stop, walltime: list[int]) -> Iterator[None]:
    """SIGTERM and SIGHUP end the driver and leave chunks in flight to their workers; so does USR2, its walltime."""

    def handle(number: int, _: FrameType | None) -> None:
        if stop.now and number != signal.SIGUSR2:
            os._exit(128 + number)  # told twice
        walltime.extend([number] if number == signal.SIGUSR2 else [])
        stop.wanted = stop.now = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def work(folder: Path) -> int:
    """Do this job's share of an array's chunks; the exit code."""
    paths = RunPaths(folder.absolute())
    _log_for_jobs()
    began = time.time()
    order = read_order(paths)
    current = read(paths)
    current = dataclasses.replace(current, site=order.site) if order else current
    index, _ = config.array_task()
    name = f"{slurm.job_name(current.run_id)}-{config.caller().slurm_job_id or 'x'}_{index}"
    own, slot = share_job(name, config.workers_per_job(current.site))
    if own is None:
        return slot  # the exit code of those that work
    HERE.name, HERE.slot, HERE.drain_s = own, slot, slurm.drain_s(current.site)
    walltime_s = config.seconds_of(current.site.time) if current.site.time else float("inf")
    HERE.ends = config.job_end() or began + walltime_s
    signal.signal(signal.SIGUSR2, lambda *_: HERE.leave())
    signal.signal(signal.SIGTERM, lambda *_: HERE.end())
    with privately(current.site.group_readable):
        return arrays.work(paths, current)


def _log_for_jobs() -> None:
    """What a job says is read later: with times, and more of it than at a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("modelhub_hpc")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO)
