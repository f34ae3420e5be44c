"""What a definition says of a stage, and the notes on what it says otherwise than the Dockerfile."""

from __future__ import annotations

from dataclasses import dataclass, field

from modelhub_hpc.dockerfiles.stages import Stage
from modelhub_hpc.dockerfiles.variables import Value
from modelhub_hpc.errors import InvalidError


@dataclass(frozen=True)
class Note:
    """Something that the definition does not say as the Dockerfile did, and what that means."""

    line: int
    name: str
    message: str


@dataclass
class Part:
    """One stage of a definition, as it grows.

    files: lines of %files, what and where to; files_from: the same by the name of the stage that has them;
    post: shell text; entrypoint, command: argv, None where the base image's holds; accepts_arguments: False for
    the shell form of ENTRYPOINT, which knows neither arguments nor CMD.
    """

    stage: Stage
    files: list[tuple[str, str]] = field(default_factory=list)
    files_from: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    post: list[str] = field(default_factory=list)
    environment: dict[str, Value] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    accepts_arguments: bool = True
    notes: list[Note] = field(default_factory=list)


LEFT_OUT = {
    "EXPOSE": "is left out: the container shares the network of its host, where ports below 1024 are closed to users.",
    "HEALTHCHECK": "is left out: no service watches a container of Apptainer.",
    "ONBUILD": "is left out: it only speaks to images made from this one.",
    "STOPSIGNAL": "is left out: a container of Apptainer is a process, and ends by the signals that end processes.",
}


def about_unknown(name: str, other: str) -> str:
    return (
        f"{name} takes in ${other} of the base image; where that has none, of whoever starts the container,"
        " unless it starts with --cleanenv, as mh-hpc always does."
    )


def about_run_flag(name: str, value: str) -> str:
    kind = dict(item.partition("=")[::2] for item in value.split(",")).get("type", "bind")
    if name == "mount" and kind not in ("cache", "tmpfs"):
        raise InvalidError(
            f"--mount of type {kind} has no counterpart in Apptainer. COPY what the command needs."
        )
    return f"--{name} is left out; it changes only how fast or how closed in the command runs."
