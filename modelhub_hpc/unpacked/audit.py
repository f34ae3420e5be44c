"""Look at an unpacked image: what would keep it from running for any user, offline and read-only.

| code          | state    | what |
|---------------|----------|------|
| unreadable    | mended   | files and folders that only their owner may read, enter or execute |
| setuid        | mended   | programs that change their user: without effect in a rootless container |
| device        | mended   | device nodes: containers get their own /dev |
| mount-point   | mended   | a folder for our sessions is missing; open: something else has its name |
| working-dir   | mended   | WORKDIR is missing; open: something that is no folder has its name |
| environment   | mended   | a variable of Env that breaks programs in a SIF |
| quoting       | mended   | variables of Env that Apptainer garbles |
| climbing-link | mended   | links that climb above the root, which Apptainer refuses to pack |
| pipe          | harmless | FIFOs and sockets, which are useless when read-only |
| foreign-link  | harmless | links to places of another machine, or of a volume |
| writable      | harmless | folders that anybody may write in Docker; none can in a SIF |
| volume        | harmless | the same, as VOLUME declares them |
| user          | harmless | USER: a container runs as whoever starts it |
| port          | harmless | EXPOSE below 1024, which only root may listen on |
| home          | harmless | HOME in Env: Apptainer sets it |
| engine        | harmless | an older engine in /framework: sessions mount ours over it |
| byte-code     | harmless | Python packages that are compiled anew at every start |
| old-glibc     | harmless | GPU libraries of a new host may not load |
| musl          | harmless | GPU libraries of the host, and most wheels, need another C library |
| no-command    | harmless | neither Entrypoint nor Cmd |
| architecture  | open     | programs of another kind of machine |
| loader        | open     | the image lacks the program that loads its own Python |
| program       | open     | the image lacks the program that it starts |
| no-python     | open     | nothing that a model could run in |

`mend` does what "mended" says; afterwards only harmless and open findings are left.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modelhub_hpc.errors import shown
from modelhub_hpc.origin import ImageConfig
from modelhub_hpc.platforms import this_machine
from modelhub_hpc.unpacked import environment, software
from modelhub_hpc.unpacked.elf import read_program
from modelhub_hpc.unpacked.python import Python, find_program, find_python, python_path, shebang
from modelhub_hpc.unpacked.recorded import recorded_config
from modelhub_hpc.unpacked.survey import EXAMPLES, Survey, is_open_place, survey
from modelhub_hpc.unpacked.tree import Tree

State = Literal["mended", "harmless", "open"]

# what a session mounts, and what models of the time before look for
MOUNT_POINTS = ("/framework", "/contrib_src", "/output", "/working", "/temp", "/data", "/input")
_OLDEST_GLIBC = (2, 27)
_WRITABLE = (
    "folders are meant to be written, which a SIF does not allow: bind one there if the model needs it"
)
_LOW_PORT = r"(?:\d{1,3}|10[01]\d|102[0-3])(?!\d)"
_ALSO_RUNS = {"amd64": ("386",)}


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way.

    code: short and stable, of the table above; state: "mended", "harmless" (said, nothing to do), or "open"
    (cannot be mended; --strict refuses it); count: how many files; examples: some of them, as paths in the image,
    printable.
    """

    code: str
    state: State
    message: str
    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """What an image holds, and what stood in its way.

    interpreter: argv[0] of Python as the image starts it ("python", "/opt/conda/bin/python3"), "" without one;
    python, glibc, cuda: versions or ""; frameworks: name -> version; cwd: where its start command expects to run;
    architecture: in Docker's words, "" if nothing tells.
    """

    interpreter: str
    python: str
    cwd: str
    glibc: str
    cuda: str
    architecture: str
    frameworks: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    files: int = 0
    bytes: int = 0


def audit(folder: Path, config: ImageConfig | None) -> Audit:
    """Look at the tree that `apptainer.unpack` made, without running or changing anything. Raises OSError.

    config: how Docker would start it; None: as the tree itself records it.
    """
    tree, config = Tree(folder), config or recorded_config(Tree(folder))
    variables = environment.variables(tree)
    argv, cwd = (*config.entrypoint, *config.cmd), os.path.normpath("/" + config.working_dir.lstrip("/"))
    python = find_python(tree, argv, variables["PATH"], cwd)
    sites = python.sites if python else ()
    seen = survey(tree)
    about = Audit(
        interpreter=python.interpreter if python else "",
        python=python.version if python else "",
        cwd=cwd,
        glibc=software.glibc_version(tree),
        cuda=software.cuda_version(tree, variables, sites),
        architecture=_architecture(tree, python, config),
        frameworks=software.frameworks(tree, sites, python_path(variables)),
        files=seen.files,
        bytes=seen.bytes,
    )
    findings = (
        *hindrances(tree, seen, cwd),
        *_of_config(config),
        *_of_start(tree, argv, cwd, variables["PATH"]),
        *_of_software(tree, about, python),
    )
    return dataclasses.replace(about, findings=findings)


def hindrances(tree: Tree, seen: Survey, cwd: str) -> Iterator[Finding]:
    """What lies in the tree that `mend` can do something about, and what else is odd about its files."""
    yield from _of_files(seen)
    yield from _of_places(tree, cwd)
    yield from _of_environment(tree)


def _of_places(tree: Tree, cwd: str) -> Iterator[Finding]:
    """Folders that must be there when the image runs, and are not."""
    missing = [path for path in MOUNT_POINTS if not tree.is_folder(path)]
    barred = [path for path in missing if is_barred(tree, path)]
    if absent := [path for path in missing if path not in barred]:
        yield _listed("mount-point", "mended", "missing mount points", absent)
    if barred:
        yield _listed("mount-point", "open", "something that is no folder bars mount points", barred)
    if cwd not in MOUNT_POINTS and not tree.is_folder(cwd):
        if is_barred(tree, cwd):
            yield Finding("working-dir", "open", f"WORKDIR {shown(cwd)} is no folder and cannot become one")
        else:
            yield Finding("working-dir", "mended", f"WORKDIR {shown(cwd)} is missing")


def is_barred(tree: Tree, path: str) -> bool:
    """Whether a folder can be had there neither now nor by making it."""
    found = tree.resolve(path)
    if not found or not _is_a_name(path):
        return True
    while not tree.mode(found):
        found = os.path.dirname(found)
    return not tree.is_folder(found)


def _is_a_name(path: str) -> bool:
    """Whether a file system can have such a path."""
    try:
        names = [os.fsencode(name) for name in path.strip("/").split("/")]
    except UnicodeEncodeError:
        return False
    return all(len(name) <= 255 and b"\0" not in name for name in names)


def _of_files(seen: Survey) -> Iterator[Finding]:
    if seen.closed:
        groups = [f"{heading}: {count}" for heading, count in seen.closed.most_common(EXAMPLES)]
        message = "files or folders that nobody but their owner may read, enter or execute"
        yield Finding("unreadable", "mended", message, seen.closed.total(), tuple(groups))
    if seen.setuid:
        yield _listed("setuid", "mended", "programs change their user, which has no effect here", seen.setuid)
    if seen.devices:
        yield _listed("device", "mended", "device nodes, which no container needs", seen.devices)
    if seen.climbing:
        message = "links climb above the root, which Apptainer refuses to pack"
        yield _listed("climbing-link", "mended", message, seen.climbing)
    if seen.pipes:
        yield _listed("pipe", "harmless", "FIFOs or sockets, which cannot be used when read-only", seen.pipes)
    if seen.foreign:
        message = "links point out of the image: what they mean must be bound when it runs"
        yield _listed("foreign-link", "harmless", message, seen.foreign)
    if seen.writable:
        yield _listed("writable", "harmless", _WRITABLE, seen.writable)


def _of_environment(tree: Tree) -> Iterator[Finding]:
    variables = environment.variables(tree)
    for misfit in environment.misfits(tree):
        message = f"{misfit.name}={shown(misfit.value)} is dropped: {shown(misfit.reason)}"
        yield Finding("environment", "mended", message)
    if names := environment.garbled(tree):
        yield _listed("quoting", "mended", "variables that Apptainer garbles are quoted anew", names)
    if "HOME" in variables:
        message = f"HOME={shown(variables['HOME'])} has no effect: HOME is a private folder of the run"
        yield Finding("home", "harmless", message)


def _of_config(config: ImageConfig) -> Iterator[Finding]:
    if config.user.split(":")[0] not in ("", "0", "root"):
        message = f"USER {shown(config.user)}: the container runs as whoever starts it"
        yield Finding("user", "harmless", message)
    if low := [port for port in config.ports if re.match(_LOW_PORT, port)]:
        message = "low ports, where only root may listen: REST is served on a free high port"
        yield _listed("port", "harmless", message, low)
    if volumes := [folder for folder in config.volumes if not is_open_place(folder)]:
        yield _listed("volume", "harmless", _WRITABLE, volumes)


def _of_start(tree: Tree, argv: Sequence[str], cwd: str, path: str) -> Iterator[Finding]:
    if not argv:
        message = "neither Entrypoint nor Cmd: the image does not say how it starts"
        yield Finding("no-command", "harmless", message)
    elif missing := _missing_program(tree, argv[0], cwd, path):
        yield Finding("program", "open", missing)


def _missing_program(tree: Tree, name: str, cwd: str, path: str) -> str:
    """What keeps the start command from starting; "" if nothing does."""
    if os.path.join(cwd, name).startswith(tuple(f"{place}/" for place in MOUNT_POINTS)) and "/" in name:
        return ""  # it comes with the model
    program = find_program(tree, name, path, cwd)
    if not program:
        return f"the image starts {shown(name)}, which is no program of it (PATH {shown(path)})"
    script = shebang(tree, program)
    if script and not find_program(tree, script[0], path):
        return f"the image starts {shown(name)}, a script for {shown(script[0])}, which is not in it"
    return ""


def _of_software(tree: Tree, about: Audit, python: Python | None) -> Iterator[Finding]:
    here = this_machine().architecture
    if about.architecture not in ("", here, *_ALSO_RUNS.get(here, ())):
        message = f"the image is for {about.architecture}; this machine is {here}"
        yield Finding("architecture", "open", message)
    if not python:
        yield Finding("no-python", "open", "no Python in the image: no ModelHub model can run in it")
    elif loader := _missing_loader(tree, python):
        message = f"{shown(python.program)} needs {shown(loader)}, which is not in the image"
        yield Finding("loader", "open", message)
    if python and software.lacks_byte_code(tree, python.sites):
        message = "Python packages are compiled anew at every start, which takes time"
        yield Finding("byte-code", "harmless", message)
    yield from _of_libc(tree, about.glibc)
    if tree.is_folder("/framework/modelhubapi"):
        message = "an older ModelHub engine lies in /framework: this product's is mounted over it"
        yield Finding("engine", "harmless", message)


def _of_libc(tree: Tree, glibc: str) -> Iterator[Finding]:
    if glibc and tuple(int(number) for number in glibc.split(".")) < _OLDEST_GLIBC:
        message = f"glibc {glibc}: GPU libraries of a new host may not load in it"
        yield Finding("old-glibc", "harmless", message)
    if not glibc and software.has_musl(tree):
        message = "the C library is musl: GPU libraries of the host do not load in it"
        yield Finding("musl", "harmless", message)


def _missing_loader(tree: Tree, python: Python) -> str:
    program = read_program(tree.read(python.program, 4096))
    return program.loader if program and program.loader and not tree.mode(program.loader) else ""


def _architecture(tree: Tree, python: Python | None, config: ImageConfig) -> str:
    """As the programs themselves say, since what a configuration says is often wrong."""
    libraries = (f"{folder}/libc.so.6" for folder in software.library_folders(tree))
    for path in (*((python.program,) if python else ()), "/bin/sh", *libraries):
        if program := read_program(tree.read(path, 4096)):
            return program.architecture
    return config.architecture


def _listed(code: str, state: State, message: str, paths: Sequence[str]) -> Finding:
    return Finding(code, state, message, len(paths), tuple(shown(path) for path in paths[:EXAMPLES]))
