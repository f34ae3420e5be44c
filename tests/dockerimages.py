"""Docker images made by hand: what `docker save` writes and OCI layouts, down to device nodes and hostile names.

image = DockerImage([[folder("app"), file("app/run.py", b"print(1)")], [gone("app/run.py")]], {"Cmd": ["python"]})
save_archive(image, tmp_path / "image.tar")
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from modelhub_hpc.digests import file_digest

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Entry:
    """One entry of a layer. kind: a type of tarfile's; zeros: the size of a file of zeros, instead of content."""

    name: str
    kind: bytes = tarfile.REGTYPE
    content: bytes = b""
    mode: int = 0o644
    target: str = ""
    owner: int = 0
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, str] = field(default_factory=dict)
    zeros: int = 0


def file(name: str, content: bytes = b"", mode: int = 0o644, **others: Any) -> Entry:
    return Entry(name, content=content, mode=mode, **others)


def folder(name: str, mode: int = 0o755, **others: Any) -> Entry:
    return Entry(name, tarfile.DIRTYPE, mode=mode, **others)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.SYMTYPE, target=target, mode=0o777)


def hardlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.LNKTYPE, target=target)


def device(name: str, major: int, minor: int, mode: int = 0o666) -> Entry:
    return Entry(name, tarfile.CHRTYPE, mode=mode, device=(major, minor))


def fifo(name: str) -> Entry:
    return Entry(name, tarfile.FIFOTYPE)


def gone(name: str) -> Entry:
    """The whiteout of a file or folder of a lower layer."""
    parent, _, last = name.rpartition("/")
    return file(f"{parent}/.wh.{last}" if parent else f".wh.{last}")


def opaque(name: str) -> Entry:
    """The mark of a folder whose contents in lower layers are hidden."""
    return file(f"{name}/.wh..wh..opq")


@dataclass(frozen=True)
class DockerImage:
    """layers: lowest first; config: Docker's words (Env, Cmd, Entrypoint, WorkingDir, User, ExposedPorts, Volumes)."""

    layers: Sequence[Sequence[Entry]]
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "amd64"
    compressed: bool = True

    def describe(self, diff_ids: Sequence[str]) -> bytes:
        """The image configuration as Docker and OCI have it."""
        rootfs = {"type": "layers", "diff_ids": list(diff_ids)}
        facts = {
            "architecture": self.architecture,
            "os": "linux",
            "config": dict(self.config),
            "rootfs": rootfs,
        }
        return json.dumps(facts).encode()


@dataclass(frozen=True)
class Blob:
    """A file named by its digest, "sha256:...". diff_id: of a layer, the digest before it was compressed."""

    digest: str
    path: Path
    diff_id: str = ""

    def descriptor(self, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.digest, "size": self.path.stat().st_size}


def save_archive(image: DockerImage, path: Path, tag: str = "modelhub/test:1") -> Path:
    """Write what `docker save` writes; the path."""
    with tempfile.TemporaryDirectory(dir=path.parent) as space, tarfile.open(path, "w") as archive:
        layers = [_layer(image, entries, Path(space)) for entries in image.layers]
        config = _blob(image.describe([layer.diff_id for layer in layers]), Path(space))
        names = [f"{layer.digest[7:]}/layer.tar" for layer in layers]
        manifest = [{"Config": f"{config.digest[7:]}.json", "RepoTags": [tag], "Layers": names}]
        archive.add(config.path, f"{config.digest[7:]}.json")
        for name, layer in dict(zip(names, layers, strict=True)).items():
            archive.add(layer.path, name)
        archive.add(_blob(json.dumps(manifest).encode(), Path(space)).path, "manifest.json")
    return path


def save_layout(images: Sequence[DockerImage], path: Path, tag: str = "1", guard: bytes = b"") -> Path:
    """Write an OCI layout; the path. Several images become one tag for several platforms: an index.

    guard: a tar that becomes the last layer of each.
    """
    space = path / "blobs/sha256"
    space.mkdir(parents=True)
    found = [
        {**save_blobs(image, space, guard).descriptor(_MANIFEST), "platform": _platform(image)}
        for image in images
    ]
    if len(found) > 1:
        kind = "application/vnd.oci.image.index.v1+json"
        inner = _blob(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": found}).encode(), space)
        found = [inner.descriptor(kind)]
    found[0]["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": found}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def save_blobs(image: DockerImage, space: Path, guard: bytes = b"") -> Blob:
    """Write layers, config and manifest as files named by their sha256 into a folder; the manifest."""
    layers = [_layer(image, entries, space) for entries in image.layers]
    last = [_blob(guard, space)] if guard else []
    diff_ids = [*(layer.diff_id for layer in layers), *(layer.digest for layer in last)]
    config = _blob(image.describe(diff_ids), space)
    kind = _LAYER + ("+gzip" if image.compressed else "")
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": config.descriptor(_CONFIG),
        "layers": [*(each.descriptor(kind) for each in layers), *(each.descriptor(_LAYER) for each in last)],
    }
    return _blob(json.dumps(manifest).encode(), space)


def static_program(code: str = "int main(void) { return 0; }") -> bytes:
    """A program that needs nothing of the image it lies in: C, linked statically."""
    with tempfile.TemporaryDirectory() as space:
        command = ["gcc", "-static", "-Os", "-s", "-x", "c", "-", "-o", f"{space}/program"]
        subprocess.run(command, input=code.encode(), check=True)
        return Path(space, "program").read_bytes()


def _platform(image: DockerImage) -> dict[str, str]:
    return {"os": "linux", "architecture": image.architecture}


def _layer(image: DockerImage, entries: Sequence[Entry], space: Path) -> Blob:
    """A layer as a file in `space`; big ones never lie in memory."""
    part = space / "layer.part"
    with open(part, "wb") as stream:
        packed: Any = gzip.GzipFile("", "wb", 1, stream, mtime=0) if image.compressed else stream
        told = _Hashing(packed)
        with tarfile.open(fileobj=told, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:  # type: ignore
            for entry in entries:
                with _contents(entry) as content:
                    tar.addfile(_header(entry), content)
        if image.compressed:
            packed.close()
    return _named(part, space, f"sha256:{told.digest.hexdigest()}")


def _header(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.name)
    info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.target
    info.uid = info.gid = entry.owner
    info.size = entry.zeros or len(entry.content)
    info.devmajor, info.devminor = entry.device
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in entry.xattrs.items()}
    return info


def _contents(entry: Entry) -> BinaryIO:
    return open("/dev/zero", "rb") if entry.zeros else io.BytesIO(entry.content)


class _Hashing:
    """A stream that hashes what passes through it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return int(self.stream.write(data))


def _blob(data: bytes, space: Path) -> Blob:
    (space / "blob.part").write_bytes(data)
    return _named(space / "blob.part", space)


def _named(part: Path, space: Path, diff_id: str = "") -> Blob:
    digest = file_digest(part)
    part.replace(space / digest)
    return Blob(f"sha256:{digest}", space / digest, diff_id)
