"""The command line's way to say what config.SiteConfig holds: one flag per option, with the help text from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from modelhub_hpc.config import OPTIONS, SiteConfig

F = TypeVar("F", bound=Callable[..., Any])
_TYPES = get_type_hints(SiteConfig)
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "mem_mb": ("--mem",),
    "threads": ("-c", "--cpus-per-task"),
    "partition": ("-p", "--partition"),
    "account": ("-A", "--account"),
    "time": ("-t", "--time"),
    "constraint": ("-C", "--constraint"),
    "sbatch_args": ("--sbatch-arg",),
    "case_timeout_s": ("--case-timeout",),
    "start_timeout_s": ("--start-timeout",),
    "max_output_mb": ("--max-output",),
    "registries": ("--registry",),
}
_PARTS = {"sbatch_args": "ARGUMENT", "registries": "FOLDER|URL"}  # of options that may be repeated
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Answer with JSON on stdout; all else goes to stderr."
)
_UNITS = {"_mb": "SIZE", "_s": "SECONDS", "_dir": "FOLDER"}

FOR_RUNS = (
    "executor",
    "runtime",
    "workers",
    "mem_mb",
    "threads",
    "gpu",
    "sessions_per_gpu",
    "case_timeout_s",
    "start_timeout_s",
    "chunk_size",
    "batch_size",
    "nan",
    "max_output_mb",
    "allow_network",
    "scratch_dir",
    "stage_image",
    "max_failures",
    "partition",
    "account",
    "qos",
    "time",
    "gres",
    "gpus_per_node",
    "constraint",
    "workers_per_job",
    "sbatch_args",
    "controller",
    "interface",
    "group_readable",
)
FOR_WORK_BY_HAND = ("mem_mb", "threads", "gpu", "allow_network", "start_timeout_s", "scratch_dir")
FOR_REGISTRIES = ("registries",)
FOR_ONE_OFFS = ("runtime", "nan", "case_timeout_s", "mem_mb", "allow_network", "gpu")


def site_options(names: tuple[str, ...]) -> Callable[[F], F]:
    """Add a flag for each of these options; its value is None where the user did not give it."""

    def add(command: F) -> F:
        for name in reversed(names):
            command = _flag(name)(command)
        return command

    return add


def site_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those command-line values that are options of the site, and were given; workers may be MIN:MAX."""
    found = {name: value for name, value in values.items() if name in OPTIONS and value not in (None, ())}
    least, colon, most = str(found.get("workers", "")).partition(":")
    return {**found, "min_workers": least, "workers": most} if colon else found


def _flag(name: str) -> Callable[[F], F]:
    spelling = _SPELLINGS.get(name, (f"--{name.replace('_', '-')}",))
    text = OPTIONS[name].metadata["help"]
    if _TYPES[name] is bool:
        return click.option(f"{spelling[0]}/--no-{spelling[0][2:]}", name, default=None, help=text)
    if get_origin(_TYPES[name]) is tuple:
        return click.option(*spelling, name, multiple=True, metavar=_PARTS[name], help=text)
    if get_origin(_TYPES[name]) is Literal:
        return click.option(*spelling, name, type=click.Choice(get_args(_TYPES[name])), help=text)
    # numbers stay text here: config judges them, and says the same of files, variables and flags
    return click.option(*spelling, name, metavar=_metavar(name), help=text)


def _metavar(name: str) -> str:
    if name == "workers":
        return "N|MIN:MAX"
    number = "N" if _TYPES[name] in (int, int | None) else "TEXT"
    return next((word for ending, word in _UNITS.items() if name.endswith(ending)), number)
