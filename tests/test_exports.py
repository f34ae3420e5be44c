"""mh-hpc export: every format, read again by others, over inputs in every pose."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import highdicom
import nibabel
import numpy as np
import pyarrow.parquet
import pydicom
import pytest
import SimpleITK
import spacekit
from click.testing import CliRunner
from grounds import REPO
from matplotlib.path import Path as Ring
from PIL import Image
from runkit import Here, eventually
from spacekit import POSES, Array

from modelhub_hpc import export as exports
from modelhub_hpc import owner
from modelhub_hpc.cli import export as command
from modelhub_hpc.cli.commands import cli
from modelhub_hpc.errors import InvalidError, TryAgainError, UnfitError, UsageError
from modelhub_hpc.export.contours import traced
from modelhub_hpc.export.items import LeftOut, whole
from modelhub_hpc.export.names import Names, distinct, plain_names
from modelhub_hpc.plan import Case
from modelhub_hpc.record import RunPaths, load_array
from modelhub_hpc.runs import reading

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
    for kind in ("mha", "nrrd"):
        image = SimpleITK.ReadImage(str(inputs / "nifti-left-handed-oblique.nii.gz"))
        SimpleITK.WriteImage(image, str(inputs / f"other-{kind}.{kind}"))
        truth[f"other-{kind}"] = SimpleITK.GetArrayFromImage(image)
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
OTHERS = ["other-mha", "other-nrrd"]
DICOM = [*SERIES, "single", "mixed_2.25.91.1", "mixed_2.25.92.1"]


def files_of(study: Study, name: str) -> list[Path]:
    """The files that a case was made of; those of a series along its normal, as SimpleITK sorts them."""
    if name in ("single", *NIFTI, *OTHERS):
        return [next(path for path in study.inputs.iterdir() if path.name.split(".")[0] == name)]
    folder, _, series = name.partition("_")
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(study.inputs / folder), series)
    return [Path(each) for each in names]


def sitk_input(study: Study, name: str) -> Any:
    """The input as SimpleITK reads it."""
    files = [str(path) for path in files_of(study, name)]
    return SimpleITK.ReadImage(files if len(files) > 1 else files[0])


@pytest.mark.parametrize("output", MASKS)
@pytest.mark.parametrize("name", [*NIFTI, *OTHERS, *DICOM])
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


# ---- DICOM segmentations ------------------------------------------------------------------------


def planes_of(segmentation: Any) -> Mapping[tuple[str, int], Array]:
    """The frames of a segmentation by (SOPInstanceUID of the image, number of the segment)."""
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    found = {}
    for frame, told in zip(frames, segmentation.PerFrameFunctionalGroupsSequence):
        source = told.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        found[source, told.SegmentIdentificationSequence[0].ReferencedSegmentNumber] = (frame, told)
    return found


@pytest.mark.parametrize("name", DICOM)
def test_segments_lie_on_the_images_that_they_were_made_from(
    study: Study, exported: tuple[Path, Any], name: str
) -> None:
    path = exported[0] / f"dicom-seg/mask_xyz/{name}.dcm"
    segmentation = pydicom.dcmread(path)
    described = [(each.SegmentNumber, each.SegmentLabel) for each in segmentation.SegmentSequence]
    assert described == [(1, "grey"), (2, "white"), (3, "never there")]
    planes, seen = planes_of(segmentation), 0
    for file in files_of(study, name):
        image = pydicom.dcmread(file)
        truth = labels(image.pixel_array.astype(int) + spacekit.INTERCEPT)
        assert segmentation.FrameOfReferenceUID == image.FrameOfReferenceUID
        assert segmentation.PatientName == image.PatientName
        for number in (1, 2):
            frame, told = planes[image.SOPInstanceUID, number]
            assert np.array_equal(frame, truth == number)
            assert told.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
            seen += 1
    assert seen == len(planes)
    instances = [pydicom.dcmread(file).SOPInstanceUID for file in files_of(study, name)]
    stack = highdicom.seg.segread(path).get_pixels_by_source_instance(instances, combine_segments=True)
    assert np.array_equal(stack, study.truth[name])


def test_segmentations_pass_dciodvfy(exported: tuple[Path, Any]) -> None:
    if not shutil.which("dciodvfy") and not os.environ.get("MH_TEST_REQUIRE_DCIODVFY"):
        pytest.skip("needs dciodvfy (Debian: apt-get install dicom3tools)")
    files = sorted((exported[0] / "dicom-seg").rglob("*.dcm"))
    assert len(files) == 3 * len(DICOM)
    for file in files:
        judged = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True)
        assert judged.returncode == 0 and "Error" not in judged.stderr, judged.stderr


# ---- polygons -----------------------------------------------------------------------------------


def filled(polygons: list[Any], key: str, places: Array) -> Array:
    """Which of the places x, y lie within an odd number of polygons."""
    inside = np.zeros(len(places), bool)
    for polygon in polygons:
        ring = np.asarray(polygon[key])[:, :2]
        inside ^= Ring(np.vstack([ring, ring[:1]])).contains_points(places)
    return inside


@pytest.mark.parametrize("name", ["dicom-oblique", "nifti-left-handed-oblique", "single", "picture"])
def test_polygons_enclose_the_marked_pixels(study: Study, exported: tuple[Path, Any], name: str) -> None:
    told = json.loads((exported[0] / f"contours/mask/{name}.json").read_text())
    truth = study.truth[name]
    rows, columns = np.mgrid[: truth.shape[1], : truth.shape[2]].reshape(2, -1)
    centres = np.column_stack([columns, rows])
    assert [(each["label"], each["name"]) for each in told["structures"]] == [(1, "grey"), (2, "white")]
    for structure in told["structures"]:
        for z, plane in enumerate(truth):
            polygons = [each for each in structure["polygons"] if each["slice"] == z]
            marked = filled(polygons, "pixels", centres).reshape(plane.shape)
            assert np.array_equal(marked, plane == structure["label"])
    holes = [polygon["hole"] for structure in told["structures"] for polygon in structure["polygons"]]
    assert (True in holes) == (len(truth) > 1), "around what is dark in the bright block"
    if name == "picture":
        assert "not known" in told["patient"] and "patient" not in told["structures"][0]["polygons"][0]


def test_polygons_lie_in_the_patient_on_the_slice_of_their_file(study: Study, exported: tuple[Path, Any]) -> None:
    told = json.loads((exported[0] / "contours/mask/dicom-left-handed-oblique.json").read_text())
    images = {}
    for file in files_of(study, "dicom-left-handed-oblique"):
        image = pydicom.dcmread(file)
        images[str(image.SOPInstanceUID)] = image
    assert told["dicom"]["FrameOfReferenceUID"] == image.FrameOfReferenceUID
    assert told["dicom"]["SeriesInstanceUID"] == image.SeriesInstanceUID
    seen = set()
    for polygon in told["structures"][0]["polygons"]:
        places = spacekit.pixel_places(images[polygon["sop_instance_uid"]])
        corner, right, down = places[0, 0], places[0, 1] - places[0, 0], places[1, 0] - places[0, 0]
        x, y = np.asarray(polygon["pixels"]).T[..., np.newaxis]
        assert np.abs(corner + x * right + y * down - polygon["patient"]).max() < 1e-3
        seen.add(polygon["sop_instance_uid"])
    assert len(seen) == len(images)


def test_a_ring_has_a_rim_and_a_hole() -> None:
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 1:8, 1:8] = 4
    mask[0, 3:6, 3:6] = 0
    mask[0, 4, 4] = 4
    found = traced(mask, 4)
    assert (found.counts, found.slices, found.holes) == ([28, 12, 4], [0, 0, 0], [False, True, False])
    rim = found.points[:28]
    assert rim[:, :2].min() == 0.5 and rim[:, :2].max() == 7.5 and set(rim[:, 2]) == {0}


# ---- pictures -----------------------------------------------------------------------------------


def test_the_labels_of_a_plane_are_the_pixels_of_a_picture(study: Study, exported: tuple[Path, Any]) -> None:
    with Image.open(exported[0] / "png/mask/labels/single.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), study.truth["single"][0])
    assert not (exported[0] / "png/mask/labels/nifti-oblique.png").exists()


def test_a_picture_shows_masks_in_colours_over_the_input(study: Study, exported: tuple[Path, Any]) -> None:
    truth = study.truth["picture"][0]
    with Image.open(study.inputs / "picture.png") as given:
        grey = np.asarray(given).astype(float)
    seen = np.asarray(Image.open(exported[0] / "png/mask/picture.png"))
    scale = 256 // max(truth.shape)
    assert seen.shape[1] == truth.shape[1] * scale and seen.shape[0] > truth.shape[0] * scale, "a legend below"
    pixels = seen[scale // 2 : truth.shape[0] * scale : scale, scale // 2 :: scale]
    orange, blue = (230, 159, 0), (86, 180, 233)
    for label, colour in ((0, None), (1, orange), (2, blue)):
        at = truth == label
        expected = np.stack([grey[at]] * 3, axis=-1) if colour is None else (grey[at][:, None] + colour) / 2
        assert np.abs(pixels[at] - expected).max() <= 1


# ---- tables, HDF5, JSON -------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_tables_are_tidy(study: Study, exported: tuple[Path, Any]) -> None:
    rows = rows_of(exported[0] / "values.csv")
    assert list(rows[0]) == ["case_id", "output", "label", "label_name", "quantity", "value", "unit", "text"]
    found = {(r["case_id"], r["output"], r["label_name"], r["unit"]): float(r["value"]) for r in rows}
    voxel_ml = float(np.prod(spacekit.SPACING)) / 1000
    for name in (*NIFTI, *SERIES):
        for label, word in ((1, "grey"), (2, "white"), (3, "never there")):
            count = int((study.truth[name] == label).sum())
            assert found[name, "mask xyz", word, "1"] == count
            assert found[name, "mask xyz", word, "mL"] == pytest.approx(count * voxel_ml, rel=1e-5)
    area = float((study.truth["single"] == 2).sum()) * spacekit.SPACING[0] * spacekit.SPACING[1]
    assert found["single", "mask", "white", "mm2"] == pytest.approx(area, rel=1e-5)
    assert ("picture", "mask", "white", "1") in found and ("picture", "mask", "white", "mm2") not in found
    cases = {row["case_id"]: row for row in rows_of(exported[0] / "cases.csv")}
    assert cases["broken"]["status"] == "failed" and cases["broken"]["error"] == "input"
    assert set(cases) == {*study.truth, "broken"} and cases["single"]["input"] == str(study.inputs / "single.dcm")


def test_tables_are_part_of_what_was_written(study: Study, tmp_path: Path) -> None:
    code, told = run_export(study.run, "--to", tmp_path / "to", "--format", "csv,parquet")
    sizes = [path.stat().st_size for kind in ("csv", "parquet") for path in (tmp_path / "to").glob(f"[cv]*.{kind}")]
    assert code == 0 and len(sizes) == 4 and told["bytes"] == sum(sizes)
    assert told["files"] == {kind: {"written": 2, "kept": 0} for kind in ("csv", "parquet")}


def exported_samples(name: str, folder: Path, formats: str) -> Path:
    """What is exported of a run of a shipped model over its own samples."""
    samples = REPO / f"registry/contributions/{name}/contrib_src/sample_data"
    submit = ["submit", "--model", name, "--inputs", samples, "--outdir", folder / "run", "--runtime", "host"]
    assert Here(folder)(*submit, "--executor", "inline").code == 0
    assert run_export(folder / "run", "--to", folder / "to", "--format", formats)[0] == 0
    return folder / "to"


def test_numbers_and_words_of_the_shipped_models(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    folder = exported_samples("digits-embedding", tmp_path / "vectors", "csv,json")
    one = json.loads(next((folder / "json").glob("*.json")).read_text())
    rows = [row for row in rows_of(folder / "values.csv") if row["case_id"] == one["case"]]
    result = next(each for each in reading.read(tmp_path / "vectors/run").results() if each.case_id == one["case"])
    (output,) = result.outputs
    vector = output.prediction if output.dataset is None else load_array(RunPaths(tmp_path / "vectors/run"), output)
    assert [float(row["value"]) for row in rows] == list(vector) and len(rows) == 64
    assert [row["label"] for row in rows] == [str(i) for i in range(64)]

    (tmp_path / "lesions").mkdir()
    folder = exported_samples("phantom-lesion", tmp_path / "lesions", "csv,contours,json,nifti,png,dicom-seg")
    told = {json.loads(path.read_text())["case"]: path for path in folder.glob("json/*.json")}
    rows = rows_of(folder / "values.csv")
    for case_id, path in told.items():
        outputs = {each["name"]: each.get("prediction") for each in json.loads(path.read_text())["outputs"]}
        found = {(r["output"], r["label"], r["quantity"]): r["value"] for r in rows if r["case_id"] == case_id}
        assert float(found["measurements", "area_mm2", "value"]) == outputs["measurements"]["area_mm2"]
        assert float(found["mask", "1", "area"]) == pytest.approx(outputs["measurements"]["area_mm2"], rel=1e-6)
        assert float(found["outline", "", "contours"]) == len(outputs["outline"])
        given = folder / f"contours/outline/{case_id}.json"
        assert given.exists() == bool(outputs["outline"])
        if outputs["outline"]:
            polygons = json.loads(given.read_text())["structures"][0]["polygons"]
            assert [each["pixels"] for each in polygons] == outputs["outline"]
            assert all(each["slice"] == 0 and each["sop_instance_uid"] for each in polygons)


@pytest.mark.parametrize("table", ["values", "cases"])
def test_parquet_holds_what_csv_holds(exported: tuple[Path, Any], table: str) -> None:
    written = pyarrow.parquet.read_table(exported[0] / f"{table}.parquet").to_pylist()
    rows = rows_of(exported[0] / f"{table}.csv")
    assert len(written) == len(rows) > 10
    for given, row in zip(written, rows):
        for name, value in given.items():
            assert float(row[name]) == value if isinstance(value, float) else row[name] == (value or "")


def test_arrays_are_in_hdf5_as_the_model_gave_them(study: Study, exported: tuple[Path, Any]) -> None:
    result = next(each for each in reading.read(study.run).results() if each.case_id == "nifti-oblique")
    with h5py.File(exported[0] / "h5/nifti-oblique.h5") as file:
        assert set(file["nifti-oblique"]) == {"mask", "mask xyz", "shares", "silent", "truth"}
        for output in result.outputs:
            given = load_array(RunPaths(study.run), output)
            stored = file[f"nifti-oblique/{output.name}"]
            assert np.array_equal(stored[()], given) and stored.dtype == given.dtype


def test_json_has_all_cases(study: Study, exported: tuple[Path, Any]) -> None:
    lines = [json.loads(line) for line in (exported[0] / "results.jsonl").read_text().splitlines()]
    assert {line["case"] for line in lines} == {*study.truth, "broken"}
    one = json.loads((exported[0] / "json/single.json").read_text())
    assert one in lines and [output["name"] for output in one["outputs"]][:2] == ["mask", "mask xyz"]
    broken = json.loads((exported[0] / "json/broken.json").read_text())
    assert broken["error"]["kind"] == "input"


# ---- what is left out ---------------------------------------------------------------------------


def test_what_has_no_file_is_listed_with_its_reason(study: Study, exported: tuple[Path, Any]) -> None:
    folder, told = exported
    assert told["cases"] == {"asked": len(study.truth) + 1, "done": len(study.truth), "failed": 1, "pending": 0}
    reasons = {(each["format"], each["output"], each["reason"]): each["cases"] for each in told["left_out"]}
    undeclared = 'the array is no volume: no "axes" are declared of the output in config.json'
    assert reasons["nifti", "silent", undeclared] == len(study.truth)
    assert reasons["dicom-seg", "mask", "the input is not DICOM"] == len(NIFTI) + 4
    assert any("picture" == row["case_id"] and row["format"] == "nifti" for row in rows_of(folder / "left_out.csv"))
    assert not (folder / "nifti/mask/picture.nii.gz").exists() and not (folder / "nifti/silent").exists()
    empty = {(each["format"], each["output"]): each for each in told["empty"]}
    assert empty["contours", "mask"]["cases"] == 1
    files = told["files"]
    assert files["nifti"]["written"] == 4 * (len(study.truth) - 1), "four outputs of all but the picture"
    assert {**json.loads((folder / "export.json").read_text())["summary"], "run": told["run"], "to": told["to"]} == told


def test_an_empty_mask_makes_no_segmentation(study: Study, tmp_path: Path) -> None:
    inputs = tmp_path / "scans"
    spacekit.dicom(inputs / "black", POSES["straight"])
    for file in (inputs / "black").iterdir():
        image = pydicom.dcmread(file)
        image.PixelData = bytes(len(image.PixelData))
        image.save_as(file)
    submit = ["submit", "--model", THRESHOLD, "--inputs", inputs, "--outdir", tmp_path / "run", "--runtime", "host"]
    assert Here(tmp_path)(*submit, "--executor", "inline").code == 0
    to = tmp_path / "to"
    code, told = run_export(tmp_path / "run", "--to", to, "--format", "dicom-seg", "--output", "mask")
    assert code == 0 and told["files"] == {} and told["empty"][0]["reason"].startswith("the mask is empty")
    assert not (to / "dicom-seg").exists()
    (inputs / "black/77-0.dcm").unlink()
    code, told = run_export(tmp_path / "run", "--to", tmp_path / "other", "--format", "dicom-seg,png,nifti")
    assert code == 4 and {each["reason"] for each in told["left_out"] if each["output"] == "mask"} == {
        "the input was changed after the run was planned"
    }
    assert told["files"] == {"nifti": {"written": 4, "kept": 0}}


def test_numbers_that_are_none_are_counted_and_kept(tmp_path: Path) -> None:
    inputs = tmp_path / "scans"
    inputs.mkdir()
    np.save(inputs / "odd.npy", np.array([[[[np.nan, 255.0, 51.0]]]], np.float32))
    submit = ["submit", "--model", THRESHOLD, "--inputs", inputs, "--outdir", tmp_path / "run", "--runtime", "host"]
    assert Here(tmp_path)(*submit, "--executor", "inline").code == 0
    _, told = run_export(tmp_path / "run", "--to", tmp_path / "to", "--format", "csv,parquet", "--output", "shares")
    rows = {row["quantity"]: row["value"] for row in rows_of(tmp_path / "to/values.csv")}
    assert rows == {"minimum": "0.0", "mean": "0.5", "maximum": "1.0", "not finite": "2.0"}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.0, 1.5], "not whole numbers"),
        ([0.0, np.nan], "not whole numbers"),
        ([0.0, np.inf], "beyond 32 bits"),
        ([2**40], "beyond 32 bits"),
        ([1j], "complex128 are no labels"),
        (["a"], "are no labels"),
    ],
)
def test_values_that_are_no_labels_are_refused(values: list[Any], reason: str) -> None:
    with pytest.raises(LeftOut, match=reason):
        whole(np.array(values))


def test_labels_are_as_small_as_they_can_be() -> None:
    kinds = [whole(np.array(values)).dtype for values in ([0.0, 255.0], [-1, 3], [0, 256], [70_000], [True])]
    assert kinds == [np.uint8, np.int16, np.int16, np.int32, np.uint8]


# ---- names --------------------------------------------------------------------------------------


def case(id: str, *paths: str) -> Case:
    return Case(id, tuple((f"k{i}" if len(paths) > 1 else "single", path) for i, path in enumerate(paths)), (), 0, 0)


def test_files_are_called_as_their_inputs_unless_that_is_not_clear() -> None:
    cases = [
        case("a_scan", "/x/a/scan.nii.gz"),
        case("b_scan", "/x/b/SCAN.nii"),
        case("c_one", "/x/c/one.two.dcm"),
        case("d_other", "/x/d/a_scan.nii.gz"),  # another's id
        case("e", "/x/e/..png"),
        case("f-1", "/x/f/-rf.png"),
        case("g-1", "/x/g/a\nb.png"),
        case("h-1", "/x/h/\udcff.png"),
        case("many", "/x/p/t1.nii.gz", "/x/p/t2.nii.gz"),
        case("folder", "/x/series.1"),
        case("long", f"/x/{'y' * 200}.png"),
    ]
    names = Names(cases, plain_names)
    found = [names.of(each) for each in cases]
    assert found == ["a_scan", "b_scan", "one.two", "d_other", "e", "f-1", "g-1", "h-1", "many", "series.1", "long"]


def test_outputs_are_told_apart() -> None:
    assert distinct(["mask", "MASK", "a/b", "../b", "", "mask"]) == ("mask", "MASK-2", "a_b", "_._b", "_", "mask-3")


def test_hostile_names_stay_in_the_folder(tmp_path: Path) -> None:
    inputs = tmp_path / "in puts"
    names = ["-rf", "a\nb", "\udcff\udcfe", "$(touch x)", "scan", "uml\u00e4ut"]
    for number, name in enumerate(names):
        folder = inputs / f"{number}"
        folder.mkdir(parents=True)
        spacekit.nifti(folder / "s.nii.gz", POSES["straight"], number)
        (folder / "s.nii.gz").rename(folder / os.fsdecode(os.fsencode(f"{name}.nii.gz")))
    submit = ["submit", "--model", THRESHOLD, "--inputs", inputs, "--outdir", tmp_path / "run", "--runtime", "host"]
    assert Here(tmp_path)(*submit, "--executor", "inline").code == 0
    before = {path for path in tmp_path.rglob("*") if "to" not in path.parts}
    formats = ["--format", "nifti,png,contours,csv,parquet,json,h5"]
    code, told = run_export(tmp_path / "run", "--to", tmp_path / "to", *formats)
    assert code == 0 and told["files"]["nifti"]["written"] == 4 * len(names)
    assert {path for path in tmp_path.rglob("*") if "to" not in path.parts} == before
    made = [path.name for path in (tmp_path / "to/nifti/mask").glob("*.nii.gz")]
    assert "scan.nii.gz" in made and len(made) == len(names) and all(name.isascii() for name in made)
    sidecar = json.loads(next((tmp_path / "to/nifti/mask").glob("1_a_b-*.json")).read_text())
    assert sidecar["input"] == str(inputs / "1/a\nb.nii.gz")


# ---- BIDS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bids")
    raw = folder / "raw"
    names = ["sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w", "sub-02/ses-1/anat/sub-02_ses-1_acq-high_T1w"]
    names += ["sub-03/func/sub-03_task-rest_run-1_bold", "odd place/x y"]
    for number, name in enumerate(names):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        spacekit.nifti(raw / f"{name}.nii.gz", POSES["oblique"], number)
    submit = ["submit", "--model", THRESHOLD, "--inputs", raw, "--outdir", folder / "run", "--runtime", "host"]
    assert Here(folder)(*submit, "--executor", "inline").code == 0
    formats = ["--format", "nifti,csv,png,json"]
    code, told = run_export(folder / "run", "--to", folder / "made", "--layout", "bids", *formats)
    assert code == 0 and told["files"]["nifti"]["written"] == 4 * len(names)
    return folder / "made"


def test_derivatives_of_bids(derivatives: Path) -> None:
    for place in (
        "sub-01/anat/sub-01_desc-maskT1w_dseg.nii.gz",
        "sub-01/anat/sub-01_desc-maskT2w_dseg.json",
        "sub-02/ses-1/anat/sub-02_ses-1_acq-high_desc-mask_dseg.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_acq-high_desc-shares_probseg.nii.gz",
        "sub-03/func/sub-03_task-rest_run-1_desc-maskxyz_dseg.nii.gz",
        "desc-mask_dseg.tsv",
        "png/mask/sub-01_T1w.png",
    ):
        assert (derivatives / place).exists(), place
    sidecar = json.loads((derivatives / "sub-01/anat/sub-01_desc-maskT2w_dseg.json").read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-01/anat/sub-01_T2w.nii.gz"]
    described = json.loads((derivatives / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["DatasetLinks"] == {"raw": f"file://{derivatives.parent}/raw"}
    assert [each["Name"] for each in described["GeneratedBy"]] == ["modelhub-hpc", "threshold"]
    table = (derivatives / "desc-mask_dseg.tsv").read_text().splitlines()
    assert table[:3] == ["index\tname\tcolor", "0\tbackground\t#000000", "1\tgrey\t#e69f00"]


def test_derivatives_pass_the_validator_of_bids(derivatives: Path, tmp_path: Path) -> None:
    pytest.importorskip("bids_validator_deno", reason="needs bids-validator-deno, which there is for x86_64")
    validator = Path(sys.executable).parent / "bids-validator-deno"
    quiet = {**os.environ, "HOME": str(tmp_path), "NO_COLOR": "1"}
    command = [validator, derivatives, "--ignoreWarnings", "--format", "json"]
    judged = subprocess.run(command, capture_output=True, text=True, env=quiet)
    assert judged.returncode == 0 and json.loads(judged.stdout)["issues"]["issues"] == [], judged.stdout


# ---- the command --------------------------------------------------------------------------------


def test_the_command_knows_the_formats_and_layouts() -> None:
    assert set(command.FORMATS) == set(exports.FORMATS) and set(command.LAYOUTS) == set(exports.LAYOUTS)


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_some_cases_and_outputs_then_the_others(study: Study, tmp_path: Path) -> None:
    some = ["--case", "single", "--case", "nifti-flipped", "--output", "mask"]
    code, told = run_export(study.run, "--to", tmp_path, "--format", "nifti", "--format", "csv", *some)
    assert code == 0 and told["files"]["nifti"] == {"written": 2, "kept": 0}
    assert {(row["case_id"], row["output"]) for row in rows_of(tmp_path / "values.csv")} == {
        ("single", "mask"),
        ("nifti-flipped", "mask"),
    }
    before = stamps(tmp_path / "nifti")
    code, told = run_export(study.run, "--to", tmp_path, "--format", "nifti")
    assert told["files"]["nifti"] == {"written": 4 * (len(study.truth) - 1) - 2, "kept": 2}
    assert before.items() <= stamps(tmp_path / "nifti").items()
    code, told = run_export(study.run, "--to", tmp_path, "--format", "nifti", *some, "--force")
    assert told["files"]["nifti"] == {"written": 2, "kept": 0}
    assert stamps(tmp_path / "nifti")["mask/single.nii.gz"] > before["mask/single.nii.gz"]


def test_a_file_older_than_its_result_is_made_anew(study: Study, tmp_path: Path) -> None:
    run_export(study.run, "--to", tmp_path, "--format", "nifti", "--case", "single")
    os.utime(tmp_path / "nifti/mask/single.nii.gz", (1e9, 1e9))
    _, told = run_export(study.run, "--to", tmp_path, "--format", "nifti", "--case", "single")
    assert told["files"]["nifti"] == {"written": 1, "kept": 3}


def test_an_export_that_was_killed_goes_on(study: Study, tmp_path: Path) -> None:
    words = ["export", study.run, "--to", tmp_path / "to", "--format", "nifti,png,csv"]
    first = Here(tmp_path).start(*words)
    assert eventually(lambda: len(list((tmp_path / "to").glob("png/*/*.png"))) >= 2, 30)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    (tmp_path / "to/nifti/mask/.x.nii.gz.0123.part").write_bytes(b"half")
    before = {name: at for name, at in stamps(tmp_path / "to").items() if name.startswith(("nifti", "png"))}
    second = Here(tmp_path).json(*words)
    files = [name for name in before if not name.endswith((".part", ".json")) and "/labels/" not in name]
    assert sum(each["kept"] for each in second["files"].values()) == len(files) >= 2
    after = stamps(tmp_path / "to")
    assert all(after[name] == before[name] for name in files)
    assert not [name for name in after if name.endswith(".part")]
    nibabel.load(tmp_path / "to/nifti/mask/single.nii.gz")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "room"), [("h5", "64k"), ("nifti", "64k"), ("parquet", "24k")])
def test_a_full_disk_is_said_and_leaves_no_half_file(
    study: Study, tmp_path: Path, kind: str, room: str
) -> None:
    """On a real mount, in a mount namespace of its own."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    export = f'{sys.executable} -m modelhub_hpc.cli -q export "$1" --to "$0/to" --format {kind}'
    script = f'mount -t tmpfs -o size={room} none "$0"; {export}; code=$?; find "$0/to" -name "*.part"; exit $code'
    ended = subprocess.run(
        [*unshare, "sh", "-c", script, str(tmp_path), str(study.run)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert ended.returncode == 75 and "No space left on device" in ended.stderr, ended.stderr
    assert "run the same command again" in ended.stderr and not ended.stdout


def test_folders_that_are_anothers_are_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a file is in the way"):
        run_export(study.run, "--to", tmp_path / "file/to", "--format", "csv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.doc").write_text("precious")
    with pytest.raises(UsageError, match="not empty and not an export"):
        run_export(study.run, "--to", tmp_path / "full", "--format", "csv")
    run_export(study.run, "--to", tmp_path / "to", "--format", "csv")
    with pytest.raises(UsageError, match="layout plain"):
        run_export(study.run, "--to", tmp_path / "to", "--format", "csv", "--layout", "bids")
    state = json.loads((tmp_path / "to/export.json").read_text())
    (tmp_path / "to/export.json").write_text(json.dumps({**state, "run_id": "another"}))
    with pytest.raises(UsageError, match="export of run another"):
        run_export(study.run, "--to", tmp_path / "to", "--format", "csv")
    (tmp_path / "to/export.json").write_text(json.dumps(state))
    mine = owner.acquire(tmp_path / "to/.mh-hpc", "A test")
    with pytest.raises(TryAgainError, match="is driven by"):
        run_export(study.run, "--to", tmp_path / "to", "--format", "csv")
    mine.release()
    assert run_export(study.run, "--to", tmp_path / "to", "--format", "csv")[0] == 0


@pytest.mark.parametrize(
    ("kind", "package"), [("dicom-seg", "highdicom"), ("contours", "contourpy"), ("parquet", "pyarrow")]
)
def test_a_package_that_is_not_installed_is_named(
    study: Study, tmp_path: Path, kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnfitError, match=rf"needs {package}.*\n *pip install 'modelhub-hpc\[results\]'"):
        run_export(study.run, "--to", tmp_path / "to", "--format", kind, "--case", "single", "--output", "mask")


@pytest.mark.parametrize(
    ("words", "error", "reason"),
    [
        (["--format", "tiff"], UsageError, "there is no such format. There are nifti"),
        (["--format", "csv", "--case", "nobody"], UsageError, "no case nobody"),
        (["--format", "csv", "--output", "nothing"], UsageError, "no output nothing. It has: mask, mask xyz"),
        (["--format", "contours", "--output", "shares"], InvalidError, "nothing for contours: it is for contour, mask"),
    ],
)
def test_what_there_is_not_is_said(study: Study, tmp_path: Path, words: list[str], error: type, reason: str) -> None:
    with pytest.raises(error, match=reason):
        run_export(study.run, "--to", tmp_path / "to", *words)
