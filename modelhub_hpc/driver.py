"""Start the driver of a run so that it outlives the command that starts it: as a SLURM job, or as a process here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from modelhub_hpc import config, processes, resources, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.record import RunPaths, publish_json
from modelhub_hpc.request import RunRequest

_TAIL = 4096


@dataclass(frozen=True)
class Started:
    """A driver on its way: the id of its job, or its process on this host."""

    job_id: str | None
    pid: int | None

    def describe(self) -> str:
        return f"job {self.job_id}" if self.job_id else f"pid {self.pid} on {config.node()}"


def start(paths: RunPaths, run: RunRequest, after: str | None = None) -> Started:
    """Have the run's order carried out; after: the id of a job to wait for.

    Raises UsageError if the site names no walltime, Unreachable, LimitReached or UnfitError if SLURM takes no job.
    """
    if not config.on_slurm(run.site) or (run.site.controller == "login" and after is None):
        log_path = paths.logs / f"driver-{config.node()}-{time.strftime('%Y%m%dT%H%M%S')}.log"
        command = [config.PYTHON, "-m", "modelhub_hpc.cli", "drive", "."]
        environment = {**config.job_environment(), "PYTHONSAFEPATH": "1"}
        return Started(None, processes.detach(command, paths.root, log_path, environment))
    options = [*slurm.driver_options(run.site), f"--job-name={slurm.job_name(run.run_id)}"]
    options += [f"--dependency=afterany:{after}"] if after else []
    job_id = slurm.submit(options, resources.folder("slurm") / "driver.sbatch", paths.root, variables(run.site))
    note_job(paths, job_id, "driver", slurm.job_name(run.run_id))
    return Started(job_id, None)


def variables(site: SiteConfig) -> list[str]:
    """What the scripts in slurm/ read from their environment."""
    return [f"MH_JOB_PYTHON={config.PYTHON}", "MH_JOB_PROLOGUE=" + "\n".join(site.job_prologue)]


def note_job(paths: RunPaths, job_id: str, kind: str, name: str) -> None:
    """Keep for status and the record that this job is the run's."""
    publish_json(paths.jobs / f"{job_id}.json", {"id": job_id, "kind": kind, "name": name, "submitted": time.time()})


def last_words(paths: RunPaths, job_id: str) -> str:
    """The end of the log of one of the run's jobs."""
    try:
        with open(paths.logs / f"slurm-{job_id}.out", "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            return stream.read().decode(errors="replace").strip()
    except OSError as error:
        return f"(no log: {error.strerror})"
