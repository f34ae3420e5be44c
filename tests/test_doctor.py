"""What `mh-hpc doctor` finds on this machine, and on machines that lack something."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grounds import CACHE

from modelhub_hpc import cli, config, doctor, images
from modelhub_hpc.config import SiteConfig

REPO = Path(__file__).resolve().parent.parent
NAMES = [
    "Python",
    "Apptainer",
    "user namespaces",
    "/dev/fuse",
    "squashfuse",
    "fuse-overlayfs",
    "squashfs-tools",
    "subordinate ids",
    "container starts",
    "host runtime",
    "scratch folder",
    "image store",
    "GPU",
    "memory",
    "cores",
]


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return SiteConfig(runtime="host", cache_dir=tmp_path / "cache", scratch_dir=tmp_path)


def found(site: SiteConfig, image: str | None = None) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.checks(site, image)}


def test_every_check_is_made_and_those_that_fail_say_how_to_mend(site: SiteConfig) -> None:
    checks = found(site)
    assert list(checks)[: len(NAMES) + 1] == [*NAMES, "SLURM"]
    assert all(check.detail for check in checks.values())
    assert all(check.mend for check in checks.values() if check.ok is False)


def test_the_image_of_this_machine(image: images.Image, tmp_path: Path) -> None:
    checks = found(SiteConfig(cache_dir=tmp_path, scratch_dir=tmp_path), str(image.path))
    tried = [checks[name] for name in ("container starts", "network closed", "seccomp")]
    assert [(check.ok, check.detail) for check in tried] == [(True, image.path.name)] * 3


def test_without_apptainer_only_the_host_runtime_is_fit(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    contained = found(SiteConfig(cache_dir=site.cache_dir, scratch_dir=site.scratch_dir))
    assert (contained["Apptainer"].ok, found(site)["Apptainer"].ok) == (False, None)
    assert "hpc/install.sh" in contained["Apptainer"].mend
    assert contained["user namespaces"].ok is None


def test_without_apptainer_the_look_goes_on(site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/unshare").symlink_to(shutil.which("unshare") or "/nonexistent")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    checks = found(SiteConfig(cache_dir=site.cache_dir, scratch_dir=tmp_path))
    assert (list(checks), checks["user namespaces"].ok) == ([*NAMES, "SLURM"], None)


def test_an_old_apptainer_is_refused(
    tmp_path: Path, site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "apptainer"
    old.write_text("#!/bin/sh\necho apptainer version 1.0.3\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    check = found(SiteConfig(cache_dir=site.cache_dir, scratch_dir=tmp_path))["Apptainer"]
    assert (check.ok, check.mend) == (False, "update it to 1.1 or later")


def test_an_image_that_is_no_image_fails_to_start(site: SiteConfig, tmp_path: Path) -> None:
    if not shutil.which("apptainer"):
        pytest.skip("needs Apptainer")
    (tmp_path / "cache/images").mkdir(parents=True)
    (tmp_path / "cache/images/x.sif").write_bytes(b"not an image")
    checks = found(SiteConfig(cache_dir=site.cache_dir, scratch_dir=tmp_path))
    assert checks["container starts"].ok is False
    assert "exit code" in checks["container starts"].detail


def test_a_scratch_folder_that_is_not_there(tmp_path: Path) -> None:
    check = found(SiteConfig(runtime="host", scratch_dir=tmp_path / "absent"))["scratch folder"]
    assert (check.ok, "--scratch-dir" in check.mend) == (False, True)


def test_a_container_is_tried_all_the_same(image: images.Image, tmp_path: Path) -> None:
    site = SiteConfig(cache_dir=CACHE, scratch_dir=tmp_path / "absent")
    assert found(site)["scratch folder"].ok is False


def test_a_scratch_folder_that_is_small_and_mounted_noexec(tmp_path: Path) -> None:
    """On a real mount, in a mount namespace of its own."""
    inside = f"mount -t tmpfs -o noexec,size=1m none {tmp_path} && exec {sys.executable} -m modelhub_hpc.cli doctor "
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    done = subprocess.run(
        [*unshare, "sh", "-c", inside + f"--json --runtime host --scratch-dir {tmp_path}"],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 5, done.stderr
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "scratch folder"]
    assert (check["ok"], "mounted noexec" in check["detail"]) == (False, True)


def test_gpus_that_are_named_but_not_there(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert found(site)["GPU"].ok is False
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found(site)["GPU"].ok is None


def test_the_command_marks_each_check_and_its_exit_code_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_HPC_CACHE_DIR", str(tmp_path))
    fit: Any = ["doctor", "--runtime", "host", "--gpu", "off", "--scratch-dir"]
    assert cli.main([*fit, str(tmp_path)]) == 0
    words = capsys.readouterr().out
    assert "✔ Python: " in words and "– GPU: none" in words and "✘" not in words
    assert cli.main([*fit, str(tmp_path / "absent")]) == 5
    words = capsys.readouterr().out
    assert "✘ scratch folder: " in words and "    mend: choose a node-local folder" in words


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MH_HPC_CACHE_DIR", str(tmp_path))
    code = cli.main(["doctor", "--json", "--runtime", "host", "--scratch-dir", str(tmp_path)])
    answer = json.loads(capsys.readouterr().out)
    assert (code == 0) == answer["fit"]
    assert [check["name"] for check in answer["checks"]][: len(NAMES)] == NAMES
    assert set(answer["checks"][0]) == {"name", "ok", "detail", "mend"}


def test_default_folders_are_those_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert str(tmp_path) in found(SiteConfig(runtime="host"))["scratch folder"].detail
    assert config.scratch_dir(SiteConfig()) == tmp_path
