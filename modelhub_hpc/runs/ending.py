"""End what drives a run, and all of its jobs; what is done stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelhub_hpc import config, owner, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import UnfitError, shown
from modelhub_hpc.owner import OwnerRecord
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.runs import belongs, drives, noted_jobs, site_now
from modelhub_hpc.runs.look import FRESH_S
from modelhub_hpc.slurm import Job

_LOOKS_S = (0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 22.0, 30.0)  # after which it is seen what is left
_TICK_S = 0.1
_KINDS = {"": "driver", "w": "worker", "a": "array"}


@dataclass
class Ending:
    """The end of a run. jobs: those that were ended, kind by id; process: the driver that was told to end.

    left: what goes on all the same; clearing: jobs that SLURM has not cleared away yet.
    """

    paths: RunPaths
    of: RunRequest
    site: SiteConfig
    jobs: dict[str, str] = field(default_factory=dict)
    process: OwnerRecord | None = None
    left: list[str] = field(default_factory=list)
    clearing: list[str] = field(default_factory=list)

    @classmethod
    def of_run(cls, paths: RunPaths, of: RunRequest) -> Ending:
        """Nothing has been ended yet."""
        return cls(paths, of, site_now(paths, of))

    def end(self, patience_s: float = _LOOKS_S[-1]) -> None:
        """End what would replace lost workers, then the workers, and look until nothing is left, for `patience_s`.

        A run on this machine finishes the chunks in flight; told again, it ends at once.
        Raises UnfitError for a driver that cannot be reached from here, and what SLURM answers.
        """
        _end(self, [after_s for after_s in _LOOKS_S if after_s <= patience_s])


def _end(ending: Ending, looks_s: Sequence[float]) -> None:
    asks = config.on_slurm(ending.site) or bool(noted_jobs(ending.paths))
    jobs = _jobs(ending.of) if asks else []
    _end_process(ending, jobs)
    began = time.monotonic()
    for after_s in looks_s:
        lives = _lives(ending)
        while time.monotonic() < began + after_s and (asks or lives):
            time.sleep(_TICK_S)
            lives = _lives(ending)
        jobs = jobs if not after_s else _jobs(ending.of) if asks else []
        _end_jobs(ending, [job for job in jobs if not job.ended])
        if not (jobs or lives):
            return
    ending.clearing = [job.id for job in jobs if job.ended]
    ending.left = [f"job {job.id} ({job.state})" for job in jobs if not job.ended]
    if lives and ending.process is not None:
        ending.left.append(f"{ending.process.describe()}: it finishes what it has begun; told again, it ends at once")


def _jobs(of: RunRequest) -> list[Job]:
    """The jobs of the run that SLURM lists, those included that have ended and are not cleared away."""
    return [job for job in slurm.queue(slurm.job_name(of.run_id)) if belongs(job.name, of.run_id)]


def _end_process(ending: Ending, jobs: Sequence[Job]) -> None:
    """Tell a driver to end that is no job of the run: one on a login node, or of a run on one machine."""
    holder = owner.holder(ending.paths.private)
    if holder is None or holder.alive is False:
        return
    record = holder.record
    if any(job.id == record.job_id and drives(job.name, ending.of.run_id) for job in jobs):
        return
    if holder.alive is None:
        _judge_hidden(ending, record)
        return
    finishes = not config.on_slurm(ending.site) and not _ignores(record.pid, signal.SIGINT)
    try:
        os.kill(record.pid, signal.SIGINT if finishes else signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise UnfitError(f"The run is driven by {record.describe()}, which is not yours to end.") from error
    ending.process = record


def _judge_hidden(ending: Ending, record: OwnerRecord) -> None:
    """Raises UnfitError if a driver lives that no signal reaches from here."""
    was_job = record.job_id is not None and config.on_slurm(ending.site)  # and SLURM has it no more
    if was_job or read_json(ending.paths.progress_json).get("updated", 0.0) < time.time() - FRESH_S:
        return
    job = f"\nor, as it is in a job of yours:  scancel {record.job_id}" if record.job_id else ""
    raise UnfitError(
        f"The run is driven by {record.describe()}, which cannot be reached from {config.node()}.\n"
        f"On {record.host}:  mh-hpc cancel {shown(ending.paths.root)}{job}"
    )


def _ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal, as background jobs of scripts do."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    except (OSError, StopIteration):
        return False
    return bool(int(ignored, 16) >> (number - 1) & 1)


def _lives(ending: Ending) -> bool:
    """Whether the driver that was told to end still lives."""
    if ending.process is None:
        return False
    holder = owner.holder(ending.paths.private)
    return holder is not None and holder.record == ending.process and holder.alive is not False


def _end_jobs(ending: Ending, jobs: Sequence[Job]) -> None:
    driving = [job for job in jobs if drives(job.name, ending.of.run_id)]
    others = [job for job in jobs if job not in driving]
    for some in (driving, others):
        ids = {job.id.split("_")[0]: _kind(job, ending.of) for job in some}  # of an array all tasks
        slurm.cancel(ids)
        ending.jobs |= ids


def _kind(job: Job, of: RunRequest) -> str:
    """What a job of the run does, as its name says."""
    return _KINDS[job.name[len(slurm.job_name(of.run_id)) :][1:2]]
