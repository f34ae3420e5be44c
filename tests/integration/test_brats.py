"""Volumes in, masks out, and every voxel where it belongs: runs over phantoms, held against SimpleITK.

World coordinates are LPS, mm, as in DICOM and SimpleITK.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK
from driving import Site
from grounds import REPO

from modelhub_hpc.record import CaseResult, RunPaths, Volume, load_array, load_volume

CONTRIBUTIONS = REPO / "registry/contributions"
BRATS, LESION = CONTRIBUTIONS / "phantom-brats", CONTRIBUTIONS / "phantom-lesion"
PATIENTS, SLICES = 20, 9
SIZE = 24, 28, 20  # x, y, z
THRESHOLD = """
import SimpleITK
from modelhublib.imageloaders import SitkImageLoader
from modelhublib.model import ModelBase


class Model(ModelBase):
    def infer(self, input):
        return (SimpleITK.GetArrayFromImage(SitkImageLoader({}).load(input)) > 60).astype("uint8")
"""
NEAR_MM = 1.0  # voxels are 2 to 4 mm long
FAR_MM = 4.0

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Ran:
    """A run that has ended. truth: case -> the centre of its tumour, where there is one."""

    site: Site
    truth: dict[str, Floats]

    def input(self, case: str, contrast: str) -> SimpleITK.Image:
        return SimpleITK.ReadImage(str(self.site.inputs / case / f"{contrast}.nii.gz"))

    def outputs(self, name: str) -> Iterator[tuple[CaseResult, Volume]]:
        for result in self.site.results():
            (output,) = (each for each in result.outputs if each.name == name)
            yield result, load_volume(RunPaths(self.site.outdir), output)


def made(contribution: Path, folder: Path, count: int) -> None:
    script = [sys.executable, "-B", str(contribution / "make_samples.py"), str(folder), "--count", str(count)]
    subprocess.run(script, check=True, timeout=120)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per patient with four volumes: oblique, anisotropic, anywhere; every other one is mirrored."""
    folder = tmp_path_factory.mktemp("the patients")
    made(BRATS, folder, PATIENTS)
    return folder


def ran(folder: Path, patients: Path, runtime: str, model: Path) -> Ran:
    site = Site(folder, runtime, "inline", model)
    shutil.copytree(patients, site.inputs, dirs_exist_ok=True)
    done = site.submit()
    assert done.code == 0, done.text
    truth = json.loads((patients / "truth.json").read_bytes())
    return Ran(site, {case: np.array(centre) for case, centre in truth.items()})


@pytest.fixture(scope="module")
def brats(patients: Path, image: object, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The model as it ships, in its container: masks are z, y, x, and config.json says so."""
    return ran(tmp_path_factory.mktemp("brats"), patients, "apptainer", BRATS)


@pytest.fixture(scope="module")
def turned(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A model that gives the same masks as x, y, z, of which only the registry's entry beside it knows."""
    folder = tmp_path_factory.mktemp("turned")
    return ran(folder, patients, "host", as_published(folder / "model", "x,y,z"))


def as_published(folder: Path, axes: str) -> Path:
    """phantom-brats with its axes reversed, as a pulled model: no axes in config.json, and an entry.json."""
    shutil.copytree(BRATS, folder)
    code, config = folder / "contrib_src/inference.py", folder / "contrib_src/model/config.json"
    result = "return self._imageProcessor.computeOutput(results[0])"
    assert code.read_text().count(result) == 1
    code.write_text(code.read_text().replace(result, result + ".transpose()"))
    contents = json.loads(config.read_bytes())
    del contents["model"]["io"]["output"][0]["axes"]
    config.write_text(json.dumps(contents))
    known = json.loads((REPO / "registry/models/phantom-brats.json").read_bytes())
    known["io"]["outputs"][0]["axes"] = axes
    (folder / "entry.json").write_text(json.dumps(known))
    return folder


def as_image(volume: Volume) -> SimpleITK.Image:
    """What an export makes of a volume."""
    assert volume.geometry is not None
    image = SimpleITK.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction)
    return image


def centre_of(image: SimpleITK.Image) -> Floats:
    """The mean place of all voxels with a label, mm."""
    places = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)[:, ::-1]
    return np.array(image.TransformContinuousIndexToPhysicalPoint(places.mean(axis=0).tolist()))


def on_one_grid(one: SimpleITK.Image, other: SimpleITK.Image) -> bool:
    """Whether the same index is the same place in both; NIfTI keeps numbers in single precision."""
    corners = [[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    last = np.array(one.GetSize()) - 1
    places = [
        [image.TransformContinuousIndexToPhysicalPoint((last * corner).tolist()) for corner in corners]
        for image in (one, other)
    ]
    return one.GetSize() == other.GetSize() and np.allclose(*places, atol=1e-3)


@pytest.mark.parametrize("order", ["brats", "turned"])
def test_masks_lie_where_the_tumours_are(order: str, request: pytest.FixtureRequest) -> None:
    run: Ran = request.getfixturevalue(order)
    seen = {}
    for result, mask in run.outputs("segmentation"):
        image = as_image(mask)
        assert mask.voxels.dtype == np.uint8 and set(np.unique(mask.voxels)) == {0, 1, 2, 4}
        assert all(on_one_grid(image, run.input(result.case_id, name)) for name in ("t1", "flair"))
        seen[result.case_id] = float(np.linalg.norm(centre_of(image) - run.truth[result.case_id]))
    assert seen.keys() == run.truth.keys() and len(seen) == PATIENTS
    assert max(seen.values()) < NEAR_MM, seen


def test_the_patients_are_such_that_a_wrong_place_is_seen(turned: Ran) -> None:
    signs = set()
    for result, mask in turned.outputs("segmentation"):
        assert mask.geometry is not None
        spacing, direction = np.array(mask.geometry.spacing), np.reshape(mask.geometry.direction, (3, 3))
        signs.add(np.sign(np.round(np.linalg.det(direction), 3)))
        assert mask.geometry.size == SIZE and np.ptp(spacing) > 0.3 and np.abs(direction).max() < 0.999
        wrong = as_image(Volume(mask.voxels[::-1, ::-1, ::-1], mask.geometry))
        assert np.linalg.norm(centre_of(wrong) - turned.truth[result.case_id]) > FAR_MM
    assert signs == {-1, 1}


def test_both_orders_of_axes_give_the_same_volumes(brats: Ran, turned: Ran) -> None:
    for (result, one), (_, other) in zip(brats.outputs("segmentation"), turned.outputs("segmentation")):
        # another onnxruntime in the container may decide for another label where two are as probable
        assert np.mean(one.voxels != other.voxels) < 1e-3, result.case_id
        assert one.geometry == other.geometry
    stored = [load_array(RunPaths(run.site.outdir), run.site.results()[0].outputs[0]) for run in (brats, turned)]
    assert [array.shape for array in stored] == [SIZE[::-1], SIZE]


@pytest.mark.parametrize(("order", "axes"), [("brats", "z,y,x"), ("turned", "x,y,z")])
def test_the_run_folder_says_the_order_of_axes(order: str, axes: str, request: pytest.FixtureRequest) -> None:
    site: Site = request.getfixturevalue(order).site
    (output,) = json.loads((site.outdir / "run.json").read_bytes())["model"]["outputs"]
    assert output["axes"] == axes
    with h5py.File(next((site.outdir / "shards").glob("*.h5"))) as file:
        assert {case["segmentation"].attrs["axes"] for case in file.values()} == {axes}


# ---- DICOM --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slices(image: object, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A tilted CT series, slice by slice, in the container."""
    site = Site(tmp_path_factory.mktemp("slices"), "apptainer", "inline", LESION)
    made(LESION, site.inputs, SLICES)
    done = site.submit()
    assert done.code == 0, done.text
    return Ran(site, {})


def test_outputs_of_a_slice_lie_on_its_grid(slices: Ran) -> None:
    for name in ("mask", "probability"):
        found = list(slices.outputs(name))
        assert [result.case_id for result, _ in found] == [f"slice-{number:02d}" for number in range(SLICES)]
        for result, volume in found:
            assert volume.voxels.shape == (1, 60, 68)
            given = SimpleITK.ReadImage(str(slices.site.inputs / f"{result.case_id}.dcm"))
            assert on_one_grid(as_image(volume), given)
    for _, picture in slices.outputs("overlay"):
        assert picture.voxels.shape == (3, 1, 60, 68) and picture.voxels.dtype == np.uint8


def test_lesions_lie_where_the_model_saw_them_in_the_patient(slices: Ran) -> None:
    """Two ways to the same place: through SimpleITK in the model, and through the geometry in the run folder."""
    alone = 0
    for result, mask in slices.outputs("mask"):
        lesions = result.outputs[4].prediction["lesions"]  # type: ignore[index, call-overload]
        if len(lesions) == 1:
            assert np.allclose(centre_of(as_image(mask)), lesions[0]["centre_mm"], atol=1e-3)
            alone += 1
        assert (mask.voxels.sum() == 0) == (lesions == [])
    assert alone >= 2


def test_a_run_has_outputs_of_five_types(slices: Ran) -> None:
    result = slices.site.by_name()["slice-01"]
    assert [each.type for each in result.outputs] == ["mask_image", "heatmap", "contour", "image", "custom"]
    assert [each.dataset is not None for each in result.outputs] == [True, True, False, True, False]
    assert isinstance(result.outputs[2].prediction, list) and len(result.outputs[2].prediction) == 2


def whole_series(folder: Path) -> Path:
    """A model that takes a DICOM series as a volume, and marks what is dense."""
    shutil.copytree(LESION, folder)
    path = folder / "contrib_src/model/config.json"
    config = json.loads(path.read_bytes())
    config["model"]["io"]["input"]["single"]["dim_limits"] = [{"min": 1}] * 3
    config["model"]["io"]["output"] = [{"name": "dense", "type": "mask_image", "axes": "z,y,x"}]
    path.write_text(json.dumps(config))
    (folder / "contrib_src/inference.py").write_text(THRESHOLD)
    return folder


def test_the_mask_of_a_series_lies_on_the_stack_of_its_slices(tmp_path: Path) -> None:
    site = Site(tmp_path, "host", "inline", whole_series(tmp_path / "model"))
    made(LESION, site.inputs / "study", SLICES)
    for number, path in enumerate(sorted((site.inputs / "study").iterdir(), reverse=True)):
        path.rename(path.with_name(f"IM{number:04d}.dcm"))  # names that run against the stack
    done = site.submit()
    assert done.code == 0, done.text
    ((_, volume),) = Ran(site, {}).outputs("dense")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(site.inputs / "study")))
    given = reader.Execute()
    assert on_one_grid(as_image(volume), given)
    assert np.array_equal(volume.voxels, SimpleITK.GetArrayFromImage(given) > 60) and volume.voxels.any()
