"""What a source turns out to be, and what Apptainer is given instead of it: archives, layouts, names."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dockerimages import DockerImage, file, gone, save_archive, save_layout
from sifs import ELSEWHERE, write_sif

from modelhub_hpc.errors import InvalidError, ModelHubError, UsageError
from modelhub_hpc.platforms import this_machine
from modelhub_hpc.sources import Origin, fetch, resolve

HERE = this_machine().architecture
OTHER = "s390x"
HOSTILE = (
    "a b.tar",
    "a:b.tar",
    "a,b",
    "-rf.tar",
    "new\nline.tar",
    "ünïcode.tar",
    "\udcff.tar",
    "@x.tar",
    "a:1.tar:x",
)
CONFIG = {
    "Cmd": ["python", "run.py"],
    "Entrypoint": None,
    "WorkingDir": "/contrib_src",
    "User": "1000",
    "Env": ["A=1", "PATH=/bin"],
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"title": "net"},
}


def image(architecture: str = HERE, **options: Any) -> DockerImage:
    layers = [
        [file("etc/one", b"1" * 5000), file("etc/two", b"2")],
        [gone("etc/two"), file("etc/three", os.urandom(9))],
    ]
    return DockerImage(layers, CONFIG, architecture=architecture, **options)


def made(origin: Origin, space: Path) -> dict[str, bytes]:
    """Fetch, and compare all that the layout holds with its digests; the files of all its layers."""
    space.mkdir()
    seen: list[tuple[int, int]] = []
    what = fetch(origin, space, space / "blobs", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == sum(layer.size for layer in origin.files)
    scheme, _, folder = what.partition(":")
    assert scheme == "oci"
    blobs = Path(folder, "blobs/sha256")
    for blob in blobs.iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    (entry,) = json.loads(Path(folder, "index.json").read_bytes())["manifests"]
    manifest = json.loads((blobs / entry["digest"][7:]).read_bytes())
    found = {}
    for layer in manifest["layers"]:
        path = blobs / layer["digest"][7:]
        assert path.stat().st_size == layer["size"]
        assert ("gzip" in layer["mediaType"]) == path.read_bytes().startswith(b"\x1f\x8b")
        with tarfile.open(path) as tar:
            found.update({i.name: tar.extractfile(i).read() for i in tar if i.isreg()})  # type: ignore[union-attr]
    settings = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    assert len(settings["rootfs"]["diff_ids"]) == len(manifest["layers"])
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return save_archive(image(compressed=False), tmp_path / "image.tar")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return save_layout([image()], tmp_path / "layout", tag="1")


def as_archive(layout: Path, path: Path, prefix: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name in ("oci-layout", "index.json", "blobs"):
            tar.add(layout / name, prefix + name)
    return path


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """An archive after a change of its files."""
    with tarfile.open(path) as tar:
        files = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    change(files)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def refused(source: object, kind: type[ModelHubError] = InvalidError, **options: bool) -> str:
    with pytest.raises(kind) as caught:
        resolve(str(source), **options)
    return str(caught.value)


def test_an_archive_of_docker_is_known_by_its_configuration(archive: Path, tmp_path: Path) -> None:
    origin = resolve(f"docker-archive:{archive}")
    with tarfile.open(archive) as tar:
        (entry,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        settings = tar.extractfile(entry["Config"]).read()  # type: ignore[union-attr]
    assert origin.digest == f"sha256:{hashlib.sha256(settings).hexdigest()}"
    assert origin.pinned == f"docker-archive:{archive}@{origin.digest}"
    config = origin.config
    assert config is not None
    assert (config.cmd, config.entrypoint, config.working_dir) == (("python", "run.py"), (), "/contrib_src")
    assert (config.env, config.user, config.ports) == (("A=1", "PATH=/bin"), "1000", ("80/tcp",))
    assert (config.architecture, config.labels) == (HERE, {"title": "net"})
    assert 5000 < origin.bytes <= archive.stat().st_size
    files = made(origin, tmp_path / "work")
    assert files["etc/one"] == b"1" * 5000 and "etc/.wh.two" in files
    assert ".wh..singularity.d" in files  # Apptainer would write into that folder, wherever it leads


def test_what_is_recorded_is_plain_json(archive: Path) -> None:
    assert json.loads(json.dumps(dataclasses.asdict(resolve(str(archive)))))["kind"] == "docker-archive"


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, lzma.compress], ids=["tar", "gz", "xz"])
@pytest.mark.parametrize("compressed", [False, True])
def test_compressed_archives_and_layers(
    tmp_path: Path, pack: Callable[[bytes], bytes], compressed: bool
) -> None:
    """Layers come out plain, which is what their digest is of and what Apptainer unpacks fastest."""
    path = save_archive(image(compressed=compressed), tmp_path / "image.tar")
    path.write_bytes(pack(path.read_bytes()))
    assert made(resolve(str(path)), tmp_path / "work")["etc/one"] == b"1" * 5000


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_paths_of_archives(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_archive(image(), tmp_path / "plain", tag="lab/net:1").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in (
        f"docker-archive:{tmp_path / name}",
        f"docker-archive:{name}:lab/net:1",
        str(tmp_path / name),
    ):
        assert resolve(source).kind == "docker-archive"
    assert made(resolve(f"docker-archive:{name}"), tmp_path / "work")["etc/two"] == b"2"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_paths_of_layouts(tmp_path: Path, name: str) -> None:
    save_layout([image()], tmp_path / name, tag="1")
    as_archive(tmp_path / name, tmp_path / f"{name}.oci")
    for source in (f"oci:{tmp_path / name}:1", f"oci-archive:{tmp_path / name}.oci:1"):
        assert resolve(source).digest == resolve(str(tmp_path / name)).digest
    assert made(resolve(f"oci:{tmp_path / name}"), tmp_path / "work")["etc/two"] == b"2"


@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_oci_archive_is_the_layout_in_a_file(layout: Path, tmp_path: Path, prefix: str) -> None:
    path = as_archive(layout, tmp_path / "image", prefix)
    origin = resolve(str(path))
    assert (origin.kind, origin.digest) == ("oci-archive", resolve(f"oci:{layout}").digest)
    index = json.loads((layout / "index.json").read_bytes())
    assert origin.digest == index["manifests"][0]["digest"]
    assert made(origin, tmp_path / "work") == made(resolve(str(layout)), tmp_path / "work2")


def test_an_archive_with_several_images(tmp_path: Path) -> None:
    paths = [save_archive(image(), tmp_path / f"{n}.tar", tag=f"lab/net:{n}") for n in "12"]
    both: list[Any] = []

    def gather(files: dict[str, bytes]) -> None:
        both.extend(json.loads(files["manifest.json"]))

    def merge(files: dict[str, bytes]) -> None:
        with tarfile.open(paths[1]) as tar:
            files |= {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        files["manifest.json"] = json.dumps(both).encode()

    for path in paths:
        rewritten(path, gather)
    second = resolve(str(paths[1])).digest
    rewritten(paths[0], merge)
    assert resolve(f"docker-archive:{paths[0]}:lab/net:2").digest == second
    assert "lab/net:1, lab/net:2" in refused(paths[0])
    assert "no image called other:3; it holds: lab/net:1" in refused(f"docker-archive:{paths[0]}:other:3")


def test_a_layer_that_old_docker_wrote_as_a_link(tmp_path: Path) -> None:
    layer = [file("etc/one", b"1")]
    path = save_archive(DockerImage([layer, layer], {}, HERE, compressed=False), tmp_path / "image.tar")
    with tarfile.open(path) as tar:
        (entry,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    first = entry["Layers"][0]
    entry["Layers"][1] = "other/layer.tar"
    rewritten(path, lambda files: files.pop("manifest.json") and None)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("other/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, f"../{first}"
        tar.addfile(link)
        manifest = tarfile.TarInfo("manifest.json")
        data = json.dumps([entry]).encode()
        manifest.size = len(data)
        tar.addfile(manifest, io.BytesIO(data))
        circle = tarfile.TarInfo("circle")
        circle.type, circle.linkname = tarfile.SYMTYPE, "circle"
        tar.addfile(circle)
    origin = resolve(str(path))
    assert len(origin.layers) == 2 and len(origin.files) == 1
    assert made(origin, tmp_path / "work")["etc/one"] == b"1"
    with tarfile.open(path, "a") as tar:
        manifest.size = len(data := json.dumps([{**entry, "Layers": [first, "circle"]}]).encode())
        tar.addfile(manifest, io.BytesIO(data))
    assert "lacks a file that belongs to it: circle" in refused(path)


def test_layers_that_cannot_be_compared_with_their_digests(archive: Path) -> None:
    where = resolve(str(archive)).layers[0].where
    rewritten(archive, lambda files: files.update({where: b"\x28\xb5\x2f\xfd" + bytes(100)}))
    assert f"oci-archive:{archive}" in refused(archive)


def test_several_platforms(tmp_path: Path) -> None:
    path = save_layout(
        [image(OTHER), image(HERE), image("arm64" if HERE != "arm64" else "amd64")], tmp_path / "all"
    )
    origin = resolve(f"oci:{path}:1")
    assert origin.config is not None and origin.config.architecture == HERE
    assert made(origin, tmp_path / "work")["etc/two"] == b"2"
    none = save_layout([image(OTHER), image("riscv64")], tmp_path / "none")
    assert f"it has only {OTHER}, riscv64; this machine is {HERE}" in refused(none)


@pytest.mark.parametrize("system", ["linux", "windows"])
def test_an_archive_for_other_machines(tmp_path: Path, system: str) -> None:
    path = save_archive(image(OTHER), tmp_path / "image.tar")

    def change(files: dict[str, bytes]) -> None:
        (entry,) = json.loads(files["manifest.json"])
        files[entry["Config"]] = files[entry["Config"]].replace(b'"linux"', f'"{system}"'.encode())

    what = OTHER if system == "linux" else f"windows/{OTHER}"
    assert f"is for {what}; this machine is {HERE}" in refused(rewritten(path, change))


def test_what_was_changed_is_refused_with_both_digests(archive: Path, tmp_path: Path) -> None:
    origin = resolve(str(archive))
    layer = origin.layers[0]

    def flip(files: dict[str, bytes]) -> None:
        data = files[layer.where]
        files[layer.where] = data[:600] + bytes([data[600] ^ 1]) + data[601:]

    rewritten(archive, flip)
    with pytest.raises(InvalidError) as caught:
        made(origin, tmp_path / "work")
    assert layer.digest in str(caught.value) and str(caught.value).count("sha256:") == 2


@pytest.mark.parametrize("which", ["manifest", "settings"])
def test_a_layout_that_was_changed(layout: Path, which: str) -> None:
    origin = resolve(str(layout))
    assert origin.settings is not None
    blob = layout / "blobs/sha256" / (origin.digest[7:] if which == "manifest" else origin.settings.hex)
    blob.write_bytes(blob.read_bytes().replace(b"linux" if which == "settings" else b"layers", b"LINUX!"[:6]))
    assert "is damaged or was changed" in refused(layout)


def test_archives_that_are_not_whole(archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    for count in (0, 100, 700, len(data) // 2):
        archive.write_bytes(data[:count])
        message = refused(f"docker-archive:{archive}")
        assert str(archive) in message and re.search(
            "no whole archive|lacks a file|no manifest.json", message
        )
    archive.write_bytes(gzip.compress(data)[:-500])
    assert "no whole archive" in refused(f"docker-archive:{archive}")


def test_layouts_that_are_not_whole(layout: Path) -> None:
    layer = resolve(str(layout)).layers[0]
    path = layout / "blobs/sha256" / layer.hex
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{layer.size - 1} bytes instead of {layer.size}" in refused(layout)
    path.unlink()
    os.mkfifo(path)  # not waited for
    assert f"lacks a file that belongs to it: blobs/sha256/{layer.hex}" in refused(layout)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'[{"Config": 1}]',
        b'[{"Config": "../../etc/passwd", "Layers": []}]',
        b"[" * 10**6,
    ],
)
def test_hostile_manifests(archive: Path, document: bytes) -> None:
    rewritten(archive, lambda files: files.update({"manifest.json": document}))
    assert str(archive) in refused(f"docker-archive:{archive}")


@pytest.mark.parametrize(
    "change",
    [
        {"layers": None},
        {"layers": [{"digest": "sha256:../../x", "size": 1}]},
        {
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha512:00", "size": 1}
            ]
        },
        {"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json"}},
        {"schemaVersion": 1, "fsLayers": []},
    ],
)
def test_hostile_manifests_of_layouts(layout: Path, change: dict[str, Any]) -> None:
    blobs, index = layout / "blobs/sha256", json.loads((layout / "index.json").read_bytes())
    data = json.dumps(
        {**json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes()), **change}
    ).encode()
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    index["manifests"][0] |= {"digest": f"sha256:{name}", "size": len(data)}
    (layout / "index.json").write_text(json.dumps(index))
    assert str(layout) in refused(layout)


def test_a_sif_a_folder_and_a_definition(tmp_path: Path) -> None:
    sif = write_sif(tmp_path / "a:b c.sif", b"files" * 100)
    origin = resolve(str(sif))
    assert (origin.kind, origin.digest, origin.config) == ("sif", "", None) and origin.bytes > 500
    assert fetch(origin, tmp_path, tmp_path) == str(sif)
    assert f"for {OTHER} machines" in refused(write_sif(tmp_path / "else.sif", code=ELSEWHERE))
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/file").write_bytes(b"x" * 1000)
    origin = resolve(str(root))
    assert (origin.kind, origin.bytes, fetch(origin, tmp_path, tmp_path)) == ("folder", 1000, str(root))
    definition = tmp_path / "recipe"
    definition.write_text("# a recipe\nBootstrap: docker\nFrom: x\n")
    origin = resolve(str(definition))
    what = fetch(origin, tmp_path, tmp_path)
    assert origin.kind == "definition" and what.endswith(".def") and os.path.samefile(what, definition)
    assert "starts from 'docker', and --offline" in refused(definition, offline=True)
    definition.write_text("BootStrap: localimage\nFrom: x.sif\n")
    assert resolve(str(definition), offline=True).kind == "definition"


def test_what_is_no_source(tmp_path: Path) -> None:
    assert "no kind of source" in refused("library://alpine:3", UsageError)
    assert "no kind of source" in refused("docker-daemon:x", UsageError)
    assert "docker://NAME" in refused(tmp_path / "nothing")
    assert "without a name" in refused("")
    assert "without a name" in refused("oci:")
    assert f"no file or folder {tmp_path}/nothing:1" in refused(f"oci:{tmp_path}/nothing:1")
    (tmp_path / "empty").mkdir()
    assert "neither an OCI layout" in refused(tmp_path / "empty")
    assert "no index.json" in refused(f"oci:{tmp_path / 'empty'}")
    (tmp_path / "words").write_text("hello")
    assert "no whole archive" in refused(tmp_path / "words")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "words", "words")
    assert "not of an image" in refused(tmp_path / "other.tar")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refused(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(archive: Path, layout: Path) -> None:
    archive.chmod(0)
    assert "cannot be read: Permission denied" in refused(archive)
    assert "cannot be read: Permission denied" in refused(f"docker-archive:{archive}")
    (layout / "blobs").chmod(0)
    try:
        assert str(layout) in refused(layout)
    finally:
        (layout / "blobs").chmod(0o755)


def test_a_password_in_a_source_is_not_repeated() -> None:
    message = refused("docker://me:hunter2@127.0.0.1:1/a:1", UsageError)
    assert "hunter2" not in message and "log in with" in message


def test_offline_a_name_is_known_by_its_digest_alone(tmp_path: Path) -> None:
    assert "--offline allows no network" in refused("docker://127.0.0.1:1/a:1", offline=True)
    digest = f"sha256:{'0' * 64}"
    origin = resolve(f"docker://127.0.0.1:1/a@{digest}", offline=True)
    assert (origin.digest, origin.config) == (digest, None)
    with pytest.raises(InvalidError, match="mh-hpc images"):
        fetch(origin, tmp_path, tmp_path)
