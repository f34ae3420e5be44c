"""Kinds of machines in Docker's words: what an image is for, and what this machine is."""

from __future__ import annotations

import functools
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "loongarch64": ("loong64", ""),
}


@dataclass(frozen=True)
class Platform:
    """What an image runs on, in Docker's words: linux, amd64, arm/v7. os and architecture are "" if not said."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        kind = "/".join(filter(None, (self.architecture, self.variant))) or "unknown"
        return kind if self.os in ("", "linux") else f"{self.os}/{kind}"

    def runs(self, image: Platform) -> bool:
        """Whether an image of that platform runs here; one that says nothing may."""
        if image.os not in ("", "linux") or image.architecture not in ("", self.architecture):
            return False
        return self.architecture != "arm" or image.variant <= self.variant


@functools.cache
def cpu_model() -> str:
    """What the processor of this machine is called; its architecture where the kernel has no name for it."""
    text = Path("/proc/cpuinfo").read_text(errors="replace")
    match = re.search(r"^model name\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return match[1] if match else platform.machine()


def gpu_models() -> tuple[str, ...]:
    """The kinds of NVIDIA GPUs in this machine, as their driver names them; () without its driver."""
    found = Path("/proc/driver/nvidia/gpus").glob("*/information")
    models = (re.search(r"^Model:\s*(.+?)\s*$", path.read_text(), re.MULTILINE) for path in found)
    return tuple(sorted({match[1] for match in models if match}))


def gpu_driver() -> str | None:
    """The version of the NVIDIA driver of this machine; None without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = re.search(r"Kernel Module\D*?\s([\d.]+)\s", text)
    return match[1] if match else None


def this_machine() -> Platform:
    name = platform.machine()
    architecture, variant = _MACHINES.get(name, (name, ""))
    return Platform("linux", architecture, variant)
