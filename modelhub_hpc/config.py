"""What a site and a user can set: one list of options, one precedence; the only reader of the environment.

Order, later wins: built-in < /etc/xdg/mh-hpc/config.yaml < ~/.config/mh-hpc/config.yaml < ./mh-hpc.yaml
< MH_HPC_* variables < command-line flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pwd
import re
import shutil
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from modelhub_hpc.errors import UsageError

PREFIX = "MH_HPC_"
PYTHON = sys.executable


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
    executor: Literal["local", "inline"] = _option(
        "local",
        "where chunks run: 'local' worker processes on this machine, or 'inline' in the driver itself",
    )
    workers: int | None = _option(None, "worker processes; default one per GPU, or one per two cores")
    threads: int | None = _option(None, "threads a model may use; default the cores divided by the workers")
    gpu: Literal["auto", "on", "off"] = _option("auto", "pass GPUs into the container (--nv)")
    mem_mb: int | None = _option(None, "memory a model may use in MiB; above it the case fails")
    case_timeout_s: float = _option(3600.0, "longest time one case may take")
    start_timeout_s: float = _option(600.0, "longest time a model may take to load")
    chunk_size: int | None = _option(None, "cases per chunk; default about 30 s of work")
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
    cache_dir: Path | None = _option(None, "image store that can be written; default ~/.cache/mh-hpc")
    library_dirs: tuple[Path, ...] = _option((), "read-only image stores, searched first (':'-separated)")
    model_dirs: tuple[Path, ...] = _option((), "folders with contributions, searched first (':'-separated)")
    require_signature: tuple[str, ...] = _option(
        (), "use only images signed by one of these PGP keys (fingerprints, ':'-separated)"
    )


OPTIONS: Mapping[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(SiteConfig)}
_TYPES = typing.get_type_hints(SiteConfig)


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
    )


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


def files() -> list[Path]:
    """The configuration files in order of precedence, lowest first."""
    env = os.environ
    system = (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")[0]
    personal = env.get("XDG_CONFIG_HOME") or str(caller().home / ".config")
    return [Path(system) / "mh-hpc/config.yaml", Path(personal) / "mh-hpc/config.yaml", Path("mh-hpc.yaml")]


def load(flags: Mapping[str, Any] | None = None) -> SiteConfig:
    """Resolve every option; `flags` are command-line values, None meaning not given."""
    values: dict[str, Any] = {}
    for path in files():
        if path.is_file():
            values.update(_read(path))
    values.update(_variables())
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _typed(name, value, "the command line")
    return dataclasses.replace(SiteConfig(), **values)


def to_json(config: SiteConfig) -> dict[str, Any]:
    """The options as JSON values; `from_json` is the inverse."""
    return {name: _plain(getattr(config, name)) for name in OPTIONS}


def from_json(values: Mapping[str, Any]) -> SiteConfig:
    """Rebuild the options that `to_json` wrote."""
    given = {k: _typed(k, v, "the run record") for k, v in values.items() if v is not None}
    return dataclasses.replace(SiteConfig(), **given)


def cache_dir(config: SiteConfig) -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return config.cache_dir or (Path(base) if base else caller().home / ".cache") / "mh-hpc"


def scratch_dir(config: SiteConfig) -> Path:
    return config.scratch_dir or caller().tmpdir


def cores() -> int:
    """Cores this process may use (cpuset and affinity respected)."""
    return len(os.sched_getaffinity(0))


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


def worker_count(config: SiteConfig) -> int:
    """Workers of a run here: one inline, else as set, else one per GPU, else one per two cores."""
    if config.executor == "inline":
        return 1
    return config.workers or len(gpus(config)) or max(1, cores() // 2)


def thread_count(config: SiteConfig) -> int:
    """Threads one session may use, so that the sessions of a node do not fight."""
    return config.threads or max(1, cores() // worker_count(config))


def find_program(name: str, more: str = "") -> str | None:
    """Where a program lies on the caller's PATH, or else in the folders of `more`; None if nowhere."""
    return shutil.which(name, path=f"{caller().path}:{more}" if more else caller().path)


def megabytes(text: str | int) -> int:
    """sbatch's way to write memory (4096, 4096M, 4G, 512K, 1T) in MiB, rounded up.

    >>> megabytes("4G"), megabytes("4096"), megabytes("512K")
    (4096, 4096, 1)
    """
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", str(text).strip().upper())
    if not match:
        raise UsageError(f"Not an amount of memory: {text!r}. Write it as sbatch does: 4096, 4096M or 4G.")
    return -(-int(match[1]) * {"K": 1, "": 1024, "M": 1024, "G": 1024**2, "T": 1024**3}[match[2]] // 1024)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path} must hold 'option: value' lines, not a {type(data).__name__}.")
    return {_known(str(k), str(path)): _typed(str(k), v, str(path)) for k, v in data.items()}


def _variables() -> dict[str, Any]:
    found = {}
    for variable, text in os.environ.items():
        if variable.startswith(PREFIX):
            name = _known(variable[len(PREFIX) :].lower(), f"the variable {variable}")
            found[name] = _typed(name, text, f"the variable {variable}")
    return found


def _known(name: str, where: str) -> str:
    if name in OPTIONS:
        return name
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"Unknown option '{name}' in {where}.{guess}\nKnown: {', '.join(OPTIONS)}")


def _typed(name: str, value: Any, where: str) -> Any:
    try:
        return _convert(_TYPES[_known(name, where)], value, name)
    except (ValueError, TypeError) as error:
        raise UsageError(f"Option '{name}' in {where}: {value!r} is not {error}.") from error


def _convert(kind: Any, value: Any, name: str) -> Any:
    """Turn text, YAML or JSON values into the option's type; ValueError says what was expected."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    origin = typing.get_origin(kind)
    if origin is Literal:
        return _choice(typing.get_args(kind), value)
    if origin is tuple:
        each = _path if typing.get_args(kind)[0] is Path else _fingerprint
        return tuple(each(part) for part in _parts(value))
    if kind is bool:
        return _boolean(value)
    if kind is Path:
        return _path(value)
    return _number(kind, value, name)


def _choice(choices: Sequence[str], value: Any) -> str:
    # YAML reads a bare on/off as a boolean
    text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
    if text not in choices:
        raise ValueError("one of " + ", ".join(choices))
    return text


def _boolean(value: Any) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    text = str(value).lower()
    if text not in words:
        raise ValueError("yes or no")
    return words[text]


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return [p for p in value.split(":") if p]
    if isinstance(value, (list, tuple)):
        return value
    raise ValueError("a list")


def _path(value: Any) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError("a path")
    return Path(value).expanduser().absolute()


def _fingerprint(value: Any) -> str:
    """Of a PGP key, as `apptainer key list` or gpg shows it."""
    text = "".join(str(value).split()).upper()
    if not re.fullmatch("[0-9A-F]{40}|[0-9A-F]{64}", text):
        raise ValueError("a fingerprint of 40 hexadecimal digits (apptainer key list)")
    return text


def _number(kind: type, value: Any, name: str) -> int | float:
    if name.endswith("_mb"):
        try:
            return megabytes(value)
        except UsageError:
            raise ValueError("an amount of memory such as 4096 or 4G") from None
    if isinstance(value, bool):
        raise ValueError("a number")
    try:
        number = kind(value)
    except (ValueError, TypeError):
        raise ValueError("a whole number" if kind is int else "a number") from None
    if not 0 <= number < 2**53 or (number == 0 and name != "max_failures"):
        raise ValueError("a positive number")
    return typing.cast("int | float", number)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [str(v) for v in value]
    return value
