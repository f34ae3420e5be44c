"""mh-hpc export: every format, read again by others, over inputs in every pose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import spacekit
from click.testing import CliRunner
from grounds import REPO
from PIL import Image
from runkit import Here
from spacekit import POSES, Array

from modelhub_hpc import export as exports
from modelhub_hpc.cli.commands import cli

THRESHOLD = REPO / "tests/contributions/threshold"
MASKS = "mask", "mask_xyz"


def labels(voxels: Array) -> Array:
    """What the model marks."""
    marked: Array = (voxels > 100).astype(int) + (voxels > 200)
    return marked


@dataclass(frozen=True)
class Study:
    """A run over all poses. truth: what each case's labels are, z, y, x, by the name of its files."""

    run: Path
    inputs: Path
    truth: Mapping[str, Array]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    inputs = folder / "scans"
    inputs.mkdir()
    truth = {}
    for number, (name, pose) in enumerate(POSES.items()):
        plain = name.replace(" ", "-")
        truth[f"nifti-{plain}"] = spacekit.nifti(inputs / f"nifti-{plain}.nii.gz", pose, number)
        uid = f"2.25.{80 + number}"
        truth[f"dicom-{plain}"] = spacekit.dicom(inputs / f"dicom-{plain}", pose, number, uid, number % 2 == 1)
    one = spacekit.dicom(folder / "slices", POSES["oblique"], 7, "2.25.95")
    shutil.copy(folder / "slices/95-0.dcm", inputs / "single.dcm")
    truth["single"] = one[:1]
    Image.fromarray(one[0].astype(np.uint8)).save(inputs / "picture.png")
    truth["picture"] = one[:1]
    dark = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))  # type: ignore[no-untyped-call]
    nibabel.save(dark, inputs / "dark.nii")
    truth["dark"] = np.zeros((6, 5, 4), int)
    for number in (1, 2):  # two series in one folder
        uid = f"2.25.9{number}"
        truth[f"mixed_{uid}.1"] = spacekit.dicom(inputs / "mixed", POSES["oblique"], 30 + number, uid)
    (inputs / "broken.nii.gz").write_bytes(b"\x1f\x8b nothing")
    run = folder / "run"
    submit = ["submit", "--model", THRESHOLD, "--inputs", inputs, "--outdir", run, "--scratch-dir", folder]
    ended = Here(folder)(*submit, "--runtime", "host", "--executor", "inline")
    assert ended.code == 3, ended.text
    return Study(run, inputs, {name: labels(voxels) for name, voxels in truth.items()})


def run_export(*words: object) -> tuple[int, Any]:
    """The exit code and the JSON of the command, in this process."""
    ended = CliRunner().invoke(cli, ["export", *map(str, words), "--json"], standalone_mode=False)
    if ended.exception is not None:
        raise ended.exception
    return ended.return_value, json.loads(ended.stdout)


@pytest.fixture(scope="module")
def exported(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("exported")
    code, told = run_export(study.run, "--to", folder, "--format", ",".join(exports.FORMATS))
    assert code == 0
    return folder, told


SERIES = [f"dicom-{name.replace(' ', '-')}" for name in POSES]
NIFTI = [f"nifti-{name.replace(' ', '-')}" for name in POSES]
DICOM = [*SERIES, "single", "mixed_2.25.91.1", "mixed_2.25.92.1"]


def files_of(study: Study, name: str) -> list[Path]:
    """The files that a case was made of; those of a series along its normal, as SimpleITK sorts them."""
    if name in ("single", *NIFTI):
        return [next(path for path in study.inputs.iterdir() if path.name.split(".")[0] == name)]
    folder, _, series = name.partition("_")
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(study.inputs / folder), series)
    return [Path(each) for each in names]


def sitk_input(study: Study, name: str) -> Any:
    """The input as SimpleITK reads it."""
    files = [str(path) for path in files_of(study, name)]
    return SimpleITK.ReadImage(files if len(files) > 1 else files[0])


@pytest.mark.parametrize("output", MASKS)
@pytest.mark.parametrize("name", [*NIFTI, *DICOM])
def test_masks_lie_where_the_input_lies(study: Study, exported: tuple[Path, Any], name: str, output: str) -> None:
    """SimpleITK resamples the mask to the grid of the input, and finds there what is bright in the input."""
    given = sitk_input(study, name)
    mask = SimpleITK.ReadImage(str(exported[0] / f"nifti/{output}/{name}.nii.gz"))
    on_input = SimpleITK.Resample(mask, given, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 99)
    seen = SimpleITK.GetArrayFromImage(given)
    assert np.array_equal(SimpleITK.GetArrayFromImage(on_input), labels(seen))
    assert np.array_equal(labels(seen), study.truth[name])
    assert mask.GetPixelID() == SimpleITK.sitkUInt8


@pytest.mark.parametrize("name", DICOM)
def test_masks_of_dicom_lie_where_the_standard_says(study: Study, exported: tuple[Path, Any], name: str) -> None:
    """nibabel's affine leads from the place of each pixel, reckoned by hand, to the voxel with its label."""
    mask = nibabel.load(exported[0] / f"nifti/mask_xyz/{name}.nii.gz")  # type: ignore[attr-defined]
    data, back = np.asarray(mask.dataobj), np.linalg.inv(mask.affine)
    seen = 0
    for file in files_of(study, name):
        image = pydicom.dcmread(file)
        places = spacekit.pixel_places(image) * (-1, -1, 1)
        indices = places @ back[:3, :3].T + back[:3, 3]
        nearest = np.rint(indices).astype(int)
        assert np.abs(indices - nearest).max() < 1e-3
        expected = labels(image.pixel_array.astype(int) + spacekit.INTERCEPT)
        assert np.array_equal(data[tuple(np.moveaxis(nearest, -1, 0))], expected)
        seen += expected.size
    assert seen == data.size


@pytest.mark.parametrize("name", NIFTI)
def test_nifti_in_nifti_out(study: Study, exported: tuple[Path, Any], name: str) -> None:
    given = nibabel.load(files_of(study, name)[0])  # type: ignore[attr-defined]
    mask = nibabel.load(exported[0] / f"nifti/mask/{name}.nii.gz")  # type: ignore[attr-defined]
    assert np.allclose(mask.affine, given.affine, atol=1e-4) and mask.get_data_dtype() == np.uint8
    assert np.allclose(mask.get_qform(), mask.get_sform(), atol=1e-4) and int(mask.header["sform_code"]) == 1
    assert np.array_equal(np.asarray(mask.dataobj), labels(np.asarray(given.dataobj)))
    shares = nibabel.load(exported[0] / f"nifti/shares/{name}.nii.gz")  # type: ignore[attr-defined]
    assert shares.shape == (*given.shape, 2) and shares.get_data_dtype() == np.float32
    assert np.allclose(np.asarray(shares.dataobj)[..., 1], np.asarray(given.dataobj) / 255, atol=1e-6)
    sidecar = json.loads((exported[0] / f"nifti/mask/{name}.json").read_text())
    assert sidecar["labels"] == {"0": "background", "1": "grey", "2": "white"} and sidecar["axes"] == "x,y,z"
