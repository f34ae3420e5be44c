"""What keeps an image from running: found in trees made by hand, mended, and found no more."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from grown import OLD, PLAIN, PROGRAM, SCRIPT, by_code, env_script, grow

from modelhub_hpc.origin import ImageConfig
from modelhub_hpc.unpacked import environment
from modelhub_hpc.unpacked.audit import MOUNT_POINTS, Audit, audit
from modelhub_hpc.unpacked.fingerprint import fingerprint
from modelhub_hpc.unpacked.mend import mend
from modelhub_hpc.unpacked.tree import Tree


def mended(root: Path, config: ImageConfig = OLD) -> Audit:
    """The audit after mending; a second look finds nothing more to mend."""
    done = mend(root, audit(root, config))
    assert not [finding for finding in audit(root, config).findings if finding.state == "mended"]
    return done


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# ---------------------------------------------------------------- files


def test_what_only_root_may_read_becomes_readable_and_no_more(tmp_path: Path) -> None:
    tree = grow(
        tmp_path / "t",
        {"root/weights/a.h5": "a", "root/weights/b.h5": "b", "opt/run": PROGRAM, "opt/key": "k"},
    )
    for name, bits in {"root/weights/a.h5": 0o600, "opt/run": 0o700, "opt/key": 0o640, "root": 0o700}.items():
        (tree / name).chmod(bits)
    found = by_code(audit(tree, OLD))["unreadable"]
    assert (found.state, found.count) == ("mended", 6)  # /root, /root/weights and its two files; two in /opt
    assert found.examples == ("/root (0700): 4", "in /opt: 2")
    mended(tree)
    assert [mode(tree / name) for name in ("root", "root/weights/a.h5", "opt/run", "opt/key")] == [
        0o755,
        0o644,
        0o755,
        0o644,
    ]


def test_bits_that_change_the_user_go_and_others_stay(tmp_path: Path) -> None:
    tree = grow(tmp_path / "t", {"bin/su": PROGRAM, "bin/wall": PROGRAM, "tmp/": "", "srv/": ""})
    for name, bits in {"bin/su": 0o4755, "bin/wall": 0o2755, "tmp": 0o1777, "srv": 0o2775}.items():
        (tree / name).chmod(bits)
    found = by_code(audit(tree, OLD))["setuid"]
    assert (found.state, found.count, found.examples) == ("mended", 2, ("/bin/su", "/bin/wall"))
    mended(tree)
    assert [mode(tree / name) for name in ("bin/su", "bin/wall", "tmp", "srv")] == [
        0o755,
        0o755,
        0o1777,
        0o2775,
    ]


def test_nothing_outside_is_touched_or_read(tmp_path: Path) -> None:
    outside = grow(tmp_path / "outside", {"secret": "s", "bin/python": PROGRAM})
    outside.chmod(0o700)
    (outside / "secret").chmod(0o600)
    links = {"a": f"-> {outside}", "b": "-> ../outside/secret", "usr/bin/python": f"-> {outside}/bin/python"}
    tree = grow(tmp_path / "t", {**links, "output": f"-> {outside}/new"})
    assert mended(tree).interpreter == ""
    assert (mode(outside), mode(outside / "secret"), sorted(os.listdir(outside))) == (
        0o700,
        0o600,
        ["bin", "secret"],
    )


def test_links_that_climb_above_the_root_lead_where_they_led(tmp_path: Path) -> None:
    links = {
        "a": "-> ../../opt/x",
        "lib/b": "-> ../opt/x",
        "lib/c": "-> ../../opt/x",
        "d": "-> /../opt/x",
        "e": "-> lib/../..",
    }
    tree = grow(tmp_path / "t", {**links, "opt/x": "x"})
    assert by_code(audit(tree, OLD))["climbing-link"].count == 4
    mended(tree)
    kept = {"a": "/opt/x", "lib/b": "../opt/x", "lib/c": "/opt/x", "d": "/opt/x", "e": "/"}
    assert {name: os.readlink(tree / name) for name in kept} == kept


def test_pipes_links_to_elsewhere_and_folders_to_write_are_said(tmp_path: Path) -> None:
    links = {
        "a": "-> /home/jane/weights",
        "b": "-> /data/x",
        "here": "-> /opt/there",
        "etc/mtab": "-> /proc/mounts",
    }
    tree = grow(tmp_path / "t", {**links, "data/x": "x", "var/cache/model/": "", "tmp/": ""})
    os.mkfifo(tree / "pipe")
    (tree / "var/cache/model").chmod(0o777)
    (tree / "tmp").chmod(0o1777)
    found = by_code(mended(tree))
    for code, example in {"pipe": "/pipe", "foreign-link": "/a", "writable": "/var/cache/model"}.items():
        assert (found[code].state, found[code].examples) == ("harmless", (example,))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make device nodes")
def test_device_nodes_are_removed(tmp_path: Path) -> None:
    tree = grow(tmp_path / "t", {"dev/": ""})
    os.mknod(tree / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert by_code(mended(tree))["device"].examples == ("/dev/null",)
    assert os.listdir(tree / "dev") == []


def test_hostile_names_are_mended_and_shown_on_one_line(tmp_path: Path) -> None:
    names = ("new\nline", "-rf", "ü" * 127, os.fsdecode(b"bad\xff"), " ", "x" * 255)
    tree = grow(tmp_path / "t", {f"{name}/{name}": "x" for name in names})
    for name in names:
        (tree / name / name).chmod(0o600)
    found = by_code(audit(tree, OLD))["unreadable"]
    assert found.count == len(names)
    assert all(example.isprintable() for example in found.examples)
    mended(tree)
    assert {mode(tree / name / name) for name in names} == {0o644}


# ---------------------------------------------------------------- places


def test_missing_mount_points_and_the_working_folder_are_made(tmp_path: Path) -> None:
    tree = grow(tmp_path / "t", {"output": "-> /srv/results", "srv/": ""})
    umask = os.umask(0o077)
    try:
        found = by_code(mended(tree, ImageConfig(working_dir="/opt/deep/app")))
    finally:
        os.umask(umask)
    assert (found["mount-point"].state, found["mount-point"].count) == ("mended", 7)
    assert found["working-dir"].state == "mended"
    made = (*(path[1:] for path in MOUNT_POINTS if path != "/output"), "srv/results", "opt/deep/app", "opt")
    assert {mode(tree / name) for name in made} == {0o755}
    assert (tree / "output").is_symlink()


@pytest.mark.parametrize("thing", ["a file", "-> output", "-> /etc/passwd"])
def test_what_bars_a_mount_point_is_left_and_said(tmp_path: Path, thing: str) -> None:
    tree = grow(tmp_path / "t", {**PLAIN, "etc/passwd": "root"})
    (tree / "output").rmdir()
    grow(tree, {"output": thing})
    found = by_code(mended(tree))["mount-point"]
    assert (found.state, found.examples) == ("open", ("/output",))


@pytest.mark.parametrize("name", ["/opt/app/x", "/" + "x" * 256, "/a\0b", "/\ud800"])
def test_a_working_folder_that_cannot_be_is_said(tmp_path: Path, name: str) -> None:
    tree = grow(tmp_path / "t", {**PLAIN, "opt/app": "a file"})
    assert by_code(mended(tree, ImageConfig(working_dir=name)))["working-dir"].state == "open"


# ---------------------------------------------------------------- environment


BROKEN = {
    "LD_PRELOAD": "/opt/none.so /lib/there.so",
    "PYTHONHOME": "/opt/none",
    "TMPDIR": "/tmpx",
    "CUDA_VISIBLE_DEVICES": "-1",
}
KEPT = {"LD_AUDIT": "/lib/there.so", "TMP": "/tmp/x", "QUOTED": 'a"}"\n\xa0$`\\', "LANG": "C"}


def test_variables_that_break_programs_are_dropped_and_others_kept(tmp_path: Path) -> None:
    script = env_script({**BROKEN, **KEPT, "HOME": "/root"})
    tree = grow(tmp_path / "t", {**PLAIN, SCRIPT: script, "lib/there.so": ""})
    assert environment.variables(Tree(tree)) == {"PATH": "/opt/bin:/bin", **BROKEN, **KEPT, "HOME": "/root"}
    found = mend(tree, audit(tree, OLD)).findings
    told = [finding.message for finding in found if finding.code == "environment"]
    assert len(told) == len(BROKEN) and all(name in text for name, text in zip(BROKEN, told, strict=True))
    assert [finding.state for finding in found if finding.code == "home"] == ["harmless"]
    assert environment.variables(Tree(tree)) == {"PATH": "/opt/bin:/bin", **KEPT, "HOME": "/root"}
    assert set(env_script({"LANG": "C", "HOME": "/root"}).splitlines()) <= set(
        (tree / SCRIPT).read_text(encoding="utf-8").splitlines()
    )
    mended(tree)


def test_variables_that_apptainer_garbles_are_quoted_anew(tmp_path: Path) -> None:
    tree = grow(tmp_path / "t", {**PLAIN, SCRIPT: env_script(KEPT)})
    assert by_code(mended(tree))["quoting"].examples == ("QUOTED",)
    shell = '. "$1"; printf "%s|" "$QUOTED" "$LANG"'
    told = subprocess.run(
        ["sh", "-c", shell, "sh", tree / SCRIPT], env={"LANG": "host"}, stdout=subprocess.PIPE, check=True
    )
    assert told.stdout.decode() == f"{KEPT['QUOTED']}|host|"


# ---------------------------------------------------------------- the start command


@pytest.mark.parametrize(
    ("config", "code", "state"),
    [
        (ImageConfig(user="1000:1000"), "user", "harmless"),
        (ImageConfig(ports=("8080/tcp", "80/tcp")), "port", "harmless"),
        (ImageConfig(volumes=("/tmp/x", "/models")), "volume", "harmless"),
        (ImageConfig(), "no-command", "harmless"),
        (ImageConfig(cmd=("nothing-there",)), "program", "open"),
        (ImageConfig(entrypoint=("./start.sh",), working_dir="/app"), "program", "open"),
        (ImageConfig(entrypoint=("/plain.txt",)), "program", "open"),
        (ImageConfig(architecture="arm64"), "architecture", "open"),
    ],
)
def test_what_docker_would_have_done(tmp_path: Path, config: ImageConfig, code: str, state: str) -> None:
    tree = grow(tmp_path / "t", {**PLAIN, "app/start.sh": "#!/bin/bash\n", "plain.txt": "no program"})
    assert by_code(audit(tree, config))[code].state == state


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(user="root", ports=("8080/tcp", "80abc", "x"), volumes=("/tmp",), cmd=("run",)),
        ImageConfig(user="0:0", entrypoint=("/app/start.sh",), ports=("1024/tcp", "10240/tcp")),
        ImageConfig(user="", cmd=("/contrib_src/run.sh",)),
        ImageConfig(cmd=("./run.sh",), working_dir="/contrib_src", architecture="amd64"),
    ],
)
def test_an_image_in_order_has_nothing_but_no_python(tmp_path: Path, config: ImageConfig) -> None:
    things = {
        "app/start.sh": "#! /usr/bin/env -S sh -e\n",
        "bin/sh": PROGRAM,
        "bin/env": PROGRAM,
        "bin/run": PROGRAM,
    }
    tree = grow(tmp_path / "t", {**PLAIN, **things})
    found = set(by_code(audit(tree, config)))
    assert found - {"architecture", "port"} == {"no-python"}
    assert ("port" in found) == ("80abc" in config.ports)


# ---------------------------------------------------------------- paths in the image


def test_links_lead_to_places_in_the_image(tmp_path: Path) -> None:
    links = {
        "a": "-> /b/c",
        "b/c": "-> ../../../d",
        "round": "-> square",
        "square": "-> /round",
        "up": "-> ../../..",
    }
    tree = Tree(grow(tmp_path / "t", {**links, "d/file": "x"}))
    assert tree.resolve("/a/file") == "/d/file"
    assert tree.resolve("/a/../file") == "/file"  # the folder above /d, not above /a
    assert tree.resolve("../b/./c", "/none") == "/d"
    assert tree.resolve("/round") == ""
    assert tree.resolve("/up/d/file") == "/d/file"
    assert tree.text("/a/file") == "x"
    assert (tree.mode("/none"), tree.mode("/round"), tree.names("/none"), tree.text("/d")) == (0, 0, [], "")


# ---------------------------------------------------------------- fingerprint


def sample(root: Path) -> Path:
    return grow(root, {"bin/run": PROGRAM, "etc/a": "a", "etc/b": "b", "link": "-> etc/a", "empty/": ""})


def test_time_and_place_do_not_change_a_fingerprint(tmp_path: Path) -> None:
    one, two = sample(tmp_path / "one"), sample(tmp_path / "two")
    grow(
        two,
        {".singularity.d/labels.json": '{"build-date": "now"}', ".singularity.d/Singularity": "from: two"},
    )
    grow(one, {".singularity.d/": ""})
    os.utime(two / "etc/a", (1, 1))
    os.link(two / "etc/b", two / "etc/c")
    shutil.copy(one / "etc/b", one / "etc/c")
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one).startswith("sha256:")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: (t / "etc/a").write_text("A"),
        lambda t: (t / "etc/a").chmod(0o600),
        lambda t: (t / "etc/a").rename(t / "etc/a2"),
        lambda t: (t / "empty").rmdir(),
        lambda t: (t / "empty").chmod(0o700),
        lambda t: ((t / "link").unlink(), (t / "link").symlink_to("etc/b")),
        lambda t: ((t / "etc/a").write_text("b"), (t / "etc/b").write_text("a")),
        lambda t: (t / "bin/run").rename(t / "etc/run"),
    ],
)
def test_any_other_change_changes_it(tmp_path: Path, change: object) -> None:
    tree = sample(tmp_path / "t")
    before = fingerprint(tree)
    change(tree)  # type: ignore[operator]
    assert fingerprint(tree) != before
