"""How a session's process is started: its command, its environment and its private folders."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import aliases, apptainer, config, resources
from modelhub_hpc.apptainer import Bind, Containment
from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.processes import pid_namespace, start_ticks

_BOOT = (
    "import sys; sys.path.insert(0, {engine!r}); from modelhubapi.pipeservice import main; sys.exit(main())"
)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass(frozen=True)
class SessionSpec:
    """All that a worker needs to start sessions of a run. Times in seconds, sizes in MiB."""

    runtime: str
    image: Path | None
    interpreter: str
    contrib_src: Path
    roots: tuple[Path, ...]
    gpus: tuple[str, ...]
    threads: int
    scratch: Path
    logs: Path | None
    start_timeout_s: float
    case_timeout_s: float
    mem_mb: int
    max_log_mb: int
    network: bool
    seccomp: bool


def command(spec: SessionSpec, scratch: Path) -> list[str]:
    """The command that serves the wire; pure, so that --dry-run can show it."""
    if spec.image is None:
        return _boot(spec.interpreter, str(resources.folder("engine")), str(spec.contrib_src))
    inside = Containment(
        home=scratch / "home",
        workdir=scratch / "work",
        cwd="/contrib_src",
        binds=_binds(spec, scratch),
        env=_model_environment(spec),
        gpu=bool(spec.gpus),
        network=spec.network,
        seccomp=spec.seccomp,
    )
    return apptainer.exec_command(spec.image, _boot(spec.interpreter, "/framework", "/contrib_src"), inside)


def _boot(interpreter: str, engine: str, contrib_src: str) -> list[str]:
    # put first on sys.path rather than in PYTHONPATH, where images keep folders of their own
    return [interpreter, "-c", _BOOT.format(engine=engine), "--contrib-src", contrib_src]


def environment(spec: SessionSpec, scratch: Path) -> dict[str, str]:
    """The environment of the session's process on the host, built from empty."""
    if spec.image is not None:
        return apptainer.environment(scratch)
    caller = config.caller()
    paths = {"PATH": caller.path, "LD_LIBRARY_PATH": caller.library_path}
    places = {"HOME": str(scratch / "home"), "TMPDIR": str(scratch / "work")}
    return {**paths, **places, **_model_environment(spec)}


def _model_environment(spec: SessionSpec) -> dict[str, str]:
    threads = {name: str(spec.threads) for name in _THREAD_VARIABLES}
    python = {"PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(spec.gpus)}
    return {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **threads, **python, **devices}


def _binds(spec: SessionSpec, scratch: Path) -> tuple[Bind, ...]:
    private = [Bind(scratch / name, f"/{name}", writable=True) for name in ("output", "working", "temp")]
    ours = [Bind(spec.contrib_src, "/contrib_src"), Bind(resources.folder("engine"), "/framework")]
    inputs = [Bind(root, str(root)) for root in spec.roots if aliases.is_plain(str(root))]
    return (*ours, *inputs, Bind(scratch / "input", "/input"), *private)


def make_scratch(base: Path) -> Path:
    """A private folder for one session, after removing those whose process is gone."""
    # host and namespace, since nodes may share the folder and process numbers only mean something within
    prefix = f"mh-hpc-{os.getuid()}-{socket.gethostname()}-{pid_namespace().strip('pid:[]')}-"
    try:
        _sweep(base, prefix)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-{start_ticks(os.getpid())}-", dir=base))
        for name in ("home", "work", "output", "working", "temp", "input"):
            (folder / name).mkdir(mode=0o700)
    except OSError as error:
        raise TryAgainError(
            f"No session folder can be made in {base}: {error.strerror}. Choose another: --scratch-dir or TMPDIR."
        ) from error
    return folder


def _sweep(base: Path, prefix: str) -> None:
    for folder in base.glob(f"{prefix}*-*-*"):
        pid, ticks, _ = folder.name.removeprefix(prefix).split("-", 2)
        if folder.lstat().st_uid == os.getuid() and str(start_ticks(int(pid))) != ticks:
            shutil.rmtree(folder, ignore_errors=True)
