"""`mh-hpc convert` for real: what becomes of images, and of converters that are many, killed, or short of room."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dockerimages import DockerImage, file, folder, save_archive, save_layout, static_program, symlink
from driving import Ended, environment, finish
from grounds import IMAGE
from registry_server import RegistryServer
from test_disk_full import Namespace

from modelhub_hpc import apptainer, images
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.images import store
from modelhub_hpc.platforms import this_machine
from modelhub_hpc.unpacked.fingerprint import fingerprint
from modelhub_hpc.unpacked.unpack import unpack

pytestmark = [
    pytest.mark.apptainer,
    pytest.mark.skipif(
        not shutil.which("apptainer") and not os.environ.get("MH_TEST_REQUIRE_APPTAINER"), reason="needs Apptainer"
    ),
]
LIMIT_S = 120.0
HERE = this_machine().architecture
NONE_LEFT = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
SHUT = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", NONE_LEFT, "sh"]
CERTIFY = """
import pathlib, sys
from modelhub_hpc import certify, config
certify.certify(pathlib.Path(sys.argv[1]), "python3", config.load())
"""
COMMAND = [sys.executable, "-m", "modelhub_hpc.cli", "convert"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image without Python: a program of its own, and what commonly stands in the way."""
    base = [
        *(folder(name) for name in ("bin", "etc", "usr", "proc", "sys", "dev", "tmp")),
        file("bin/hello", static_program(), mode=0o755),
        folder("root", mode=0o700),
        file("root/weights", b"0123456789", mode=0o600),
        symlink("bin/again", "hello"),
    ]
    image = DockerImage([base], {"Cmd": ["/bin/hello"], "WorkingDir": "/app", "User": "1000"})
    return save_archive(image, tmp_path_factory.mktemp("archive") / "small image.tar")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Converter:
    """The command with a store and a TMPDIR of its own."""

    def __init__(self, space: Path) -> None:
        self.cache, self.temporary = space / "cache", space / "tmp"
        self.temporary.mkdir()
        self.site = SiteConfig(cache_dir=self.cache)

    def start(self, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        places = {"MH_HPC_CACHE_DIR": str(self.cache), "TMPDIR": str(self.temporary)}
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**{**places, **variables}),
            start_new_session=True,
        )

    def run(self, *arguments: object, **variables: str) -> Ended:
        return finish(self.start(*arguments, **variables), LIMIT_S)

    def records(self) -> list[dict[str, Any]]:
        """The records that make images count."""
        found = [path for path in (self.cache / "images").glob("*.json") if "certificate" not in path.name]
        return [json.loads(path.read_bytes()) for path in found]

    def sifs(self) -> list[Path]:
        return list((self.cache / "images").glob("*.sif"))

    def workspaces(self) -> list[Path]:
        return [path for path in (self.cache / "images").glob(".work*") if path.is_dir()]


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    return Converter(tmp_path)


def test_the_ordinary_image_is_certified(image: images.Image) -> None:
    certificate = store.certificate(image)
    assert certificate and certificate["certified"], certificate
    checks = {check["name"]: check for check in certificate["checks"]}
    assert all(check["ok"] for check in checks.values())
    assert {"starts", "serves", "read-only", "offline", "private folders", "numpy"} <= set(checks)
    assert checks["starts"]["detail"].startswith("Python 3.11")
    labels = apptainer.labels(image.path)
    assert labels["org.modelhub-hpc.image"] == IMAGE
    assert labels["org.modelhub-hpc.digest"] == image.digest == certificate["origin"]["digest"]
    assert labels["org.modelhub-hpc.interpreter"] == "python3"
    assert labels["org.modelhub-hpc.cwd"] == "/contrib_src"


def test_it_ran_as_a_user_who_is_another_to_the_kernel(image: images.Image) -> None:
    user = os.getuid()
    ranges = [line.split(":")[0] for line in Path("/etc/subuid").read_text().splitlines()]
    if user and str(user) not in ranges and os.environ.get("USER", "") not in ranges:
        pytest.skip("this user has no subordinate ids")
    certificate = store.certificate(image)
    assert certificate
    assert "another user" in next(c["detail"] for c in certificate["checks"] if c["name"] == "starts")


def test_an_image_without_python_is_converted_and_not_certified(converter: Converter, archive: Path) -> None:
    ended = converter.run(f"docker-archive:{archive}", "--name", "small:1", "--json")
    assert ended.code == 0, ended.text
    answer = json.loads(ended.out)
    assert answer["new"] and not answer["certificate"]["certified"]
    assert "NOT certified" in ended.err
    states = {f["code"]: f["state"] for f in answer["certificate"]["audit"]["findings"]}
    assert states["no-python"] == "open"
    assert states["unreadable"] == "mended"
    sif = Path(answer["image"]["path"])
    assert not converter.workspaces()
    # the mended file is readable for a user who is not its owner: files of a SIF belong to root
    read = ["apptainer", "-s", "exec", "--no-home", str(sif), "/bin/again"]
    assert subprocess.run(read, cwd="/", timeout=LIMIT_S).returncode == 0


def test_strict_refuses_it_and_keeps_nothing(converter: Converter, archive: Path) -> None:
    ended = converter.run(f"docker-archive:{archive}", "--name", "small:1", "--strict")
    assert ended.code == 4
    assert "not certified" in ended.err and "Python" in ended.err
    assert not converter.records() and not converter.sifs() and not converter.workspaces()


def test_the_same_digest_again_is_there_already(converter: Converter, archive: Path) -> None:
    source = f"docker-archive:{archive}"
    first = json.loads(converter.run(source, "--name", "small:1", "--json").out)
    again = json.loads(converter.run(source, "--name", "small:1", "--json").out)
    assert not again["new"] and again["image"] == first["image"]
    other = json.loads(converter.run(source, "--name", "other:2", "--json").out)
    assert not other["new"] and other["image"]["name"] == "other:2"
    assert other["image"]["sha256"] == first["image"]["sha256"]
    assert len(converter.sifs()) == 1
    strict = converter.run(source, "--name", "small:1", "--strict")
    assert strict.code == 4, strict.text


def test_ten_converters_of_one_image(converter: Converter, archive: Path) -> None:
    source = [f"docker-archive:{archive}", "--name", "small:1", "--json"]
    ended = [finish(each, LIMIT_S) for each in [converter.start(*source) for _ in range(10)]]
    assert [each.code for each in ended] == [0] * 10, [each.text for each in ended if each.code]
    answers = [json.loads(each.out) for each in ended]
    assert [answer["new"] for answer in answers].count(True) == 1
    assert len({answer["image"]["sha256"] for answer in answers}) == 1
    assert len(converter.sifs()) == 1 and not converter.workspaces()


@pytest.mark.parametrize("after", ["Unpacking", "Packing", "Proving"])
def test_a_killed_converter_leaves_nothing_that_counts(converter: Converter, archive: Path, after: str) -> None:
    source = [f"docker-archive:{archive}", "--name", "small:1"]
    killed = converter.start(*source)
    come_to(after, killed)
    killed.kill()  # it alone: what it has started goes on, as it would after the OOM killer
    killed.communicate()
    assert not converter.records()
    assert converter.run(*source).code == 0
    assert len(converter.records()) == 1 and len(converter.sifs()) == 1


@pytest.mark.parametrize("after", ["Unpacking", "Packing"])
def test_ctrl_c_leaves_nothing(converter: Converter, archive: Path, after: str) -> None:
    stopped = converter.start(f"docker-archive:{archive}", "--name", "small:1")
    come_to(after, stopped)
    os.killpg(stopped.pid, signal.SIGINT)
    ended = finish(stopped, LIMIT_S)
    assert ended.code == 130, ended.text
    assert not converter.records() and not converter.workspaces()


def come_to(step: str, converting: subprocess.Popen[str]) -> None:
    """Wait until a conversion says that it is at a step."""
    assert converting.stderr is not None
    for line in converting.stderr:
        if line.startswith(step):
            return
    raise AssertionError(f"never came to {step}")


@pytest.mark.parametrize("kind", ["sif", "folder", "definition"])
def test_other_sources(converter: Converter, archive: Path, kind: str, tmp_path: Path) -> None:
    first = json.loads(converter.run(f"docker-archive:{archive}", "--name", "small:1", "--json").out)
    sif = first["image"]["path"]
    if kind == "sif":
        source = str(shutil.copy(sif, tmp_path / "a copy.sif"))
    elif kind == "folder":
        source = str(tmp_path / "un packed")
        apptainer.unpack(Path(source), sif, tmp_path)
    else:
        source = str(tmp_path / "small.def")
        Path(source).write_text(f"Bootstrap: localimage\nFrom: {sif}\n%labels\n    a b\n")
    ended = converter.run(source, "--name", f"{kind}:1", "--json")
    assert ended.code == 0, ended.text
    made = json.loads(ended.out)["image"]
    assert made["name"] == f"{kind}:1"
    if kind != "definition":
        assert made["tree"] == first["image"]["tree"]
    assert images.find(f"{kind}:1", converter.site).sha256 == made["sha256"]


def test_files_of_a_definition_are_relative_to_the_caller(
    converter: Converter, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.loads(converter.run(f"docker-archive:{archive}", "--name", "small:1", "--json").out)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "own.def").write_text(
        f"Bootstrap: localimage\nFrom: {made['image']['path']}\n%files\n    notes.txt /notes.txt\n"
    )
    monkeypatch.chdir(tmp_path)
    ended = converter.run("own.def", "--json")
    assert ended.code == 0, ended.text
    answer = json.loads(ended.out)["image"]
    assert answer["name"] == "own:latest"
    unpack(tmp_path / "tree", answer["path"], tmp_path)
    assert (tmp_path / "tree/notes.txt").read_text() == "mine"


def test_from_a_registry_to_the_store(converter: Converter, tmp_path: Path) -> None:
    """By tag, by digest, offline; the machine's own platform out of several."""
    entries = [file("bin/hello", static_program(), mode=0o755)]
    both = [DockerImage([entries], {"Cmd": ["/bin/hello"]}, architecture) for architecture in ("arm64", HERE)]
    with RegistryServer(make(tmp_path / "registry")) as registry:
        index = registry.push(save_layout(both, tmp_path / "both"), "lab/net", "1")
        source = f"docker://{registry.address}/lab/net"
        first = converter.run(f"{source}:1", "--no-https", "--json")
        assert first.code == 0, first.text
        answer = json.loads(first.out)
        assert answer["image"]["name"] == "lab/net:1"
        assert answer["certificate"]["origin"]["pinned"] == f"{source}:1@{answer['image']['digest']}"
        pinned = converter.run(f"{source}@{index}", "--no-https", "--name", "pinned:1", "--json")
        assert not json.loads(pinned.out)["new"]
        alone = registry.push(save_layout(both[:1], tmp_path / "alone"), "lab/net", "arm")
        refused = converter.run(f"{source}@{alone}", "--no-https")
        assert refused.code == 4 and "arm64" in refused.err and HERE in refused.err
    assert not list((converter.cache / "images/.blobs").iterdir())
    again = converter.run(f"{source}:1", "--offline", "--json")
    assert again.code == 0 and not json.loads(again.out)["new"], again.text
    assert converter.run(f"{source}:2", "--offline").code == 4
    gone = converter.run(f"{source}:1", "--no-https")
    assert gone.code == 75 and registry.address in gone.err


def test_an_image_does_not_tell_the_folders_of_its_maker(converter: Converter, archive: Path) -> None:
    made = json.loads(converter.run(f"docker-archive:{archive}", "--name", "small:1", "--json").out)
    inside = json.dumps(apptainer.labels(Path(made["image"]["path"]))) + json.dumps(made["certificate"])
    assert archive.name in inside
    assert str(archive.parent) not in inside and str(converter.cache) not in inside


def test_a_careful_umask_does_not_close_the_image(converter: Converter, archive: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        ended = converter.run(f"docker-archive:{archive}", "--name", "small:1", "--json")
    finally:
        os.umask(before)
    unpack(tmp_path / "tree", json.loads(ended.out)["image"]["path"], tmp_path)
    closed = [path for path in (tmp_path / "tree").rglob("*") if not path.is_symlink() and not path.stat().st_mode & 4]
    assert not closed


def test_no_user_namespaces(image: images.Image) -> None:
    """An administrator has closed them: no image can be certified, and the message names the mend."""
    if os.getuid() == 0:
        pytest.skip("root needs none")
    argv = [*SHUT, sys.executable, "-c", CERTIFY, str(image.path)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    assert "UnfitError" in done.stderr and "sysctl -w user.max_user_namespaces" in done.stderr


@pytest.mark.parametrize("options", ["size=1m", "noexec"])
def test_tmp_does_not_matter(converter: Converter, archive: Path, options: str) -> None:
    """A /tmp that is small or noexec: everything happens on the store's file system."""
    namespace = Namespace(converter.temporary, options)
    try:
        if not namespace.ready:
            pytest.skip("this machine lets its users have no mount namespace")
        command = [*COMMAND, f"docker-archive:{archive}", "--name", "small:1", "--json"]
        places = ["env", f"MH_HPC_CACHE_DIR={converter.cache}", f"TMPDIR={converter.temporary}"]
        ended = namespace.run([*places, *command])
    finally:
        namespace.close()
    assert ended.code == 0, ended.text


@pytest.mark.parametrize("hidden", [0, 64 * 2**20], ids=["seen before", "seen on the way"])
def test_no_room_for_the_store(converter: Converter, hidden: int, tmp_path: Path) -> None:
    """Too little from the start, and too little once it is unpacked: said with numbers, and nothing is left."""
    entries = [file("plain", os.urandom(2**20)), file("zeros", zeros=hidden or 1)]  # zeros take no room when packed
    archive = save_archive(DockerImage([entries], {}), tmp_path / "big.tar")
    converter.cache.mkdir()
    namespace = Namespace(converter.cache, "size=16m" if hidden else "size=1m")
    try:
        if not namespace.ready:
            pytest.skip("this machine lets its users have no mount namespace")
        ended = namespace.run(["env", f"MH_HPC_CACHE_DIR={converter.cache}", *COMMAND, f"docker-archive:{archive}"])
        left = namespace.run(["find", str(converter.cache), "-name", "*.sif", "-o", "-name", "tree"])
    finally:
        namespace.close()
    assert ended.code == 75, ended.text
    assert "MB" in ended.err and "free" in ended.err
    assert not left.out.strip()


def test_a_copy_of_the_sif_says_what_it_is(image: images.Image, tmp_path: Path) -> None:
    """A SIF that has left its store still knows its interpreter, its source and its files."""
    copy = Path(shutil.copy(image.path, tmp_path / "copy.sif"))
    found = images.find(str(copy), SiteConfig(cache_dir=tmp_path))
    facts = ("sha256", "bytes", "interpreter", "digest", "tree", "cwd", "python")
    assert [getattr(found, name) for name in facts] == [getattr(image, name) for name in facts]


def test_unpacking_keeps_modes_whatever_the_umask(image: images.Image, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack(tmp_path / "tree", str(image.path), tmp_path)
    finally:
        os.umask(before)
    script = tmp_path / "tree/.singularity.d/runscript"
    assert script.stat().st_mode & 0o777 == 0o755
    assert fingerprint(tmp_path / "tree") == image.tree
