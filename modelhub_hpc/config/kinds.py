"""Kinds of values an option may have, and how text, YAML or JSON becomes one."""

from __future__ import annotations

import re
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NewType

from modelhub_hpc.errors import UsageError

# kinds of text that an option may hold; _CHECKED has what makes a value one of them
Word = NewType("Word", str)
Walltime = NewType("Walltime", str)
SbatchArgument = NewType("SbatchArgument", str)
ShellLine = NewType("ShellLine", str)
Fingerprint = NewType("Fingerprint", str)
RegistryPlace = NewType("RegistryPlace", str)
BatchSize = NewType("BatchSize", str)

# sbatch options that mh-hpc sets itself, or that have an option of their own, by the name that refuses them
_OWN_OPTIONS = {
    **{name: f"--{name}" for name in ("partition", "account", "qos", "time", "mem", "cpus-per-task", "constraint")},
    **{name: f"--{name}" for name in ("gres", "gpus-per-node")},
    **dict.fromkeys(("job-name", "output", "error", "input", "chdir", "array", "dependency", "export"), ""),
    **dict.fromkeys(("export-file", "signal", "open-mode", "wrap", "requeue", "no-requeue", "wait", "ntasks"), ""),
    **dict.fromkeys(("parsable", "test-only", "quiet", "verbose", "version", "help", "usage"), ""),
}


def convert(kind: Any, value: Any, name: str) -> Any:
    """Turn text, YAML or JSON values into the option's type; ValueError says what was expected."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):  # the latter of text kinds
        if value is None or str(value).lower() in ("null", "~"):
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    origin = typing.get_origin(kind)
    if origin is Literal:
        return _choice(typing.get_args(kind), value)
    if origin is tuple:
        each = typing.get_args(kind)[0]
        return tuple(_CHECKED[each](part) for part in _parts(value, each))
    if kind is bool:
        return _boolean(value)
    if kind in _CHECKED:
        return _CHECKED[kind](value)
    return _number(kind, value, name)


def _choice(choices: Sequence[str], value: Any) -> str:
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


def _parts(value: Any, kind: Any) -> Sequence[Any]:
    """The parts of a list: given as one, or as text with the separator that its kind allows."""
    if isinstance(value, (list, tuple)):
        return value
    if not isinstance(value, str):
        raise ValueError("a list")
    if kind in (SbatchArgument, RegistryPlace):
        return shlex.split(value)
    return [part for part in value.split("\n" if kind is ShellLine else ":") if part]


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


def _word(value: Any) -> str:
    """A word for sbatch: not empty, without spaces or control characters."""
    text = str(value)
    if not text or not text.isprintable() or any(c.isspace() for c in text) or text[0] == "-" or "\\" in text:
        raise ValueError("a word without spaces")
    return text


def _walltime(value: Any) -> str:
    try:
        seconds = seconds_of(str(value))
    except ValueError:
        seconds = 0.0
    if not seconds:
        raise ValueError("a walltime as sbatch takes it: minutes, 4:00:00, 1-12 or 2-00:30:00")
    return str(value).strip()


def _sbatch_argument(value: Any) -> str:
    text = str(value)
    match = re.match(r"--([a-z][a-z0-9-]*)(?:=|$)", text)
    if not match or not text.isprintable() or "\\" in text:
        # sbatch takes a backslash in a script for itself, and a short one may hide others behind it: -HJname
        raise ValueError("a long argument of sbatch such as --exclusive or --reservation=NAME")
    # sbatch takes the first letters of an option for it
    own = next((flag for name, flag in _OWN_OPTIONS.items() if name.startswith(match[1])), None)
    if own is not None:
        raise ValueError(f"free to give: use {own} instead" if own else "free to give: mh-hpc sets it itself")
    return text


def _shell_line(value: Any) -> str:
    text = str(value)
    if "\n" in text or "\0" in text:
        raise ValueError("one line of shell")
    return text


def _registry_place(value: Any) -> str:
    """A folder, made absolute, or the address of a git repository, which must hold no password: runs record options."""
    text = str(value)
    if not text or text[0] == "-":
        raise ValueError("a folder or the address of a git repository")
    if re.search(r"://[^/@]*:[^/]*@", text):
        raise ValueError("an address without a password: give that to git (git help credentials)")
    is_address = "://" in text or re.match(r"[\w.-]+@[\w.-]+:", text)
    return text if is_address else str(Path(text).expanduser().absolute())


def _batch_size(value: Any) -> str:
    text = str(value).lower()
    if text != "auto" and not re.fullmatch("[1-9][0-9]{0,4}", text, re.ASCII):
        raise ValueError("a positive number, or auto")
    return text


_CHECKED: Mapping[Any, Callable[[Any], Any]] = {
    Path: _path,
    Word: _word,
    Walltime: _walltime,
    SbatchArgument: _sbatch_argument,
    ShellLine: _shell_line,
    Fingerprint: _fingerprint,
    RegistryPlace: _registry_place,
    BatchSize: _batch_size,
}


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
    if not 0 <= number < 2**53 or (number == 0 and name not in ("max_failures", "min_workers")):
        raise ValueError("a positive number")
    return typing.cast("int | float", number)


def seconds_of(walltime: str) -> float:
    """A walltime in seconds; infinite for "UNLIMITED".

    >>> [seconds_of(each) for each in ("90", "1:30", "4:00:00", "1-12", "2-00:30", "1-1:1:1", "UNLIMITED")]
    [5400.0, 90.0, 14400.0, 129600.0, 174600.0, 90061.0, inf]
    """
    if walltime.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    forms = r"(?:(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?)|(?:(?:(\d+):)?(\d+):(\d+))|(\d+)"
    match = re.fullmatch(forms, walltime.strip(), re.ASCII)
    if not match:
        raise ValueError(f"not a walltime: {walltime!r}")
    days, hours, minutes, seconds, hours_, minutes_, seconds_, only_minutes = (int(g or 0) for g in match.groups())
    hours, minutes, seconds = hours + hours_, minutes + minutes_ + only_minutes, seconds + seconds_
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def megabytes(text: str | int) -> int:
    """sbatch's way to write memory (4096, 4096M, 4G, 512K, 1T) in MiB, rounded up.

    >>> megabytes("4G"), megabytes("4096"), megabytes("512K")
    (4096, 4096, 1)
    """
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", str(text).strip().upper())
    if not match:
        raise UsageError(f"Not an amount of memory: {text!r}. Write it as sbatch does: 4096, 4096M or 4G.")
    return -(-int(match[1]) * {"K": 1, "": 1024, "M": 1024, "G": 1024**2, "T": 1024**3}[match[2]] // 1024)
