"""What a model needs beyond what all models have, from its registry entry to its container."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounds import CACHE, REPO
from PIL import Image as Picture

from modelhub_hpc import contribution, images, needs, request, run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution, Needs
from modelhub_hpc.errors import InvalidError, UnfitError
from modelhub_hpc.predict import Predictor
from modelhub_hpc.run import Asked

WHY = "It downloads weights with its first prediction."
WRITES = """
import os
from modelhublib.model import ModelBase


class Model(ModelBase):
    def infer(self, input):
        for folder in ("/opt/made up/cache", "/var/model", "/temp/below", "/temp"):
            if folder == "/temp/below":
                os.mkdir(folder)
            with open(folder + "/file", "w") as stream:
                stream.write("x")
        return [1.0]
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A contribution as `mh-hpc pull` leaves one."""
    folder = tmp_path / "model"
    shutil.copytree(REPO / "tests/contributions/mean", folder)
    return folder


def entered(model: Path, gpu: bool = False, **quirks: Any) -> Contribution:
    """The contribution with an entry that says so."""
    entry = json.loads((REPO / "registry/models/digits-cnn.json").read_bytes())
    entry["quirks"].update(quirks)
    entry["gpu"].update(uses=gpu, required=gpu)
    entry["io"]["outputs"] = []
    (model / "entry.json").write_text(json.dumps(entry))
    return contribution.read(model)


def test_needs_are_read_from_the_entry(model: Path) -> None:
    assert contribution.read(model).needs == Needs()
    read = entered(model, gpu=True, writable=["/temp", "/root/.cache"], network=WHY)
    assert read.needs == Needs(("/temp", "/root/.cache"), WHY, True)


@pytest.mark.parametrize(
    "folder", ["/", "//x", "temp", "/temp/../etc", "/framework", "/contrib_src/model", "/proc/1", "/dev/", "/a\nb"]
)
def test_what_is_not_for_a_model_to_write_to(model: Path, folder: str) -> None:
    with pytest.raises(InvalidError, match="quirks.writable"):
        entered(model, writable=[folder])


def test_a_model_that_needs_the_network(model: Path) -> None:
    needy = entered(model, network=WHY)
    with pytest.raises(InvalidError) as refused:
        needs.check(needy, SiteConfig())
    assert WHY in str(refused.value) and "--allow-network" in str(refused.value)
    needs.check(needy, SiteConfig(allow_network=True))
    needs.check(needy, SiteConfig(runtime="host"))
    needs.check(entered(model), SiteConfig())


def test_a_model_that_needs_a_gpu(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needy = entered(model, gpu=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UnfitError, match="this machine shows none") as refused:
        needs.check(needy, SiteConfig())
    assert "--gres gpu:1" in str(refused.value) and "--gpu on" in str(refused.value)
    with pytest.raises(UnfitError, match="--gpu off hides them"):
        needs.check(needy, SiteConfig(gpu="off"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    needs.check(needy, SiteConfig())
    needs.check(needy, SiteConfig(executor="slurm", gres="gpu:1"))
    assert not caplog.records
    needs.check(needy, SiteConfig(executor="slurm"))
    assert "jobs ask for none" in caplog.text


def test_a_run_is_refused_before_its_first_case(model: Path, tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    entered(model, network=WHY)
    with pytest.raises(InvalidError, match="cannot predict without the network"):
        run.plan(Asked(str(model), (str(tmp_path / "a.png"),), SiteConfig(cache_dir=CACHE), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_run_json_holds_them_and_workers_give_the_folders(
    model: Path, tmp_path: Path, scratch: Path, image: images.Image
) -> None:
    (model / "contrib_src/inference.py").write_text(WRITES)
    (model / "init/init.json").write_text(json.dumps({"docker_id": image.name, "external_contrib_files": []}))
    # one within what every model may write to, and one within another
    entered(model, writable=["/opt/made up/cache", "/var/model", "/temp", "/temp/below", "/var/model/more"])
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    site = dataclasses.replace(SiteConfig(), cache_dir=CACHE, scratch_dir=scratch, executor="inline")
    planned = run.plan(Asked(str(model), (str(tmp_path / "a.png"),), site, tmp_path / "run"))
    begun = run.begin(planned)
    read = request.read(planned.paths)
    assert read == begun and read.model.needs.writable[0] == "/opt/made up/cache"
    predictor = Predictor(read, logs=None)
    results = [result for result, _ in predictor.predict(enumerate(planned.found.cases))]
    predictor.close()
    assert [result.error for result in results] == [None]
    assert results[0].outputs[0].prediction == [1.0] and not list(scratch.iterdir())
