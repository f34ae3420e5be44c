"""What a site and a user can set: one list of options, one precedence; the only reader of the environment.

Order, later wins: built-in < /etc/xdg/mh-hpc/config.yaml < ~/.config/mh-hpc/config.yaml < ./mh-hpc.yaml
< MH_HPC_* variables < command-line flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelhub_hpc.config.kinds import convert, megabytes, seconds_of
from modelhub_hpc.config.site import OPTIONS, SiteConfig
from modelhub_hpc.config.surroundings import (
    CLOCKS_S,
    Caller,
    Logins,
    array_task,
    cache_dir,
    caller,
    cores,
    find_program,
    git_environment,
    gpus,
    in_round,
    job_end,
    job_environment,
    keep_fonts,
    logins,
    node,
    scratch_dir,
)
from modelhub_hpc.config.workforce import (
    gpus_per_job,
    model_mb,
    on_slurm,
    shares_no_gpu,
    thread_count,
    walltime_s,
    worker_count,
    workers_here,
    workers_per_job,
)
from modelhub_hpc.errors import UsageError

__all__ = [
    "CLOCKS_S",
    "COMMAND_LINE",
    "Caller",
    "DEFAULT",
    "Logins",
    "OPTIONS",
    "PREFIX",
    "PYTHON",
    "SiteConfig",
    "array_task",
    "cache_dir",
    "caller",
    "cores",
    "files",
    "find_program",
    "from_json",
    "git_environment",
    "gpus",
    "gpus_per_job",
    "in_round",
    "job_end",
    "job_environment",
    "keep_fonts",
    "known",
    "load",
    "load_with_origins",
    "logins",
    "megabytes",
    "model_mb",
    "node",
    "on_slurm",
    "scratch_dir",
    "seconds_of",
    "shares_no_gpu",
    "thread_count",
    "to_json",
    "walltime_s",
    "worker_count",
    "workers_here",
    "workers_per_job",
]

PREFIX = "MH_HPC_"
DEFAULT = "default"
COMMAND_LINE = "the command line"
PYTHON = sys.executable
_TYPES = typing.get_type_hints(SiteConfig)


def files() -> list[Path]:
    """The configuration files in order of precedence, lowest first."""
    env = os.environ
    system = (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")[0]
    personal = env.get("XDG_CONFIG_HOME") or str(caller().home / ".config")
    return [Path(system) / "mh-hpc/config.yaml", Path(personal) / "mh-hpc/config.yaml", Path("mh-hpc.yaml")]


def load(flags: Mapping[str, Any] | None = None) -> SiteConfig:
    """Resolve every option; `flags` are command-line values, None meaning not given."""
    return load_with_origins(flags)[0]


def load_with_origins(flags: Mapping[str, Any] | None = None) -> tuple[SiteConfig, dict[str, str]]:
    """`load`, and for every option where its value comes from: DEFAULT, a file, a variable's name, or COMMAND_LINE."""
    values, origins = dict[str, Any](), dict.fromkeys(OPTIONS, DEFAULT)
    for origin, given in _sources(flags or {}):
        values.update(given)
        origins.update(dict.fromkeys(given, origin))
    return dataclasses.replace(SiteConfig(), **values), origins


def _sources(flags: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that gives options values, lowest precedence first: its name, and the values."""
    for path in files():
        yield str(path.absolute()), _read(path)
    for variable, text in os.environ.items():
        if variable.startswith(PREFIX):
            where = f"the variable {variable}"
            name = known(variable[len(PREFIX) :].lower(), where)
            yield variable, {name: _typed(name, text, where)}
    given = {name: _typed(name, value, COMMAND_LINE) for name, value in flags.items() if value is not None}
    yield COMMAND_LINE, given


def to_json(config: SiteConfig) -> dict[str, Any]:
    """The options as JSON values; `from_json` is the inverse."""
    return {name: _plain(getattr(config, name)) for name in OPTIONS}


def from_json(values: Mapping[str, Any]) -> SiteConfig:
    """Rebuild the options that `to_json` wrote."""
    given = {k: _typed(k, v, "the run record") for k, v in values.items() if v is not None}
    return dataclasses.replace(SiteConfig(), **given)


def known(name: str, where: str) -> str:
    """The name, if it is an option's. Raises UsageError that names the nearest."""
    if name in OPTIONS:
        return name
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"Unknown option '{name}' in {where}.{guess}\nKnown: {', '.join(OPTIONS)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            return {}
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    import yaml  # here, since every command comes by and most find no file

    try:
        # every value as it is written: YAML would read 4:00:00 as a number in base 60
        data = yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    except RecursionError:
        raise UsageError(f"{path} is not valid YAML: it is nested too deeply") from None
    if not data:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path} must hold 'option: value' lines, not a {type(data).__name__}.")
    return {known(str(k), str(path)): _typed(str(k), v, str(path)) for k, v in data.items()}


def _typed(name: str, value: Any, where: str) -> Any:
    try:
        return convert(_TYPES[known(name, where)], value, name)
    except (ValueError, TypeError) as error:
        raise UsageError(f"Option '{name}' in {where}: {value!r} is not {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [str(v) for v in value]
    return value
