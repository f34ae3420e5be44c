"""What a benchmark says: tables, the machine, and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import REPO


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: Iterable[tuple[str, str]], width: int = 58) -> None:
    for name, text in rows:
        say(f"  {name:<{width}}{text}")


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and in brackets the smallest and the largest."""
    return f"{statistics.median(values):10{form}}   ({min(values):{form}} to {max(values):{form}})"


def machine() -> dict[str, Any]:
    """What figures depend on: hardware, versions, and who else was busy."""
    info = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(info["MemTotal"].split()[0]) / 1e6, 1),
        "kernel": platform.release(),
        "apptainer": _output("apptainer", "--version"),
        "slurm": _output("sbatch", "--version"),
        "python": platform.python_version(),
        "commit": _output("git", "-C", str(REPO), "describe", "--always", "--dirty"),
        "load": [round(each, 2) for each in os.getloadavg()],
    }


def describe(found: dict[str, Any]) -> str:
    """The machine in one line."""
    programs = ", ".join(each for each in (found["apptainer"], found["slurm"]) if each)
    load = found["load"][0]
    return (f"{found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB, Linux {found['kernel']}, {programs}; "
            f"commit {found['commit']}, {found['date']}, load {load}")


def write_json(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write the figures to the file of --json, if there is one, with the options and the machine."""
    if options.json:
        kept = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"options": kept, **figures}, indent=2, default=str) + "\n")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
