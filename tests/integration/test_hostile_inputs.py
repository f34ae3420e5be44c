"""Inputs as studies and attackers bring them, through the whole product: a clear failure, or the right number."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import hostile
import SimpleITK
from driving import Ended, Site, finish
from grounds import REPO
from PIL import Image

from modelhub_hpc.errors import shown
from modelhub_hpc.record import CaseResult

MEAN = REPO / "tests/contributions/mean"
PICTURES = (".png", ".jpg", ".bmp", ".gif", ".tif", ".webp", "")
# Sound files that the run still has to refuse, and with which words.
REFUSED = {
    "nii_nan": ("input", "not finite"),
    "dicom_two_series": ("model", "2 DICOM series"),
    "nii2_ok": ("model", "Was not able to load"),  # sound, but ITK reads NIfTI-1 only
}


class World:
    """One run over all hostile inputs."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.site = Site(folder, runtime, "inline", MEAN)
        self.made = hostile.make_all(self.site.inputs / "files")
        table = self.site.inputs / "table.csv"
        with open(table, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            rows = csv.writer(stream)
            rows.writerow(("case_id", "input"))
            rows.writerows((name, each.path) for name, each in self.made.items())
        self.site.inputs = table
        self.ended: Ended = self.site.submit("--case-timeout", "60", limit_s=300)
        self.results: dict[str, CaseResult] = self.site.by_name() if self.ended.code == 3 else {}


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    """The run of each runtime, made once."""
    return {}


@pytest.fixture
def world(runtime: str, worlds: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> World:
    if runtime not in worlds:
        worlds[runtime] = World(tmp_path_factory.mktemp(f"hostile-{runtime}"), runtime)
    return worlds[runtime]


def test_no_input_stops_the_run(world: World) -> None:
    assert world.ended.code == 3, world.ended.text
    assert world.results.keys() == world.made.keys()


def test_no_input_ends_a_session(world: World) -> None:
    """A model process was started once: whatever could crash or hang a reader never reached it."""
    crashed = {name: r.error for name, r in world.results.items() if r.error and r.error.kind not in ("input", "model")}
    assert crashed == {}
    assert {r.attempts for r in world.results.values()} <= {0, 1}
    assert len(list((world.site.outdir / "logs").iterdir())) == 1


@pytest.mark.parametrize("name", hostile.MAKERS)
def test_each_input_fails_clearly_or_gives_the_right_number(world: World, name: str) -> None:
    expected, result = world.made[name], world.results[name]
    if expected.ok and name not in REFUSED:
        assert result.error is None, result.error
        assert result.outputs[0].prediction == pytest.approx([reference(expected.path)], rel=1e-4)
        return
    kind, words = REFUSED.get(name) or ("input", f"{expected.kind}: ")
    assert result.error is not None, result.outputs
    assert result.error.kind == kind and words in result.error.message
    # what is wrong with a pair of files may be said of the one that the other names
    named = os.path.dirname(expected.path) if expected.path.endswith(".hdr") else expected.path
    assert shown(named) in result.error.message or named in result.error.message


def reference(path: str) -> float:
    """The mean as the reader of the format's own community sees it."""
    if os.path.isdir(path):
        return float(np.mean([pydicom.dcmread(each.path, force=True).pixel_array for each in os.scandir(path)]))
    suffix = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    return float(np.mean(_read(path, suffix), dtype=np.float64))


def _read(path: str, suffix: str) -> Any:
    if suffix == ".dcm" or os.path.basename(path).startswith("IM"):
        return pydicom.dcmread(path, force=True).pixel_array
    if suffix in PICTURES:
        with open(path, "rb") as stream:
            return np.asarray(Image.open(stream))
    if suffix in (".nii", ".hdr"):
        image: Any = nibabel.load(path)
        return image.get_fdata()
    if suffix == ".npy":
        return np.load(path)
    if suffix == ".npz":
        with np.load(path) as arrays:
            return arrays[arrays.files[0]]
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


def test_a_folder_of_hostile_names_is_searched_and_read(runtime: str, tmp_path: Path) -> None:
    site = Site(tmp_path, runtime, "inline", MEAN)
    names = [name for name in hostile.MAKERS if name.startswith("name_")]
    made = [hostile.make(name, site.inputs) for name in names]
    ended = site.submit()
    assert ended.code == 0, ended.text
    right = pytest.approx([reference(made[0].path)])
    assert all(r.outputs[0].prediction == right for r in site.results())
    assert len({r.case_id for r in site.results()}) == len(names)


def test_two_series_in_one_folder_are_two_cases(runtime: str, tmp_path: Path) -> None:
    site = Site(tmp_path, runtime, "inline", MEAN)
    folder = site.inputs / "both"
    hostile.dicom_series(str(folder), "1.2.3", 5)
    hostile.dicom_series(str(folder), "1.2.4", 3)
    ended = site.submit()
    assert ended.code == 0, ended.text
    means = sorted(r.outputs[0].prediction[0] for r in site.results())
    assert means == pytest.approx(sorted(series_mean(folder, each) for each in ("1.2.3", "1.2.4")))
    assert means[0] != means[1]


def test_a_series_is_found_among_other_files(runtime: str, tmp_path: Path) -> None:
    site = Site(tmp_path, runtime, "inline", MEAN)
    folder = site.inputs / "scan"
    hostile.dicom_series(str(folder), "1.2.3", 4)
    hostile.make("dicom_sr", folder)
    (folder / "notes.txt").write_text("motion in the last slices")
    ended = site.submit()
    assert ended.code == 0, ended.text
    (result,) = site.results()
    assert result.outputs[0].prediction == pytest.approx([series_mean(folder, "1.2.3")])


def series_mean(folder: Path, series: str) -> float:
    return float(np.mean([pydicom.dcmread(path).pixel_array for path in folder.glob(f"{series}-*.dcm")]))


def test_files_that_go_or_change_while_the_run_lasts(runtime: str, tmp_path: Path) -> None:
    site = Site(tmp_path, runtime, "inline")
    for name, order in {"a": "OK 0", "b": "SLEEP 5 1", "c": "OK 2", "d": "OK 3", "e": "OK 4", "f": "OK 5"}.items():
        site.order(name, order)
    driver = site.started("--chunk-size", "10")
    time.sleep(1.0)  # b is being computed now, c is sent ahead
    site.order("b", "OK 9")
    (site.inputs / "d.npy").unlink()
    site.order("e", "OK 777777")
    ended = finish(driver)
    assert ended.code == 3, ended.text
    results = site.by_name()
    said = {name: r.error.message for name, r in results.items() if r.error is not None}
    assert sorted(said) == ["b", "d", "e"]
    assert said["b"].startswith("changed: ") and said["e"].startswith("changed: ")
    assert said["d"].startswith("missing: ") and "d.npy" in said["d"]
    assert all(r.error.kind == "input" for r in results.values() if r.error)
