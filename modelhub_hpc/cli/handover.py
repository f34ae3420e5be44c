"""Say that a run was handed over, and follow it from here if asked: it goes on without this command."""

from __future__ import annotations

import dataclasses
import shlex
import time
from typing import Any

from modelhub_hpc import arrays, owner, run, slurm
from modelhub_hpc.cli import progress as display
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.errors import EXIT_INTERRUPTED, EXIT_TRY_AGAIN
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import Order, RunRequest
from modelhub_hpc.run import Progress
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.runs.handover import Handed, driver_job, record_of

FOLLOW_S = 1.0
_QUEUE_S = 15.0  # between two looks at SLURM's queue


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
    if record_of(handed.paths) in (None, handed.before):
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
