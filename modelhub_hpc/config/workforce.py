"""How many workers a run has, and what each of them may use."""

from __future__ import annotations

import re
from math import inf

from modelhub_hpc.config.kinds import seconds_of
from modelhub_hpc.config.site import SiteConfig
from modelhub_hpc.config.surroundings import cores, gpus

_SLURM_WORKERS = 4
_WORKER_MB = 512  # that a worker and a container take beside the model


def on_slurm(config: SiteConfig) -> bool:
    """Whether the workers of a run are SLURM jobs."""
    return config.executor in ("slurm", "slurm-array")


def worker_count(config: SiteConfig) -> int:
    """Workers of a run: one inline, else as set, else 4 on SLURM; here by its GPUs, else one per two cores."""
    if config.executor == "inline":
        return 1
    if on_slurm(config):
        return config.workers or _SLURM_WORKERS
    return config.workers or len(gpus(config)) * config.sessions_per_gpu or max(1, cores() // 2)


def workers_here(config: SiteConfig) -> int:
    """Workers that share this machine, or this job: each gets its part of the cores and GPUs."""
    return workers_per_job(config) if on_slurm(config) else worker_count(config)


def workers_per_job(config: SiteConfig) -> int:
    """Workers of one SLURM job: as set, else as many as share the GPUs that the job asks for, else one.

    >>> workers_per_job(SiteConfig(gres="gpu:4")), workers_per_job(SiteConfig(gres="gpu:4", sessions_per_gpu=2))
    (4, 8)
    """
    return config.workers_per_job or max(1, gpus_per_job(config) * config.sessions_per_gpu)


def walltime_s(config: SiteConfig) -> float:
    """How long a worker may live, in seconds.

    >>> walltime_s(SiteConfig(executor="slurm", time="1:00:00")), walltime_s(SiteConfig(time="1:00:00"))
    (3600.0, inf)
    """
    return seconds_of(config.time) if on_slurm(config) and config.time else inf


def gpus_per_job(config: SiteConfig) -> int:
    """GPUs that a worker's job asks for.

    >>> [gpus_per_job(SiteConfig(gres=each)) for each in ("gpu:4", "gpu:a100:2(S:0),lustre:1", "gpu", "nvme:9", None)]
    [4, 2, 1, 0, 0]
    """
    asked = f",{config.gres or ''},{config.gpus_per_node and f'gpu:{config.gpus_per_node}'}"
    found = re.findall(r",(?:gres[:/])?gpu(?=[:,(]|$)(?::[^,:(]*[^,:(\d][^,:(]*)?(?::(\d+))?(?=[,(]|$)", asked)
    return sum(int(count or 1) for count in found)


def shares_no_gpu(config: SiteConfig) -> bool:
    """Whether several workers were to share each GPU, and there is none of which that is known."""
    return config.sessions_per_gpu > 1 and not (gpus_per_job(config) if on_slurm(config) else gpus(config))


def model_mb(config: SiteConfig) -> int | None:
    """Memory that one session may use, in MiB: on SLURM less than its job has, so that the session dies, not the job.

    >>> model_mb(SiteConfig(mem_mb=4096)), model_mb(SiteConfig(mem_mb=4096, executor="slurm"))
    (4096, 3584)
    """
    if config.mem_mb is None or not on_slurm(config):
        return config.mem_mb
    return config.mem_mb - min(_WORKER_MB, config.mem_mb // 4)


def thread_count(config: SiteConfig) -> int:
    """Threads one session may use, so that the sessions of a node do not fight."""
    return config.threads or max(1, cores() // workers_here(config))
