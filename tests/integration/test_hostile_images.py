"""Images made to be difficult, through real Apptainer: each becomes a SIF for anybody, or is refused with reasons."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from dockerimages import (
    DockerImage,
    Entry,
    device,
    fifo,
    file,
    folder,
    gone,
    hardlink,
    opaque,
    save_archive,
    save_layout,
    static_program,
    symlink,
)

from modelhub_hpc import apptainer
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.origin import ImageConfig
from modelhub_hpc.unpacked import environment
from modelhub_hpc.unpacked.audit import Audit, audit
from modelhub_hpc.unpacked.fingerprint import fingerprint
from modelhub_hpc.unpacked.guard import guard_layer, require_guarded
from modelhub_hpc.unpacked.mend import mend
from modelhub_hpc.unpacked.tree import Tree

pytestmark = [
    pytest.mark.apptainer,
    pytest.mark.skipif(
        not shutil.which("apptainer") and not os.environ.get("MH_TEST_REQUIRE_APPTAINER"),
        reason="needs Apptainer",
    ),
]

# prints the file that it is asked for, and its environment
CAT = """
#include <stdio.h>
extern char **environ;
int main(int n, char **words) {
    FILE *file = n > 1 ? fopen(words[1], "rb") : 0;
    if (n > 1 && !file) { perror(words[1]); return 1; }
    for (int c; file && (c = getc(file)) != EOF;) putchar(c);
    for (char **each = environ; n == 1 && *each; each++) puts(*each);
    return 0;
}
"""


@dataclass(frozen=True)
class Bench:
    """Converts images by the steps that the product takes."""

    space: Path
    program: bytes

    def image(self, *layers: Sequence[Entry], **config: object) -> DockerImage:
        base = [folder("bin"), file("bin/cat", self.program, 0o755)]
        return DockerImage([base, *layers], config)

    def unpack(self, image: DockerImage, name: str = "tree") -> Path:
        """As the product does it: an OCI layout with a last layer of ours."""
        layout = save_layout([image], self.space / f"{name}.oci", guard=guard_layer())
        (self.space / "scratch").mkdir(exist_ok=True)
        apptainer.unpack(self.space / name, f"oci:{layout}", self.space / "scratch")
        return self.space / name

    def convert(self, image: DockerImage, config: ImageConfig | None = None) -> tuple[Audit, Path]:
        tree = self.unpack(image)
        found = mend(tree, audit(tree, config))
        apptainer.build(self.space / "image.sif", str(tree), self.space / "scratch")
        return found, tree

    def run(self, *argv: str) -> subprocess.CompletedProcess[bytes]:
        """Run a program of the converted image. All in it is root's, so that its maker is a stranger to it as well."""
        command = [apptainer.program(), "-q", "exec", "--containall", str(self.space / "image.sif"), *argv]
        return subprocess.run(command, env=apptainer.environment(self.space / "scratch"), capture_output=True)

    def read(self, path: str) -> bytes:
        done = self.run("/bin/cat", path)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def program() -> bytes:
    return static_program(CAT)


@pytest.fixture
def bench(tmp_path: Path, program: bytes) -> Bench:
    return Bench(tmp_path, program)


def codes(found: Audit) -> dict[str, str]:
    return {finding.code: finding.state for finding in found.findings}


def test_layers_hide_and_share_files(bench: Bench) -> None:
    lower = [folder("d"), file("d/a", b"a"), file("d/b", b"b"), folder("hidden"), file("hidden/old", b"old")]
    upper = [
        gone("d/a"),
        hardlink("d/c", "d/b"),
        opaque("hidden"),
        file("hidden/new", b"new"),
        gone("never/there"),
    ]
    last = [gone("d/b"), file("hidden", b"a file where a folder was")]
    _, tree = bench.convert(bench.image(lower, upper, last))
    assert sorted(os.listdir(tree / "d")) == ["c"]
    assert (bench.read("/d/c"), bench.read("/hidden")) == (b"b", b"a file where a folder was")


def test_an_image_of_root_for_root_serves_anybody(bench: Bench) -> None:
    home = [
        folder("root", 0o700),
        folder("root/w", 0o700),
        file("root/w/a.h5", b"weights", 0o600),
        file("root/run", b"", 0o700),
    ]
    users = [
        folder("home"),
        folder("home/u", 0o700, owner=1000),
        file("home/u/key", b"mine", 0o640, owner=1000),
    ]
    shut = [
        folder("shut", 0),
        file("shut/inside", b"inside", 0),
        folder("listless", 0o311),
        file("listless/x", b"x", 0o111),
    ]
    top = [folder("./", 0o700)]
    config = ImageConfig(user="1000", working_dir="/opt/app", cmd=("cat",), ports=("80/tcp",))
    found, tree = bench.convert(bench.image(home, users, shut, top), config)
    expected = {
        "unreadable": "mended",
        "working-dir": "mended",
        "mount-point": "mended",
        "user": "harmless",
        "port": "harmless",
    }
    assert codes(found) == {**expected, "no-python": "open"}
    assert (tree / "opt/app").is_dir()
    for path, content in {
        "/root/w/a.h5": b"weights",
        "/home/u/key": b"mine",
        "/shut/inside": b"inside",
        "/listless/x": b"x",
    }.items():
        assert bench.read(path) == content


def test_what_needs_root_to_be_made(bench: Bench) -> None:
    capability = {"security.capability": "\x01\0\0\x02\0\x20" + "\0" * 14}
    programs = [
        file("bin/su", bench.program, 0o4755),
        file("bin/ping", bench.program, 0o755, xattrs=capability),
    ]
    nodes = [folder("dev"), device("dev/null", 1, 3), device("odd", 8, 0, 0o600), fifo("pipe")]
    found, tree = bench.convert(bench.image(programs, nodes))
    assert not [
        entry.path for entry in Tree(tree).walk() if entry.mode & 0o6000 and not os.path.isdir(entry.place)
    ]
    assert codes(found)["pipe"] == "harmless"
    assert "device" not in codes(found)  # anybody but root gets empty files from Apptainer
    assert bench.run("/bin/su", "/etc/hosts").returncode == 0


HOSTILE_NAMES = (
    "new\nline",
    "-rf",
    "--help",
    "ü" * 127,
    "x" * 255,
    " ",
    "'\"$(touch x)",
    "\\",
    "a\tb",
    os.fsdecode(b"\xff\xfe"),
)


def test_hostile_names(bench: Bench) -> None:
    files = [file(f"names/{name}", os.fsencode(name), 0o600) for name in HOSTILE_NAMES]
    found, tree = bench.convert(bench.image([folder("names", 0o700), *files]))
    assert sorted(os.listdir(tree / "names")) == sorted(HOSTILE_NAMES)
    assert (
        next(finding.count for finding in found.findings if finding.code == "unreadable")
        == len(HOSTILE_NAMES) + 1
    )
    for name in HOSTILE_NAMES:
        if name.isprintable():  # a word of a command line may hold the others too, but not of every version
            assert bench.read(f"/names/{name}") == os.fsencode(name)


def test_variables_reach_the_container_as_docker_has_them_but_for_those_that_break_it(bench: Bench) -> None:
    values = {
        "A": 'quo"te',
        "B": "do$llar",
        "C": "back`tick`",
        "D": "back\\slash",
        "E": "two\nlines",
        "F": '"}"',
        "G": "",
    }
    image = bench.image(
        Env=["PATH=/opt/bin:/bin", "TMPDIR=/opt/tmp", *(f"{name}={value}" for name, value in values.items())]
    )
    tree = bench.unpack(image)
    assert environment.variables(Tree(tree)) == {"PATH": "/opt/bin:/bin", "TMPDIR": "/opt/tmp", **values}
    assert codes(mend(tree, audit(tree, None)))["quoting"] == "mended"
    apptainer.build(bench.space / "image.sif", str(tree), bench.space / "scratch")
    printed = "\n" + bench.run("/bin/cat").stdout.decode()
    assert "\nPATH=/opt/bin:/bin" in printed
    assert "/opt/tmp" not in printed
    assert all(f"\n{name}={value}\n" in printed for name, value in values.items())


# ---------------------------------------------------------------- links that lead to this machine

Attack = Callable[[str], list[list[Entry]]]
ATTACKS: dict[str, Attack] = {
    "a file through a link": lambda out: [
        [symlink("l", out)],
        [file("l/new", b"evil"), file("l/kept", b"evil")],
    ],
    "the same in one layer": lambda out: [[symlink("l", out), file("l/new", b"evil")]],
    "a path with ..": lambda out: [
        [file(f"{'../' * 9}{out}/new", b"evil"), file("a/../../../outside/new", b"evil")]
    ],
    "an absolute path": lambda out: [[file(f"{out}/new", b"evil")]],
    "a whiteout through a link": lambda out: [[symlink("l", out)], [gone("l/kept")]],
    "an opaque link": lambda out: [[symlink("l", out)], [opaque("l")]],
    "modes through a link": lambda out: [
        [symlink("l", out), folder("l", 0), symlink("k", f"{out}/kept"), file("k", b"", 0)]
    ],
    "Apptainer's folder": lambda out: [[symlink(".singularity.d", out)]],
    "its folder of variables": lambda out: [[folder(".singularity.d"), symlink(".singularity.d/env", out)]],
    "its run script": lambda out: [
        [folder(".singularity.d"), symlink(".singularity.d/runscript", f"{out}/kept")]
    ],
    "its labels": lambda out: [
        [folder(".singularity.d"), symlink(".singularity.d/labels.json", f"{out}/kept")]
    ],
    "its links": lambda out: [
        [symlink(name, f"{out}/kept") for name in (".run", ".exec", "singularity", "environment")]
    ],
    "etc": lambda out: [[symlink("etc", out)]],
    "files in etc": lambda out: [
        [folder("etc"), symlink("etc/hosts", f"{out}/kept"), symlink("etc/resolv.conf", f"{out}/kept")]
    ],
    "var": lambda out: [[symlink("var", out)]],
    "folders of the system": lambda out: [
        [symlink(name, out) for name in ("tmp", "home", "root", "proc", "sys", "dev")]
    ],
    "mount points": lambda out: [
        [symlink("output", f"{out}/new"), symlink("working", out), symlink("temp", "../../outside/new")]
    ],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_this_machine_is_touched(bench: Bench, attack: str) -> None:
    outside = bench.space / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    before = outside.stat().st_mode, (outside / "kept").stat()
    bench.convert(bench.image(*ATTACKS[attack](str(outside)), Cmd=["touch", "/evil"]))
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "mine"
    assert (outside.stat().st_mode, (outside / "kept").stat().st_mtime_ns) == (
        before[0],
        before[1].st_mtime_ns,
    )
    if attack != "folders of the system":  # without which no container starts
        assert bench.read("/bin/cat") == bench.program


@pytest.mark.parametrize(
    "attack", ["Apptainer's folder", "its folder of variables", "its labels", "etc", "files in etc", "var"]
)
def test_a_folder_with_such_links_is_refused_before_apptainer_sees_it(tmp_path: Path, attack: str) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    for each in (outside, tree):
        each.mkdir()
    for entry in ATTACKS[attack](str(outside))[0]:
        (tree / entry.name).symlink_to(entry.target) if entry.target else (tree / entry.name).mkdir()
    with pytest.raises(InvalidError, match=f"leads out of it, to\n{re.escape(str(outside))}"):
        require_guarded(tree)


def test_what_apptainer_makes_itself_is_safe(bench: Bench) -> None:
    tree = bench.unpack(
        bench.image([folder("etc"), symlink("etc/mtab", "/proc/mounts"), symlink("home", "/tmp")])
    )
    require_guarded(tree)


@pytest.mark.parametrize("name", ["h", "etc/h"])
@pytest.mark.parametrize("target", ["{out}/kept", "../outside/kept", "l/kept", "nothing"])
def test_a_hard_link_out_of_the_image_is_refused(bench: Bench, name: str, target: str) -> None:
    outside = bench.space / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    link = hardlink(name, target.format(out=outside))
    with pytest.raises(InvalidError, match=f"unpack entry: {name}: link"):
        bench.unpack(bench.image([symlink("l", str(outside)), folder("etc"), link]))
    assert (outside / "kept").stat().st_nlink == 1


# ---------------------------------------------------------------- refused, or said


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([file("/".join(["d" * 200] * 30))], "file name too long"),
        ([file("proc")], "not a directory"),
        ([file("x" * 256)], "file name too long"),
    ],
)
def test_what_cannot_be_unpacked_is_refused_with_the_reason(
    bench: Bench, entries: list[Entry], reason: str
) -> None:
    with pytest.raises(InvalidError, match=reason):
        bench.unpack(bench.image(entries))


def test_programs_of_another_machine_are_said(bench: Bench) -> None:
    foreign = bytearray(bench.program)
    foreign[18:20] = (183 if os.uname().machine != "aarch64" else 62).to_bytes(2, "little")
    image = bench.image(
        [folder("usr"), folder("usr/bin"), file("usr/bin/python3", bytes(foreign), 0o755)], Cmd=["python3"]
    )
    found, _ = bench.convert(dataclasses.replace(image, architecture="amd64"))
    assert found.interpreter == "python3"
    assert codes(found)["architecture"] == "open"


# ---------------------------------------------------------------- identity, size


def test_the_same_image_has_the_same_fingerprint_however_it_comes(bench: Bench) -> None:
    layers = [
        folder("root", 0o700),
        file("root/a", b"a", 0o600),
        hardlink("b", "root/a"),
        symlink("c", "root"),
        file("ü\n", b""),
    ]
    image = bench.image(layers, Env=["A=1"], Cmd=["cat"])
    trees = [bench.unpack(image, "one"), bench.unpack(dataclasses.replace(image, compressed=False), "two")]
    archive = save_archive(image, bench.space / "image.tar")
    apptainer.unpack(bench.space / "three", f"docker-archive:{archive}", bench.space / "scratch")
    trees.append(bench.space / "three")
    for tree in trees:
        mend(tree, audit(tree, None))
    assert len({fingerprint(tree) for tree in trees}) == 1
    apptainer.build(bench.space / "image.sif", str(trees[0]), bench.space / "scratch")
    apptainer.unpack(bench.space / "four", str(bench.space / "image.sif"), bench.space / "scratch")
    assert fingerprint(bench.space / "four") == fingerprint(trees[0])


@pytest.mark.slow
def test_a_layer_of_three_gigabytes(bench: Bench) -> None:
    size = 3 * 2**30 + 1
    found, tree = bench.convert(bench.image([file("weights", zeros=size), file("after", b"after")]))
    assert (tree / "weights").stat().st_size == size
    assert found.bytes > size
    assert fingerprint(tree).startswith("sha256:")
    assert bench.read("/after") == b"after"
    shutil.rmtree(tree)


def test_the_guard_is_always_the_same() -> None:
    assert hashlib.sha256(guard_layer()).digest() == hashlib.sha256(guard_layer()).digest()
