"""Axes of outputs: where they are declared, how they get into the record, and what they make of a stored array."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounds import OBEDIENT, REPO
from shardkit import PLAN, RUN, paths, result

from modelhub_hpc import contribution, request, run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.predict import Predictor
from modelhub_hpc.record import ArrayOutput, RunPaths, ShardWriter, load_volume, volume
from modelhub_hpc.runfolder import replace_json

__all__ = ["paths"]

PLACE: dict[str, Any] = {
    "size": (4, 3, 2),
    "spacing": (1.0, 2.0, 3.0),
    "origin": (-5.0, 6.0, 7.5),
    "direction": (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
}
ZYX = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def model(folder: Path, axes: object = None, entry: object = None) -> Path:
    """A contribution whose output declares axes, and the registry's entry beside it as a pulled model has it."""
    shutil.copytree(OBEDIENT, folder)
    config = json.loads((folder / "contrib_src/model/config.json").read_bytes())
    if axes is not None:
        config["model"]["io"]["output"][0]["axes"] = axes
    (folder / "contrib_src/model/config.json").write_text(json.dumps(config))
    if entry is not None:
        (folder / "entry.json").write_text(json.dumps(entry))
    return folder


def entry_of(name: str, axes: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads((REPO / "registry/models/phantom-brats.json").read_bytes())
    entry["io"]["outputs"][0].update(name=name, axes=axes)
    return entry


def test_axes_are_those_of_config_json_unless_the_entry_knows_better(tmp_path: Path) -> None:
    name = contribution.read(OBEDIENT).outputs[0].name

    def axes(number: int, *given: object) -> str:
        return contribution.read(model(tmp_path / str(number), *given)).outputs[0].axes

    assert axes(1) == ""
    assert axes(2, "z,y,x") == "z,y,x"
    assert axes(3, "z,y,x", entry_of(name, "x,y,z")) == "x,y,z"
    assert axes(4, "z,y,x", entry_of(name, None)) == "z,y,x"
    assert axes(5, None, entry_of(name, "c,z,y,x")) == "c,z,y,x"
    assert axes(6, "z,y,x", entry_of("another", "x,y,z")) == "z,y,x"


@pytest.mark.parametrize("axes", ["zyx,", "z, y, x", "x,y,x", "Z,Y,X", ["z", "y", "x"], "z\n"])
def test_axes_that_are_none_are_refused(axes: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidError):
        contribution.read(model(tmp_path / "model", axes))


@pytest.mark.parametrize("entry", [{"schema": 1}, {"io": {"outputs": ["mask"]}}, {"io": 1}, []])
def test_an_entry_of_another_form_is_refused(entry: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidError):
        contribution.read(model(tmp_path / "model", "z,y,x", entry))


def test_run_json_has_the_axes_and_older_ones_without_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    asked = run.Asked(str(model(tmp_path / "model", "x,y,z")), (str(tmp_path / "a.npy"),), SiteConfig(runtime="host"))
    made = run.plan(asked).run
    found = RunPaths(tmp_path)
    replace_json(found.run_json, made.to_json())
    assert request.read(found) == made and made.model.outputs[0].axes == "x,y,z"
    old = json.loads(found.run_json.read_bytes())
    for output in old["model"]["outputs"]:
        del output["axes"]
    replace_json(found.run_json, old)
    before = tuple(dataclasses.replace(each, axes="") for each in made.model.outputs)
    assert request.read(found).model.outputs == before


def test_a_stored_array_comes_back_as_a_volume(paths: RunPaths) -> None:
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        given = ArrayOutput(ZYX.transpose(2, 1, 0), "mask_image", "", {**PLACE, "axes": "x,y,z"})
        made = shard.add(result(0), {"mask": given})
        shard.publish()
    found = load_volume(paths, made.outputs[-1])
    assert np.array_equal(found.voxels, ZYX) and found.voxels.dtype == np.int16
    assert found.geometry is not None and dataclasses.asdict(found.geometry) == PLACE


@pytest.mark.parametrize(
    ("axes", "array"),
    [
        ("z,y,x", ZYX),
        ("x,y,z", ZYX.transpose(2, 1, 0)),
        ("y,z,x", ZYX.transpose(1, 0, 2)),
        ("c,z,y,x", ZYX[np.newaxis]),
        ("x,y,z,c", ZYX.transpose(2, 1, 0)[..., np.newaxis]),
    ],
)
def test_any_order_of_axes_becomes_z_y_x(axes: str, array: np.ndarray[Any, Any]) -> None:
    found = volume(array, {**PLACE, "axes": axes})
    assert np.array_equal(found.voxels.reshape(ZYX.shape), ZYX) and found.voxels.shape[-3:] == ZYX.shape
    assert found.voxels.base is not None, "a view, whatever the size"


def test_a_plane_is_one_voxel_deep_and_a_picture_has_no_geometry() -> None:
    plane = volume(ZYX[0], {**PLACE, "size": (4, 3, 1), "axes": "y,x"})
    assert plane.voxels.shape == (1, 3, 4) and plane.geometry is not None
    colours = volume(np.zeros((3, 4, 3)), {"axes": "y,x,c"})
    assert colours.voxels.shape == (3, 1, 3, 4) and colours.geometry is None


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, 'no "axes" are declared'),
        ({"axes": "n,c"}, "its axes are 'n,c'"),
        ({"axes": "y,x"}, "axes 'y,x' are declared, and the array has 3: 2 x 3 x 4"),
        ({"axes": "x,y,z"}, "the array is 2 x 3 x 4 voxels in x, y, z, the grid of the input 4 x 3 x 2"),
    ],
)
def test_an_array_of_unknown_place_is_refused(attributes: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        volume(ZYX, {**PLACE, **attributes})


def test_outputs_that_the_plan_does_not_know_are_kept_too() -> None:
    """As of a model whose config.json was changed after its run had been planned."""
    lesion = REPO / "registry/contributions/phantom-lesion"
    slice_ = str(lesion / "contrib_src/sample_data/slice-01.dcm")
    planned = run.plan(run.Asked(str(lesion), (slice_,), SiteConfig(runtime="host")))
    model = dataclasses.replace(planned.run.model, outputs=planned.run.model.outputs[:1])
    predictor = Predictor(dataclasses.replace(planned.run, model=model), None)
    try:
        ((found, arrays),) = predictor.predict(enumerate(planned.found.cases))
        axes = {name: output.attributes.get("axes") for name, output in arrays.items()}
    finally:
        predictor.close()
    assert found.status == "done" and axes == {"mask": "y,x", "probability": None, "overlay": None}


def test_names_of_axes_are_checked_wherever_they_come_from() -> None:
    assert OutputSpec("a", "image", "").axes == ""
    assert OutputSpec("a", "vector", "", "c").axes == "c"
    with pytest.raises(InvalidError, match="Output 'a': 'x,x' is no order of axes"):
        OutputSpec("a", "image", "", "x,x")
