"""docs/contribute.md, done: from an empty folder to a model that others run by its name; and new ones in Python 2.7."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from grounds import CACHE, REPO
from legacy_images import Store

from modelhub_hpc.contributing import phantoms, scaffold
from modelhub_hpc.images import Image

pytestmark = [pytest.mark.apptainer, pytest.mark.slow]

GUIDE = REPO / "docs/contribute.md"
HOST = "https://git.example.org/"  # where the guide's repositories are; here folders stand in for it
LIMIT_S = 300.0
NAME = "lung-nodules"


@dataclass(frozen=True)
class Ground:
    """A contributor's folder and tools; walked: how the guide's commands ended there, all of them in one shell."""

    folder: Path
    environment: dict[str, str]
    walked: subprocess.CompletedProcess[str]

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        return shell(script, self.folder, self.environment)


def shell(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-e", "-u", "-x", "-o", "pipefail", "-c", script]
    return subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )


def commands() -> str:
    """All that the guide tells to type."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    # where root lacks some of its rights, as in a container, Apptainer starts nothing as root
    userns = " --userns" if os.geteuid() == 0 else ""
    return "\n".join(blocks).replace("apptainer run", f"apptainer run{userns}")


@pytest.fixture(scope="module")
def ground(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A machine with mh-hpc on its PATH, the image in its store, and a host for git."""
    base = tmp_path_factory.mktemp("contributing")
    home, tools, host, folder = (base / name for name in ("home", "tools", "host", "work"))
    for each in (home, tools, host, folder):
        each.mkdir()
    (tools / "mh-hpc").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m modelhub_hpc.cli "$@"\n')
    (tools / "mh-hpc").chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[user]\n\tname = Jane Doe\n\temail = jane@example.org\n[url "file://{host}/"]\n\tinsteadOf = {HOST}\n'
    )
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": str(REPO),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MH_HPC_CACHE_DIR": str(base / "cache"),
        "MH_HPC_LIBRARY_DIRS": str(CACHE / "images"),
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
    }
    hosted = f"""
        git init --quiet --bare {host}/jane/lung-nodules.git
        git init --quiet --initial-branch main seed
        mkdir seed/models
        touch seed/models/.keep
        git -C seed add .
        git -C seed commit --quiet --message 'An empty registry'
        git clone --quiet --bare seed {host}/hub/registry.git
        rm -rf seed"""
    made = shell(hosted, folder, environment)
    assert made.returncode == 0, made.stderr
    return Ground(folder, environment, shell(commands(), folder, environment))


def test_every_command_of_the_guide_works(ground: Ground) -> None:
    assert ground.walked.returncode == 0, ground.walked.stderr[-3000:]
    typed = {line.split()[2] for line in ground.walked.stderr.splitlines() if line.startswith("+ mh-hpc ")}
    assert typed == {"init", "run", "validate", "test", "build", "publish", "registry", "pull", "submit", "results"}


def test_its_model_predicts_the_same_in_every_way(ground: Ground) -> None:
    """By mh-hpc run, in the deployment image, and by its name in a run; as its expected outputs say."""
    model = ground.folder / NAME
    (kept,) = (model / "contrib_src/sample_data/expected").glob("*.npy")
    expected = np.load(kept)
    assert expected.shape == (64, 64) and 0.1 < expected.mean() < 0.5
    for folder in ("first", "arrays"):
        assert np.array_equal(np.load(ground.folder / folder / "sample/nodules.npy"), expected)
    (row,) = csv.DictReader(io.StringIO(ground.walked.stdout[ground.walked.stdout.rindex("case_id,") :]))
    assert (row["case_id"], row["status"]) == ("sample", "done")
    file, _, place = row["nodules"].partition(":")
    with h5py.File(ground.folder / "run/shards" / file) as arrays:
        assert np.array_equal(arrays[place][()], expected)


def test_what_was_published_is_what_was_pulled(ground: Ground) -> None:
    entry = json.loads((ground.folder / f"registry/models/{NAME}.json").read_bytes())
    pulled = Path(ground.environment["MH_HPC_CACHE_DIR"]) / "models" / NAME / "0.1.0"
    assert json.loads((pulled / "entry.json").read_bytes()) == entry
    commit = ground.shell(f"git -C {NAME} rev-parse HEAD").stdout.strip()
    lock: dict[str, Any] = json.loads((pulled / "lock.json").read_bytes())
    assert entry["versions"][0]["source"]["commit"] == commit
    assert commit in json.dumps(lock)
    assert entry["description"] == "Marks what is bright in a CT slice."
    assert entry["resources"]["seconds_per_case"] > 0
    assert entry["reference"]["authors"] == ["Jane Doe"]
    offered = ground.shell(f"git -C registry show --stat --format=%s origin/{NAME}").stdout
    assert offered.startswith(f"{NAME} 0.1.0\n") and f"models/{NAME}.json" in offered


def test_the_check_for_continuous_integration_finds_what_is_wrong(ground: Ground) -> None:
    checked = ground.shell(f"git clone --quiet {NAME} checkout/{NAME}; MODEL_TOOLS=unneeded checkout/{NAME}/check.sh")
    assert checked.returncode == 0, checked.stderr
    change = "s/image > image.mean()/image > 30/"
    broken = ground.shell(f"cd checkout/{NAME}; sed -i '{change}' contrib_src/processing.py; ./check.sh")
    assert broken.returncode == 4
    assert "expected" in broken.stderr


def test_a_new_model_runs_in_an_image_of_2018(legacy_store: Store, tmp_path: Path) -> None:
    every = [f"--input=i{number}={mime}" for number, mime in enumerate(phantoms.TYPES)]
    every += [f"--output={kind}" for kind in scaffold.OUTPUT_TYPES]
    image = legacy_store.answer["image"]["name"]
    made = legacy_store.run("init", "old-model", "--dir", tmp_path, "--image", image, *every)
    assert made.returncode == 0, made.stderr
    sample = tmp_path / "old-model/contrib_src/sample_data/sample.json"
    done = legacy_store.run("run", tmp_path / "old-model", sample, "--json", "-o", tmp_path / "arrays")
    assert done.returncode == 0, done.stderr
    outputs = {each["name"]: each for each in json.loads(done.stdout)["output"]}
    assert list(outputs) == list(scaffold.OUTPUT_TYPES)
    mask = np.load(outputs["mask_image"]["file"])
    assert mask.shape == (16, 64, 64)
    assert outputs["label_list"]["prediction"][1]["probability"] == pytest.approx(mask.mean())
