"""hpc/install.sh and the image recipe: what they say, refuse and leave alone. No network is needed."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALL = ROOT / "hpc" / "install.sh"
BUILD_IMAGE = ROOT / "recipes" / "onnxruntime" / "build_image.sh"
BUILD_LEGACY = ROOT / "recipes" / "legacy" / "build_image.sh"
# What a set-up would change
TOUCHED = (
    "/usr/bin/apptainer",
    "/etc/apptainer",
    "/opt/modelhub-hpc/apptainer",
    "/dev/fuse",
    "/var/lib/dpkg/status",
)

Done = subprocess.CompletedProcess[str]


def run(*command: str | Path, path: Path | None = None) -> Done:
    """Runs a command without a terminal; path replaces PATH."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **({"PATH": str(path)} if path else {})}
    return subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env=environment,
    )


def fingerprints() -> dict[str, tuple[int, int] | None]:
    """Mode and time of change of everything that a set-up would touch."""
    found = {}
    for name in TOUCHED:
        state = os.stat(name) if os.path.exists(name) else None
        found[name] = (state.st_mode, state.st_ctime_ns) if state else None
    return found


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with every program of this host but apptainer: a host that lacks it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name != "apptainer":
            (folder / program.name).symlink_to(program)
    return folder


def is_debian_12() -> bool:
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    return "\nID=debian\n" in text and 'VERSION_ID="12"' in text


def can_become_root() -> bool:
    return os.geteuid() == 0 or shutil.which("sudo") is not None


debian_12 = pytest.mark.skipif(not is_debian_12(), reason="the script sets up Debian 12 only")


# ---- install.sh ---------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [INSTALL, BUILD_IMAGE, BUILD_LEGACY])
def test_script_is_executable_and_explains_itself(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and "exit codes:" in done.stdout


@pytest.mark.parametrize("script", [INSTALL, BUILD_IMAGE, BUILD_LEGACY])
def test_shellcheck_has_no_complaint(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = run("shellcheck", script)
    assert done.returncode == 0, done.stdout


def test_unknown_argument_is_wrong_use() -> None:
    done = run(INSTALL, "--chekc")
    assert done.returncode == 2 and "unknown argument '--chekc'" in done.stderr and "--help" in done.stderr


def test_check_reports_each_part_and_changes_nothing() -> None:
    before = fingerprints()
    done = run(INSTALL, "--check")
    lines = [line for line in done.stdout.splitlines() if line[0] in "✔✘"]
    assert len(lines) >= 8
    missing = any(line.startswith("✘") for line in lines)
    assert done.returncode == (5 if missing else 0), done.stdout + done.stderr
    assert fingerprints() == before


def test_where_all_is_there_nothing_is_done_at_once() -> None:
    if run(INSTALL, "--check").returncode != 0:
        pytest.skip("this host is not set up")
    before, start = fingerprints(), time.monotonic()
    done = run(INSTALL)
    assert time.monotonic() - start < 2
    assert done.returncode == 0 and done.stdout.endswith("nothing to do\n")
    assert fingerprints() == before


@debian_12
def test_check_finds_a_missing_apptainer(bare_path: Path) -> None:
    done = run(INSTALL, "--check", path=bare_path)
    assert done.returncode == 5
    assert "✘ Apptainer: no working 'apptainer' in PATH" in done.stdout
    assert f"run: {INSTALL}" in done.stderr


@debian_12
def test_without_agreement_it_names_everything_and_does_nothing(bare_path: Path) -> None:
    before = fingerprints()
    done = run(INSTALL, path=bare_path)
    assert done.returncode == 5
    for named in (
        "apptainer (sid)",
        "libc6 (trixie)",
        "libseccomp2 (trixie)",
        "libsqlite3-0 (trixie)",
        "/usr/bin/apptainer ",
        "/etc/apptainer/ ",
        "/opt/modelhub-hpc/apptainer/lib/ ",
        "/var/lib/apptainer/mnt/session",
    ):
        assert f"    {named}" in done.stdout, named
    assert f"run: {INSTALL} --yes" in done.stderr
    assert fingerprints() == before


@debian_12
@pytest.mark.skipif(not can_become_root(), reason="it asks only where it could get root")
def test_no_is_taken_for_an_answer(bare_path: Path) -> None:
    before = fingerprints()
    driver, terminal = pty.openpty()
    os.write(driver, b"n\n")
    done = subprocess.run(
        [str(INSTALL)],
        stdin=terminal,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "PATH": str(bare_path)},
    )
    os.close(driver)
    os.close(terminal)
    assert done.returncode == 5 and "nothing was changed" in done.stderr
    assert fingerprints() == before


OTHER_HOSTS = {
    "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04": "add-apt-repository -y ppa:apptainer/ppa",
    "ID=rocky\nID_LIKE='rhel centos fedora'\nVERSION_ID=9.4": "dnf install -y epel-release",
    "ID=debian\nVERSION_ID=13": "apt-get install -y apptainer",
    "ID=debian\nVERSION_ID=11": "upgrade to Debian 12 or later",
    "ID=opensuse-leap\nID_LIKE='suse opensuse'\nVERSION_ID=15.6": "zypper install -y apptainer",
    "ID=arch": "administrator guide",
}


@pytest.mark.parametrize("release", OTHER_HOSTS)
def test_other_hosts_are_told_the_right_command_and_left_alone(
    release: str, tmp_path: Path, bare_path: Path
) -> None:
    if run("unshare", "--user", "--map-root-user", "--mount", "true").returncode != 0:
        pytest.skip("no user namespaces here")
    (tmp_path / "os-release").write_text(release + "\nPRETTY_NAME='Another System'\n", encoding="utf-8")
    before = fingerprints()
    inside = 'mount --bind "$1" /etc/os-release && exec "$2" --yes'
    done = run(
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "bash",
        "-c",
        inside,
        "-",
        tmp_path / "os-release",
        INSTALL,
        path=bare_path,
    )
    assert done.returncode == 5, done.stdout + done.stderr
    assert "here is Another System" in done.stderr and OTHER_HOSTS[release] in done.stderr
    assert fingerprints() == before


# ---- the recipe ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no output file given"),
        (("--output", "x.tar"), "unknown option '--output'"),
        (("--mirror",), "--mirror needs a value"),
        (("a.tar", "b.tar"), "one output file is wanted, got 'a.tar' and 'b.tar'"),
        (("/no such folder/a.tar",), "no such folder: /no such folder"),
    ],
)
def test_recipe_refuses_wrong_use(arguments: tuple[str, ...], message: str) -> None:
    done = run(BUILD_IMAGE, *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_legacy_recipe_knows_two_pythons(tmp_path: Path) -> None:
    done = run(BUILD_LEGACY, "--python", "3.5", tmp_path / "a.tar")
    assert done.returncode == 2 and "no recipe for Python '3.5'" in done.stderr and "2.7 or 3.6" in done.stderr


def test_recipe_says_what_to_install(tmp_path: Path, bare_path: Path) -> None:
    (bare_path / "mmdebstrap").unlink(missing_ok=True)
    done = run(BUILD_IMAGE, tmp_path / "a.tar", path=bare_path)
    assert done.returncode == 5 and "mmdebstrap is not installed" in done.stderr
    assert "hpc/install.sh" in done.stderr
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.parametrize(
    ("script", "file", "count", "machines"),
    [
        (BUILD_IMAGE, "requirements.txt", 2, 2),  # x86_64 and aarch64
        (BUILD_LEGACY, "requirements-2.7.txt", 11, 1),
        (BUILD_LEGACY, "requirements-3.6.txt", 11, 1),
    ],
)
def test_recipe_pins_every_wheel_by_content(script: Path, file: str, count: int, machines: int) -> None:
    lines = (script.parent / file).read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith(("#", " "))]
    hashes = [line for line in lines if "--hash=sha256:" in line]
    assert len(pinned) == count and all("==" in line for line in pinned)
    assert len(hashes) == machines * len(pinned)
