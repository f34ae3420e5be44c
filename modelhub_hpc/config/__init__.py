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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from modelhub_hpc.config.kinds import convert, megabytes, seconds_of
from modelhub_hpc.config.site import OPTIONS, SiteConfig
from modelhub_hpc.config.surroundings import (
    Caller,
    Logins,
    cache_dir,
    caller,
    cores,
    find_program,
    gpus,
    job_environment,
    logins,
    scratch_dir,
)
from modelhub_hpc.config.workforce import on_slurm, thread_count, worker_count, workers_here, workers_per_job
from modelhub_hpc.errors import UsageError

__all__ = [
    "Caller",
    "Logins",
    "OPTIONS",
    "PREFIX",
    "PYTHON",
    "SiteConfig",
    "cache_dir",
    "caller",
    "cores",
    "files",
    "find_program",
    "from_json",
    "gpus",
    "job_environment",
    "load",
    "logins",
    "megabytes",
    "on_slurm",
    "scratch_dir",
    "seconds_of",
    "thread_count",
    "to_json",
    "worker_count",
    "workers_here",
    "workers_per_job",
]

PREFIX = "MH_HPC_"
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


def _read(path: Path) -> dict[str, Any]:
    try:
        # every value as it is written: YAML would read 4:00:00 as a number in base 60
        data = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
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
        return convert(_TYPES[_known(name, where)], value, name)
    except (ValueError, TypeError) as error:
        raise UsageError(f"Option '{name}' in {where}: {value!r} is not {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [str(v) for v in value]
    return value
