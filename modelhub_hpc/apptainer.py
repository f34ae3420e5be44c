"""Run things in Apptainer; nothing else here knows its flags."""

from __future__ import annotations

import csv
import io
import logging
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelhub_hpc import config, resources
from modelhub_hpc.errors import InvalidError, TryAgainError, UnfitError

log = logging.getLogger(__name__)

# where site installs and their helpers (squashfuse, fuse-overlayfs) live when a job's PATH is bare
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_BUILD_TIMEOUT_S = 3600.0
_ASK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Bind:
    """A host file or folder shown at `target` inside the container, read-only unless said otherwise."""

    source: Path
    target: str
    writable: bool = False

    def mount(self) -> str:
        """The value of --mount; its CSV quoting takes the commas, colons and quotes that -B breaks on."""
        line = io.StringIO()
        fields = ["type=bind", f"src={self.source}", f"dst={self.target}"] + ([] if self.writable else ["ro"])
        csv.writer(line, lineterminator="").writerow(fields)
        return line.getvalue()


@dataclass(frozen=True)
class Containment:
    """What a container may see and do: nothing but this."""

    home: Path
    workdir: Path
    cwd: str
    binds: tuple[Bind, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False
    network: bool = False
    seccomp: bool = True


def exec_command(image: Path, argv: Sequence[str], inside: Containment) -> list[str]:
    """The command that runs argv in the image; pure, so that --dry-run can show it."""
    return [
        *(program(), "-q", "exec"),
        # a mount, process and IPC namespace of its own; no host environment, HOME, /tmp or working folder
        *("--containall", "--cleanenv", "--no-privs", "--no-eval"),
        *("--uts", "--hostname", "model"),
        # --containall leaves the host's network in place, services on loopback included
        *(() if inside.network else ("--net", "--network", "none")),
        *(("--security", f"seccomp:{resources.folder('hpc') / 'seccomp.json'}") if inside.seccomp else ()),
        *(("--nv",) if inside.gpu else ()),
        # --no-home would leave HOME pointing nowhere; --workdir lifts the 64 MiB limit off /tmp
        *("--home", f"{inside.home}:/home/model", "--workdir", str(inside.workdir), "--pwd", inside.cwd),
        *(word for bind in inside.binds for word in ("--mount", bind.mount())),
        *(word for name, value in inside.env.items() for word in ("--env", f"{name}={value}")),
        str(image),
        *argv,
    ]


def environment(scratch: Path) -> dict[str, str]:
    """The environment for apptainer itself, built from empty.

    APPTAINER_BIND, APPTAINERENV_*, SINGULARITYENV_* and proxies (with their passwords) of the caller would
    pierce every containment flag.
    """
    return {
        "PATH": f"{Path(program()).parent}:{_SYSTEM_PATH}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "APPTAINER_CONFIGDIR": str(scratch / ".apptainer"),
        "APPTAINER_CACHEDIR": str(scratch / ".apptainer/cache"),
        "LANG": "C.UTF-8",
    }


def program() -> str:
    """The path of apptainer, or of the compatible singularity; UnfitError without either."""
    for name in ("apptainer", "singularity"):
        path = config.find_program(name)
        if path:
            return path
    raise UnfitError(
        """
        Apptainer is not installed, or not on PATH.
        On a cluster, try:        module load apptainer
        On a machine of your own: hpc/install.sh
        Without containers, for development only: --runtime host"""
    )


def version() -> str:
    return _output([program(), "--version"]).split()[-1]


def build(target: Path, source: str, scratch: Path) -> None:
    """Convert `source` (docker-archive:FILE, a sandbox folder, ...) into the SIF `target`, rootless.

    The target is written in place by apptainer and may be partial when this raises.
    """
    # zstd packs in a third of the time of the default gzip, to the same size, and starts faster
    packing = ("--mksquashfs-args", "-comp zstd -Xcompression-level 3")
    command = [program(), "-q", "build", *packing, str(target), source]
    log.info("%s", shlex.join(command))
    done = _run(command, scratch, _BUILD_TIMEOUT_S)
    if done.returncode:
        tail = done.stderr.decode(errors="replace").strip()[-2000:]
        raise InvalidError(f"{source} could not be converted (exit code {done.returncode}).\n{tail}")


def start_argv(image: Path) -> tuple[str, ...]:
    """The image's own start command as Docker recorded it (its CMD), e.g. ("python", "run.py"); () if none."""
    script = _output([program(), "inspect", "--runscript", str(image)])
    match = re.search(r"^OCI_CMD='(.*)'$", script, re.MULTILINE)
    return tuple(shlex.split(match[1])) if match else ()


def try_command(command: Sequence[str], scratch: Path, timeout_s: float = 60.0) -> tuple[int, str]:
    """Run a command that may fail; its exit code and output, for `mh-hpc doctor`."""
    try:
        done = _run(command, scratch, timeout_s)
    except TryAgainError as error:
        return 124, str(error)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace").strip()


def _output(command: Sequence[str]) -> str:
    done = _run(command, Path("/nonexistent"), _ASK_TIMEOUT_S)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise InvalidError(f"`{shlex.join(command)}` failed with exit code {done.returncode}.\n{message}")
    return done.stdout.decode(errors="replace")


def _run(command: Sequence[str], scratch: Path, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """The one place where a command is run to its end; TryAgainError if that takes too long."""
    try:
        return subprocess.run(
            command, env=environment(scratch), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise TryAgainError(f"`{shlex.join(command)}`: no answer within {timeout_s:.0f} s.") from None
