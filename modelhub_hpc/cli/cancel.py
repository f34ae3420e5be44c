"""`mh-hpc cancel`: end what drives a run, and all of its jobs; what is done stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelhub_hpc import config, owner, request, slurm
from modelhub_hpc.cli.look import FRESH_S, Counts, settled
from modelhub_hpc.cli.output import Voice, number, one_line
from modelhub_hpc.cli.progress import waiting
from modelhub_hpc.cli.runs import belongs, drives, find, noted_jobs, site_now
from modelhub_hpc.cli.submit import resume_command
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import EXIT_DONE, EXIT_TRY_AGAIN, ModelHubError, UnfitError
from modelhub_hpc.owner import OwnerRecord
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.slurm import Job

_LOOKS_S = (0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 22.0, 30.0)  # after which it is seen what is left
_TICK_S = 0.1
_KINDS = {"": "driver", "w": "worker", "a": "array"}


@dataclass
class _Ending:
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
    code: int = EXIT_DONE


def cancel(named: Sequence[Path], voice: Voice) -> int:
    """End these runs, one after the other; the exit code: the highest of theirs."""
    runs = dict.fromkeys(find(each) for each in named)  # all of them, before anything is ended
    endings = [_cancel(paths, voice) for paths in runs]
    if voice.json:
        voice.answer([_facts(ending, counts) for ending, counts in endings])
    return max(ending.code for ending, _ in endings)


def _cancel(paths: RunPaths, voice: Voice) -> tuple[_Ending, Counts]:
    of = request.read(paths)
    ending = _Ending(paths, of, site_now(paths, of))
    try:
        with waiting(voice, f"Ending {one_line(of.run_id)}"):
            _end(ending)
        ending.code = EXIT_TRY_AGAIN if ending.left else EXIT_DONE
    except ModelHubError as error:
        ending.code = error.exit_code
        ending.left.append(str(error))
    counts = settled(paths, of)
    _tell(ending, counts, voice)
    return ending, counts


def _end(ending: _Ending) -> None:
    """End what would replace lost workers, then the workers, and look until nothing is left, for half a minute."""
    asks = config.on_slurm(ending.site) or bool(noted_jobs(ending.paths))
    jobs = _jobs(ending.of) if asks else []
    _end_process(ending, jobs)
    began = time.monotonic()
    for after_s in _LOOKS_S:
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


def _end_process(ending: _Ending, jobs: Sequence[Job]) -> None:
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


def _judge_hidden(ending: _Ending, record: OwnerRecord) -> None:
    """Raises UnfitError if a driver lives that no signal reaches from here."""
    was_job = record.job_id is not None and config.on_slurm(ending.site)  # and SLURM has it no more
    if was_job or read_json(ending.paths.progress_json).get("updated", 0.0) < time.time() - FRESH_S:
        return
    job = f"\nor, as it is in a job of yours:  scancel {record.job_id}" if record.job_id else ""
    raise UnfitError(
        f"The run is driven by {record.describe()}, which cannot be reached from {config.node()}.\n"
        f"On {record.host}:  mh-hpc cancel {one_line(ending.paths.root)}{job}"
    )


def _ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal, as background jobs of scripts do."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    except (OSError, StopIteration):
        return False
    return bool(int(ignored, 16) >> (number - 1) & 1)


def _lives(ending: _Ending) -> bool:
    """Whether the driver that was told to end still lives."""
    if ending.process is None:
        return False
    holder = owner.holder(ending.paths.private)
    return holder is not None and holder.record == ending.process and holder.alive is not False


def _end_jobs(ending: _Ending, jobs: Sequence[Job]) -> None:
    driving = [job for job in jobs if drives(job.name, ending.of.run_id)]
    others = [job for job in jobs if job not in driving]
    for some in (driving, others):
        ids = {job.id.split("_")[0]: _kind(job, ending.of) for job in some}  # of an array all tasks
        slurm.cancel(ids)
        ending.jobs |= ids


def _kind(job: Job, of: RunRequest) -> str:
    """What a job of the run does, as its name says."""
    return _KINDS[job.name[len(slurm.job_name(of.run_id)) :][1:2]]


# -- what is said -----------------------------------------------------------------------------------------------------


def _tell(ending: _Ending, counts: Counts, voice: Voice) -> None:
    name = one_line(ending.of.run_id)
    if ending.process is not None:
        voice.say(f"{name}: told {ending.process.describe()} to end.")
    for kind in dict.fromkeys(ending.jobs.values()):
        ids = [each for each, its in ending.jobs.items() if its == kind]
        voice.say(f"{name}: ended {number(len(ids), kind)}: job {', '.join(ids)}.")
    if not (ending.process or ending.jobs or ending.left):
        voice.say(f"{name}: nothing to cancel, since nothing drives it and it has no jobs.")
    if ending.clearing:
        voice.say(f"{name}: SLURM is still clearing away job {', '.join(ending.clearing)}.")
    for each in ending.left:
        voice.warn(f"{name}: not ended: {each}")
    voice.say(counts.describe() + (f". To continue:\n  {resume_command(ending.paths)}" if counts.to_go else ""))


def _facts(ending: _Ending, counts: Counts) -> dict[str, Any]:
    process = ending.process
    return {
        "run": str(ending.paths.root),
        "run_id": ending.of.run_id,
        "ended": [{"job": job_id, "kind": kind} for job_id, kind in ending.jobs.items()],
        "told": {"host": process.host, "pid": process.pid} if process else None,
        "left": ending.left,
        "done": counts.done,
        "failed": counts.failed,
        "to_go": counts.to_go,
        "resume": resume_command(ending.paths),
    }
