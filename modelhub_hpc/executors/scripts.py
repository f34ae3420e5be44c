"""What a worker's job does, as dask-jobqueue writes it."""

from __future__ import annotations

import functools
import shlex
import signal
from pathlib import Path
from typing import Any

from modelhub_hpc import config, slurm
from modelhub_hpc.request import RunRequest

# seen from the run folder, in which every job of a run works: no name of a folder gets into a script
OWN = Path(".mh-hpc/workers")
TLS = OWN / "tls"
OUTPUT = "logs/slurm-%j.out"
DEATH_S = 120.0
_SECTION = "mh-hpc"  # of the configuration of dask-jobqueue


def security() -> Any:
    """The certificate and key of this run's driver and workers, by their files."""
    from distributed.security import Security

    names = {"tls_ca_file": TLS / "cert.pem"}
    for role in ("client", "scheduler", "worker"):
        names |= {f"tls_{role}_cert": TLS / "cert.pem", f"tls_{role}_key": TLS / "key.pem"}
    return Security(require_encryption=True, **{name: str(path) for name, path in names.items()})  # type: ignore


def job_settings(run: RunRequest) -> dict[str, Any]:
    """What SLURMCluster and SLURMJob are told of a worker's job; everything, so that no file of dask's adds to it.

    Raises UsageError if the site names no walltime.
    """
    site = run.site
    workers = config.workers_per_job(site)
    walltime_s = config.seconds_of(site.time) if site.time else float("inf")
    ours = ["--processes", workers, "--drain", slurm.drain_s(site), "--walltime", walltime_s]
    ours += ["--interface", site.interface] if site.interface else []
    options = [
        *slurm.worker_options(site),
        f"--output={OUTPUT}",
        "--open-mode=append",
        # SLURM would start the same job again beside the one that takes its place
        "--no-requeue",
    ]
    return {
        "cores": 1,
        "memory": "1GB",
        "processes": 1,
        # what SLURM signals is then the worker, and nothing of it outlives the job
        "python": f"exec {shlex.quote(config.PYTHON)}",
        "worker_command": "modelhub_hpc.executors.worker",
        "worker_extra_args": [shlex.quote(str(word)) for word in ours],
        "job_name": "",
        "job_directives_skip": ["#SBATCH"],  # all of its own
        "job_extra_directives": [shlex.quote(option) for option in options],
        "job_script_prologue": ["export PYTHONSAFEPATH=1", *site.job_prologue],
        "death_timeout": DEATH_S,
        "local_directory": None,
        "log_directory": None,
        "shebang": "#!/bin/bash",
        "interface": None,
        "protocol": "tls://",
        "config_name": _SECTION,
    }


def worker_script(run: RunRequest, address: str, name: str) -> str:
    """The script of the worker job of that name, which finds its driver at `address`."""
    job = jobqueue().SLURMJob(address, name=name, security=security(), **job_settings(run))
    return str(job.job_script())


@functools.cache
def jobqueue() -> Any:
    """dask_jobqueue.slurm; importing it has Ctrl-C end the process without a word, unless that is undone.

    The first call is the main thread's.
    """
    before = signal.getsignal(signal.SIGINT)
    import dask
    from dask_jobqueue import slurm as found

    signal.signal(signal.SIGINT, before)
    # what it is not told it reads from files of its own, unless there is a section that says nothing
    section = {name: None for name in dask.config.get("jobqueue.slurm")}
    dask.config.set({f"jobqueue.{_SECTION}": {**section, "job-script-prologue": [], "scheduler-options": {}}})
    return found
