"""`mh-hpc cancel`: end what drives a run, and all of its jobs; what is done stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from modelhub_hpc import config, owner, request, slurm
from modelhub_hpc.cli.look import FRESH_S, Counts, read_json, settled
from modelhub_hpc.cli.output import Voice, number, one_line
from modelhub_hpc.cli.progress import waiting
from modelhub_hpc.cli.runs import belongs, drives, find, noted_jobs, site_now
from modelhub_hpc.cli.submit import resume_command
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import EXIT_DONE, EXIT_TRY_AGAIN, ModelHubError, UnfitError
from modelhub_hpc.owner import Holder, OwnerRecord
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest
from modelhub_hpc.slurm import Job

_LOOKS_S = (0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 22.0, 30.0)  # after which it is seen what is left
_TICK_S = 0.1
_PROC = Path("/proc")


@dataclass
class _Ending:
    """What was done to end a run. jobs: kind by id; process: the driver that was told to end; left: what goes on."""

    paths: RunPaths
    of: RunRequest
    site: SiteConfig
    jobs: dict[str, str] = field(default_factory=dict)
    process: OwnerRecord | None = None
    left: list[str] = field(default_factory=list)
    clearing: list[str] = field(default_factory=list)


def cancel(named: Sequence[Path], voice: Voice) -> int:
    """End these runs, one after the other; the exit code: the highest of theirs."""
    runs = [find(each) for each in named]  # all of them, before anything is ended
    codes, facts = [EXIT_DONE], []
    for paths in runs:
        of = request.read(paths)
        ending = _Ending(paths, of, site_now(paths, of))
        try:
            with waiting(voice, f"Ending {one_line(of.run_id)}"):
                _end(ending)
        except ModelHubError as error:
            codes.append(error.exit_code)
            ending.left.append(str(error))
        codes.append(EXIT_TRY_AGAIN if ending.left and codes[-1] == EXIT_DONE else EXIT_DONE)
        counts = settled(paths, of)
        _tell(ending, counts, voice)
        facts.append(_facts(ending, counts))
    if voice.json:
        voice.answer(facts)
    return max(codes)


def _end(ending: _Ending) -> None:
    """First what would replace lost workers, then the workers; then look until nothing of it is left."""
    by_slurm = config.on_slurm(ending.site) or bool(noted_jobs(ending.paths))
    jobs = _jobs(ending.of) if by_slurm else []
    holder = owner.holder(ending.paths.private)
    if holder is not None and not _is_job(holder, jobs):
        _end_process(ending, holder)
    began = time.monotonic()
    for after_s in _LOOKS_S:
        if _wait(ending, began + after_s) and not by_slurm:
            break
        jobs = _jobs(ending.of) if by_slurm else []
        _end_jobs(ending, [job for job in jobs if not job.ended])
        if not jobs and not _lives(ending):
            break
    ending.clearing = [job.id for job in jobs if job.ended]
    ending.left += [f"job {job.id} ({job.state})" for job in jobs if not job.ended]
    if _lives(ending):
        assert ending.process is not None
        ending.left.append(f"{ending.process.describe()}, which finishes what is in flight")
