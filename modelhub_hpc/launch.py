"""How a session's process is started: its command, its environment and its private folders."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import aliases, apptainer, config, resources
from modelhub_hpc.apptainer import Bind, Containment
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import MachineError
from modelhub_hpc.processes import ended_folders, private_folder, remove_tree

_BOOT = (
    "import sys; sys.path.insert(0, {engine!r}); from modelhubapi.pipeservice import main; sys.exit(main())"
)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)

_PRIVATE = ("output", "working", "temp")
_WRITABLE = (*(f"/{name}" for name in _PRIVATE), "/tmp", "/var/tmp", "/home/model")

# where a stranger finds a session's folders: any that every machine has, since it is only its own mount namespace
_STRANGERS_PLACE = Path("/mnt")


@dataclass(frozen=True)
class Stranger:
    """Another user of this machine, as whom a session runs to prove that its image suits anybody.

    uid: inside `namespace`, the command that gives a mount namespace and the right to become that user.
    """

    uid: int
    namespace: tuple[str, ...]


@dataclass(frozen=True)
class SessionSpec:
    """All that a worker needs to start sessions of a run. Times in seconds, sizes in MiB.

    writable: folders that this model writes to, beside those that all models have; own_copy: contrib_src is a copy
    for this session alone, which may be changed.
    """

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
    writable: tuple[str, ...] = ()
    own_copy: bool = False
    stranger: Stranger | None = None

    @classmethod
    def of(
        cls,
        site: SiteConfig,
        model: Contribution,
        image: Path | None,
        interpreter: str,
        *,
        roots: tuple[Path, ...] = (),
        gpus: tuple[str, ...] = (),
        logs: Path | None = None,
    ) -> SessionSpec:
        """Sessions of a model on the machine where this is called, as the options of its site say."""
        return cls(
            runtime=site.runtime,
            image=image,
            interpreter=interpreter,
            contrib_src=model.contrib_src,
            roots=roots,
            gpus=gpus,
            threads=config.thread_count(site),
            scratch=config.scratch_dir(site),
            logs=logs,
            start_timeout_s=site.start_timeout_s,
            case_timeout_s=site.case_timeout_s,
            mem_mb=config.model_mb(site) or 0,
            max_log_mb=site.max_log_mb,
            network=site.allow_network,
            seccomp=site.seccomp,
            writable=model.needs.writable,
        )


def command(spec: SessionSpec, scratch: Path) -> list[str]:
    """The command that serves the wire on this machine; --dry-run shows it."""
    if spec.image is None:
        return _boot(spec.interpreter, str(resources.folder("engine")), str(spec.contrib_src))
    boot = _boot(spec.interpreter, "/framework", "/contrib_src")
    return contained(spec, scratch, [*boot, "--working", "/working"])


def contained(
    spec: SessionSpec, scratch: Path, argv: Sequence[str], shows: Sequence[Bind] = ()
) -> list[str]:
    """The command that runs argv in the spec's image, where it sees what a session does, and what `shows` adds."""
    place = _STRANGERS_PLACE if spec.stranger else scratch
    shown = _shown(spec, place)
    inside = Containment(
        home=place / "home",
        workdir=place / "work",
        cwd="/contrib_src",
        binds=(*_binds(spec, place, shown), *shows),
        env=_model_environment(spec),
        gpu=bool(spec.gpus),
        network=spec.network,
        seccomp=shown["seccomp.json"] if spec.seccomp else None,
        unsquash=not apptainer.mounts_images(),
    )
    command = apptainer.exec_command(shown["image.sif"], argv, inside)
    return _as_stranger(spec.stranger, spec, scratch, command) if spec.stranger else command


def _ours(spec: SessionSpec) -> dict[str, Path]:
    """What a session reads, by the names that a stranger sees."""
    assert spec.image is not None
    folders = {"contrib_src": spec.contrib_src, "framework": resources.folder("engine")}
    return {**folders, "image.sif": spec.image, "seccomp.json": apptainer.SECCOMP}


def _shown(spec: SessionSpec, place: Path) -> dict[str, Path]:
    return {name: place / name if spec.stranger else path for name, path in _ours(spec).items()}


def _as_stranger(stranger: Stranger, spec: SessionSpec, scratch: Path, command: list[str]) -> list[str]:
    script = [
        str(resources.folder("hpc") / "as_stranger.sh"),
        str(stranger.uid),
        str(_STRANGERS_PLACE),
        str(scratch),
    ]
    ours = [f"{name}={path}" for name, path in _ours(spec).items()]
    return [*stranger.namespace, "sh", *script, *ours, "--", *command]


def _boot(interpreter: str, engine: str, contrib_src: str) -> list[str]:
    # put first on sys.path rather than in PYTHONPATH, where images keep folders of their own
    return [interpreter, "-c", _BOOT.format(engine=engine), "--contrib-src", contrib_src]


def environment(spec: SessionSpec, scratch: Path) -> dict[str, str]:
    """The environment of the session's process on the host, built from empty."""
    if spec.image is not None:
        return apptainer.environment(_STRANGERS_PLACE if spec.stranger else scratch)
    caller = config.caller()
    paths = {"PATH": caller.path, "LD_LIBRARY_PATH": caller.library_path}
    places = {"HOME": str(scratch / "home"), "TMPDIR": str(scratch / "work")}
    return {**paths, **places, **_model_environment(spec)}


def _model_environment(spec: SessionSpec) -> dict[str, str]:
    threads = {name: str(spec.threads) for name in _THREAD_VARIABLES}
    python = {"PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(spec.gpus)}
    if spec.gpus:
        devices["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # what a number means to SLURM, nvidia-smi and NVML
    return {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **threads, **python, **devices}


def _binds(spec: SessionSpec, place: Path, shown: Mapping[str, Path]) -> tuple[Bind, ...]:
    private = [Bind(place / name, f"/{name}", writable=True) for name in _PRIVATE]
    ours = [Bind(shown["contrib_src"], "/contrib_src", writable=spec.own_copy), Bind(shown["framework"], "/framework")]
    inputs = [Bind(root, str(root)) for root in spec.roots if aliases.is_plain(str(root))]
    more = [Bind(place / _extra(number), folder, writable=True) for number, folder in enumerate(_beyond(spec.writable))]
    return (*ours, *inputs, Bind(place / "input", "/input"), *private, *more)


def _beyond(writable: Sequence[str]) -> list[str]:
    """Those folders that do not lie in what every model may write to: parents first, and none within another."""
    found: list[str] = []
    for folder in sorted(map(posixpath.normpath, writable)):
        if not any(f"{folder}/".startswith(f"{place}/") for place in (*_WRITABLE, *found)):
            found.append(folder)
    return found


def _extra(number: int) -> str:
    return f"extra-{number}"


def make_scratch(base: Path, writable: Sequence[str] = ()) -> Path:
    """A private folder for one session, after removing those whose process is gone. writable: as in SessionSpec."""
    try:
        for left in ended_folders(base, "mh-hpc"):
            remove_tree(left)
        folder = private_folder(base, "mh-hpc")
        for name in ("home", "work", *_PRIVATE, "input", *map(_extra, range(len(_beyond(writable))))):
            (folder / name).mkdir(mode=0o700)
    except OSError as error:
        raise MachineError(
            f"No session folder can be made in {base}: {error.strerror}. Choose another: --scratch-dir or TMPDIR.",
            config.node(),
        ) from error
    return folder
