"""Machines where FUSE is closed to users: models run all the same, from an image that is unpacked at every start."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from driving import environment
from grounds import REPO
from test_disk_full import enter_flags

from modelhub_hpc import images

DIGITS = REPO / "registry/contributions/digits-cnn"
LIMIT_S = 120.0
HIDDEN = 'mount --bind /dev/null /dev/fuse && exec "$@"'


@pytest.mark.apptainer
def test_a_model_runs(image: images.Image) -> None:
    hide = ["unshare", *enter_flags(), "--mount", "sh", "-c", HIDDEN, "sh"]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets its users have no mount namespace")
    command = [*hide, sys.executable, "-m", "modelhub_hpc.cli"]

    def answer(*arguments: str) -> str:
        ran = subprocess.run(
            [*command, *arguments], env=environment(), capture_output=True, text=True, timeout=LIMIT_S
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    picture = DIGITS / "contrib_src/sample_data/digit-0898.png"
    found = json.loads(answer("run", "digits-cnn", str(picture), "--image", str(image.path), "--json"))
    assert found["status"] == "done"
    checks = {each["name"]: each for each in json.loads(answer("doctor", "--json"))["checks"]}
    assert checks["/dev/fuse"]["ok"] is None and "unpacked" in checks["/dev/fuse"]["detail"]
    assert checks["container starts"]["ok"]
