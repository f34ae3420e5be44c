"""What the calling environment says: who runs, where, with which programs and devices. The only reader of variables."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelhub_hpc.config.site import SiteConfig

# programs and their libraries, the user, the language, environment modules, which cluster, and whom it charges
_FOR_JOBS = re.compile(
    "PATH|LD_LIBRARY_PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_[A-Z]+|TZ"
    "|PYTHON(PATH|HOME)|VIRTUAL_ENV|CONDA_(PREFIX|EXE)|XDG_(CONFIG|CACHE|DATA)_(HOME|DIRS)"
    "|BASH_ENV|BASH_FUNC_(module|ml|_module_raw)(%%|\\(\\))|MODULE[A-Z_]+|LMOD_[A-Za-z_]+"
    "|APPTAINER_(CONFIGDIR|KEYSDIR)|SSL_CERT_(FILE|DIR)"
    "|SLURM_CONF|SLURM_CONF_SERVER|SBATCH_(ACCOUNT|PARTITION|QOS|RESERVATION|CONSTRAINT)"
)

_FOR_GIT = ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_SSH_COMMAND")

CLOCKS_S = 120.0  # by which the clocks of the machines of a cluster may differ


@dataclass(frozen=True)
class Caller:
    """What the calling environment says about who runs, where, and with which devices."""

    home: Path
    tmpdir: Path
    path: str
    library_path: str
    apptainer_keys: Path
    user: str
    cuda_visible_devices: str | None
    slurm_job_id: str | None
    node: str
    terminal: str


def caller() -> Caller:
    """The caller's environment, read once per call."""
    env = os.environ
    home = Path(env.get("HOME") or os.path.expanduser("~"))
    return Caller(
        home=home,
        tmpdir=Path(env.get("TMPDIR") or "/tmp").absolute(),
        path=env.get("PATH", os.defpath),
        library_path=env.get("LD_LIBRARY_PATH", ""),
        apptainer_keys=_apptainer_keys(env, home),
        user=_user(),
        cuda_visible_devices=env.get("CUDA_VISIBLE_DEVICES"),
        slurm_job_id=env.get("SLURM_JOB_ID"),
        node=env.get("SLURMD_NODENAME") or os.uname().nodename,
        terminal=env.get("TERM", "dumb"),
    )


@functools.cache
def node() -> str:
    """What this machine is called: by SLURM within a job, else by itself."""
    return caller().node


def _apptainer_keys(env: Mapping[str, str], home: Path) -> Path:
    """Where Apptainer keeps this user's PGP keys."""
    own = env.get("APPTAINER_KEYSDIR")
    return Path(own) if own else Path(env.get("APPTAINER_CONFIGDIR") or home / ".apptainer") / "keys"


@dataclass(frozen=True)
class Logins:
    """Where credentials for container registries may lie, best first; and those that the environment holds."""

    files: tuple[Path, ...]
    username: str | None
    password: str | None = field(repr=False)


def logins() -> Logins:
    """Apptainer's own credentials go before Docker's, as in Apptainer."""
    env, home = os.environ, caller().home
    own = Path(env.get("APPTAINER_CONFIGDIR") or home / ".apptainer") / "docker-config.json"
    docker = Path(env.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    names = "APPTAINER_DOCKER_USERNAME", "APPTAINER_DOCKER_PASSWORD"
    return Logins((own, docker), *(env.get(name) or None for name in names))


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # no entry, as in some containers


def job_environment() -> dict[str, str]:
    """What a job may know of the environment in which it is submitted: enough to find programs, and no secrets."""
    return {name: value for name, value in os.environ.items() if _FOR_JOBS.fullmatch(name)}


def git_environment() -> dict[str, str]:
    """What git may know: how the caller reaches the network, and nothing that points it elsewhere or asks people."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _FOR_GIT or not name.startswith(("GIT_", "SSH_ASKPASS"))
    }
    ssh = "ssh -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=20"
    # what a partial clone lacks is not fetched from wherever that clone says
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    return {"GIT_SSH_COMMAND": ssh, **kept, **fixed}


def job_end() -> float | None:
    """When SLURM ends this job, in seconds since 1970; None where it does not say (before version 22.05)."""
    said = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdigit() and int(said) else None


def array_task() -> tuple[int, int]:
    """Which job of an array this is, from 0, and how many there are; (0, 1) for any other job."""
    first, step, count, this = (
        int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("MIN", 0), ("STEP", 1), ("COUNT", 1), ("ID", 0))
    )
    return (this - first) // max(step, 1), count


def in_round() -> bool:
    """Whether this job belongs to an array that mh-hpc has submitted."""
    return "MH_JOB_ROUND" in os.environ


def find_program(name: str, more: str = "") -> str | None:
    """Where a program lies on the caller's PATH, or else in the folders of `more`; None if nowhere."""
    return shutil.which(name, path=f"{caller().path}:{more}" if more else caller().path)


def cache_dir(config: SiteConfig) -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return config.cache_dir or (Path(base) if base else caller().home / ".cache") / "mh-hpc"


def keep_fonts(config: SiteConfig) -> None:
    """Have matplotlib keep its list of fonts in our cache, unless the caller has said where."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_dir(config) / "matplotlib"))


def scratch_dir(config: SiteConfig) -> Path:
    return config.scratch_dir or caller().tmpdir


def cores() -> int:
    """Cores this process may use (cpuset, affinity and the CPUs of a SLURM job respected)."""
    usable = len(os.sched_getaffinity(0))
    # not every site binds jobs to their CPUs
    of_job = os.environ.get("SLURM_CPUS_ON_NODE", "") if caller().slurm_job_id else ""
    return min(usable, int(of_job)) if of_job.isdigit() and int(of_job) else usable


def gpus(config: SiteConfig) -> tuple[str, ...]:
    """The GPUs that sessions may use, as CUDA_VISIBLE_DEVICES names them; empty without GPUs."""
    if config.gpu == "off":
        return ()
    visible = caller().cuda_visible_devices
    if visible is not None:
        return tuple(d for d in visible.split(",") if d.strip() not in ("", "-1", "NoDevFiles"))
    nodes = (re.fullmatch(r"nvidia(\d+)", name) for name in os.listdir("/dev"))
    found = tuple(sorted((m.group(1) for m in nodes if m), key=int))
    return found or (("0",) if config.gpu == "on" else ())
