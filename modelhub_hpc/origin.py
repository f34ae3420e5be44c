"""Where an image comes from, as values: how Docker would start it, its layers, its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["docker", "docker-archive", "oci", "oci-archive", "sif", "folder", "definition"]


@dataclass(frozen=True)
class ImageConfig:
    """How Docker would start an image: its OCI image configuration.

    env: NAME=value lines; ports: "80/tcp"; volumes: folders; architecture in Docker's words (amd64, arm64).
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    env: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    architecture: str = ""
    os: str = "linux"
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Blob:
    """A piece of an image, known by its content: digest is "sha256:" and 64 hex digits, size in bytes.

    where: the name of the file that holds it in an archive; "" where its digest is its name.
    """

    digest: str
    size: int
    where: str = ""

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Origin:
    """What a source turned out to be.

    source: as the user named it; pinned: the same with its digest, for records; digest: "sha256:..." of the
    manifest, or of the image configuration for a docker archive (which has no manifest), "" where the source has
    none (a SIF, a folder, a definition); config: None where the source has none, or offline; bytes: what it will
    take unpacked, roughly (for the free-space check); settings: the configuration's file; layers: the base first.
    """

    source: str
    pinned: str
    digest: str
    config: ImageConfig | None
    bytes: int
    kind: Kind = "docker"
    settings: Blob | None = None
    layers: tuple[Blob, ...] = ()

    @property
    def files(self) -> tuple[Blob, ...]:
        """Each layer once: images may have one twice."""
        return tuple({layer.digest: layer for layer in self.layers}.values())
