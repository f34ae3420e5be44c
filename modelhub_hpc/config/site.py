"""Every option there is, in the order in which they are shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modelhub_hpc.config.kinds import BatchSize, Fingerprint, RegistryPlace, SbatchArgument, ShellLine, Walltime, Word


def _option(default: Any, text: str) -> Any:
    if isinstance(default, (list, dict, set)):
        raise TypeError("defaults are immutable")
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class SiteConfig:
    """Every option there is. Sizes end in _mb (2**20 bytes), times in _s (seconds)."""

    runtime: Literal["apptainer", "host"] = _option(
        "apptainer", "how sessions run: 'apptainer', or 'host' without any container (development only)"
    )
    executor: Literal["local", "inline", "slurm", "slurm-array"] = _option(
        "local",
        "where chunks run: 'local' worker processes on this machine, 'inline' in the driver itself, 'slurm' jobs "
        "that a driver feeds, or a 'slurm-array' of independent jobs",
    )
    workers: int | None = _option(
        None,
        "worker processes; default 'sessions_per_gpu' for each GPU, or one per two cores; on SLURM the most at a time, "
        "default 4",
    )
    min_workers: int | None = _option(
        None, "SLURM: workers to keep when less work is left; default as many as 'workers'"
    )
    threads: int | None = _option(
        None, "threads a model may use; default the cores divided by the workers; on SLURM CPUs per worker"
    )
    gpu: Literal["auto", "on", "off"] = _option("auto", "pass GPUs into the container (--nv)")
    sessions_per_gpu: int = _option(
        1, "workers that share each GPU, each with the model in it, where one leaves it idle"
    )
    mem_mb: int | None = _option(None, "memory a model may use in MiB; above it the case fails")
    partition: Word | None = _option(None, "SLURM: partition of the workers (-p)")
    account: Word | None = _option(None, "SLURM: account to charge (-A)")
    qos: Word | None = _option(None, "SLURM: quality of service")
    time: Walltime | None = _option(
        None, "SLURM: walltime of a worker job as sbatch takes it (-t), such as 4:00:00; there is no default"
    )
    gres: Word | None = _option(None, "SLURM: generic resources of a worker job, such as gpu:1")
    gpus_per_node: Word | None = _option(None, "SLURM: GPUs of a worker job where the site wants it said this way")
    constraint: Word | None = _option(None, "SLURM: features that nodes must have (-C)")
    workers_per_job: int | None = _option(
        None, "SLURM: workers that share one job and its GPUs; default 'sessions_per_gpu' for each GPU, or one"
    )
    sbatch_args: tuple[SbatchArgument, ...] = _option(
        (), "SLURM: further arguments of sbatch for worker jobs, such as --exclusive"
    )
    controller: Literal["job", "login"] = _option(
        "job", "SLURM: where the driver runs, in a small 'job' of its own or on this 'login' node"
    )
    controller_partition: Word | None = _option(None, "SLURM: partition of the driver's job; default that of workers")
    controller_time: Walltime | None = _option(None, "SLURM: walltime of the driver's job; default that of workers")
    controller_mem_mb: int = _option(1024, "SLURM: memory of the driver's job in MiB")
    controller_sbatch_args: tuple[SbatchArgument, ...] = _option(
        (), "SLURM: further arguments of sbatch for the driver's job"
    )
    job_prologue: tuple[ShellLine, ...] = _option(
        (), "SLURM: shell lines that begin every job, such as 'module load apptainer'"
    )
    interface: Word | None = _option(
        None, "SLURM: network interface between driver and workers; default the one that reaches slurmctld"
    )
    drain_s: float = _option(60.0, "SLURM: seconds before its walltime at which a worker stops taking chunks")
    poll_s: float = _option(15.0, "SLURM: shortest time between two looks at the queue")
    group_readable: bool = _option(False, "let the group read new run folders; otherwise only their owner may")
    case_timeout_s: float = _option(3600.0, "longest time one case may take")
    start_timeout_s: float = _option(600.0, "longest time a model may take to load")
    chunk_size: int | None = _option(None, "cases per chunk; default about 30 s of work")
    batch_size: BatchSize = _option(
        BatchSize("1"), "cases that a model with infer_batch computes together; 'auto' finds out how many are fastest"
    )
    max_failures: int | None = _option(None, "stop once more cases than this have failed")
    nan: Literal["fail", "keep"] = _option(
        "fail",
        "volumes with NaN or infinite voxels: 'fail' the case, or 'keep' (many readers turn them into 0)",
    )
    max_input_mb: int = _option(16384, "largest input file in MiB")
    max_elements: int = _option(2**30, "largest number of decoded pixels or voxels in one input")
    max_output_mb: int = _option(4096, "largest sum of the arrays of one case in MiB")
    max_log_mb: int = _option(64, "largest log file of one session in MiB; more is dropped and counted")
    allow_network: bool = _option(False, "let models use the network")
    seccomp: bool = _option(True, "forbid models the system calls that none needs (mount, ptrace, bpf, ...)")
    scratch_dir: Path | None = _option(None, "node-local folder for sessions; default TMPDIR or /tmp")
    stage_image: bool = _option(
        False, "copy the image to each node, below scratch_dir, where starting from shared storage is slow"
    )
    cache_dir: Path | None = _option(None, "images, pulled models and copies of registries; default ~/.cache/mh-hpc")
    library_dirs: tuple[Path, ...] = _option((), "read-only image stores, searched first (':'-separated)")
    model_dirs: tuple[Path, ...] = _option((), "folders with contributions, searched first (':'-separated)")
    registries: tuple[RegistryPlace, ...] = _option(
        (), "registries of models, asked before ours: folders, or git URLs, each with #BRANCH if need be"
    )
    require_signature: tuple[Fingerprint, ...] = _option(
        (), "use only images signed by one of these PGP keys (fingerprints, ':'-separated)"
    )


OPTIONS: Mapping[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(SiteConfig)}
