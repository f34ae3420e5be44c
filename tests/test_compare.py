"""Comparing without a reference: real runs of models whose differences are known, against other libraries."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from digitruns import DIGITS, inputs, submit
from grounds import REPO
from PIL import Image
from runkit import Ended, Here, local_run
from sklearn.metrics import cohen_kappa_score, f1_score
from spacekit import POSES, nifti

from modelhub_hpc import cli
from modelhub_hpc.evaluation.agreement import Moments, kappa
from modelhub_hpc.evaluation.labelmaps import LabelMap
from modelhub_hpc.evaluation.tables import write_csv
from modelhub_hpc.inputs import Geometry

Array = npt.NDArray[Any]
THRESHOLD = REPO / "tests/contributions/threshold"
VOLUME_ML = 0.7 * 1.3 * 2.6 / 1000
SCANS = ("oblique", "left-handed", "sagittal")
READERS: dict[str, dict[str, Any]] = {
    "first": {"limits": (100, 200), "labels": {"0": "background", "1": "grey", "2": "white"}},
    # the same structures by other numbers, in another order of axes
    "second": {
        "limits": (120, 200), "axes": "x,y,z", "finish": "numpy.array([0, 7, 3])[labels].T.astype('float32')",
        "labels": {"3": "White ", "7": "GREY"},
    },
    "spoiled": {
        "limits": (100, 200), "finish": "numpy.roll(labels, 3, 2)", "labels": {"1": "grey", "2": "white", "5": "black"},
    },
}  # fmt: skip


def reader(
    folder: Path, name: str, limits: Sequence[int], labels: object, finish: str = "labels", axes: str = "z,y,x"
) -> Path:
    """A model that marks what is brighter than some limits, in its own way."""
    shutil.copytree(THRESHOLD, folder)
    config_file, code = folder / "contrib_src/model/config.json", folder / "contrib_src/inference.py"
    config = json.loads(config_file.read_bytes())
    config["id"], config["meta"]["name"] = str(uuid.uuid5(uuid.NAMESPACE_OID, name)), name
    mask = {"name": "mask", "type": "mask_image", "description": "", "axes": axes, "labels": labels}
    config["model"]["io"]["output"] = [mask]
    config_file.write_text(json.dumps(config))
    text = code.read_text().replace("THRESHOLDS = 100, 200", f"THRESHOLDS = {limits[0]}, {limits[1]}")
    code.write_text(re.sub(r"return \[.*", f"return {finish}", text))
    return folder


def expected(path: Path, name: str) -> Array:
    """What a reader marks, computed here: 0, 1 grey, 2 white."""
    voxels = np.asarray(nibabel.load(path).dataobj).T
    low, high = READERS[name]["limits"]
    made = (voxels > low).astype(np.uint8) + (voxels > high)
    return np.roll(made, 3, 2) if name == "spoiled" else made


class InProcess(Here):
    """Commands that start no process of their own, which would take longer than what they do."""

    def __call__(self, *words: object) -> Ended:
        if words[0] == "-q":  # submit
            return super().__call__(*words)
        out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
        os.chdir(self.folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.main([str(word) for word in words])
        finally:
            os.chdir(before)
        return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Here:
    return InProcess(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def scans(here: Here) -> list[Path]:
    (here.folder / "scans").mkdir()
    for seed, name in enumerate(SCANS):
        nifti(here.folder / f"scans/{name}.nii.gz", POSES[name], seed)
    return [here.folder / f"scans/{name}.nii.gz" for name in sorted(SCANS)]


@pytest.fixture(scope="module")
def runs(here: Here, scans: list[Path]) -> list[Path]:
    made = []
    for name, how in READERS.items():
        model = reader(here.folder / f"models/{name}", name, **how)
        made.append(submit(here, here.folder / f"run-{name}", here.folder / "scans", model=model))
    return made


@pytest.fixture(scope="module")
def told(here: Here, runs: list[Path]) -> dict[str, Any]:
    found: dict[str, Any] = here.json("compare", *runs, "--to", "out", "--consensus", "both")
    return found


# -- masks --------------------------------------------------------------------------------------------------------


def test_dice_and_volumes_of_each_pair_and_structure(told: dict[str, Any], scans: list[Path]) -> None:
    assert (told["kind"], told["cases"], told["left_out"]) == ("masks", 3, [])
    assert [(each["first"], each["second"], each["structure"]) for each in told["agreement"]] == [
        (*pair, structure) for pair in itertools.combinations(READERS, 2) for structure in ("grey", "white")
    ]
    for each in told["agreement"]:
        label = 1 if each["structure"] == "grey" else 2
        one, other = ([expected(scan, each[who]) == label for scan in scans] for who in ("first", "second"))
        dice = [f1_score(a.ravel(), b.ravel()) for a, b in zip(one, other)]
        volumes = np.array([[a.sum() * VOLUME_ML, b.sum() * VOLUME_ML] for a, b in zip(one, other)])
        apart = volumes[:, 0] - volumes[:, 1]
        assert each["mean_dice"] == pytest.approx(np.mean(dice), abs=1e-12)
        assert (each["median_dice"], each["least_dice"]) == pytest.approx((np.median(dice), min(dice)), abs=1e-12)
        assert (each["volume_unit"], each["both_empty"], each["cases"]) == ("ml", 0, 3)
        assert each["volume_bias"] == pytest.approx(apart.mean(), rel=1e-5)  # of float32 in NIfTI
        assert each["volume_limits"] == pytest.approx(1.96 * apart.std(ddof=1), rel=1e-5)
        if np.ptp(volumes, axis=0).min() > 0:
            assert each["volume_correlation"] == pytest.approx(np.corrcoef(volumes.T)[0, 1], abs=1e-9)
        whole = [np.mean(expected(scan, each["first"]) == expected(scan, each["second"])) for scan in scans]
        assert each["mean_voxel_agreement"] == pytest.approx(np.mean(whole), abs=1e-12)


def test_the_spoiled_model_agrees_least(told: dict[str, Any]) -> None:
    rows = {each.pop("model"): each for each in json.loads(json.dumps(told["matrix"]))}
    assert rows["first"]["second"] == rows["second"]["first"] > 0.8 > 0.5 > rows["first"]["spoiled"]
    assert all(rows[name][name] == 1 for name in READERS)


def written(folder: Path, kind: str, scan: Path) -> tuple[Array, Any]:
    image = nibabel.load(folder / f"{kind}/{scan.name.removesuffix('.nii.gz')}_{kind}.nii.gz")
    return np.asarray(image.dataobj).T, image


def test_consensus_is_that_of_simpleitk_on_the_grid_of_the_input(
    here: Here, told: dict[str, Any], scans: list[Path]
) -> None:
    out = here.folder / "out"
    assert told["written"] == {"majority": 3, "staple": 3, "disagreement": 3}
    assert json.loads((out / "labels.json").read_bytes()) == {"0": "background", "1": "grey", "2": "white"}
    for scan in scans:
        masks = [expected(scan, name) for name in READERS]
        votes = np.stack([np.sum([mask == label for mask in masks], axis=0) for label in range(3)])
        clear = np.count_nonzero(votes == votes.max(axis=0), axis=0) == 1
        assert not clear.all()  # ties are part of this
        found, image = written(out, "majority", scan)
        assert np.array_equal(found, np.where(clear, votes.argmax(axis=0), 0))
        found, _ = written(out, "staple", scan)
        by_itk = sitk.MultiLabelSTAPLE([sitk.GetImageFromArray(each) for each in masks], 0)
        assert np.array_equal(found, sitk.GetArrayFromImage(by_itk)) and len(np.unique(found)) == 3
        found, _ = written(out, "disagreement", scan)
        assert np.array_equal(found, 3 - votes.max(axis=0)) and found.max() == 2
        assert np.allclose(image.affine, nibabel.load(scan).affine, atol=1e-4)
        space, of_input = sitk.ReadImage(image.get_filename()), sitk.ReadImage(str(scan))
        for ask in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert np.allclose(getattr(space, ask)(), getattr(of_input, ask)(), atol=1e-4)


def test_a_consensus_has_the_numbers_of_the_first_run(here: Here, runs: list[Path], scans: list[Path]) -> None:
    here.json("compare", runs[1], runs[0], "--to", "reversed")
    assert json.loads((here.folder / "reversed/labels.json").read_bytes()) == {
        "0": "background", "3": "White ", "7": "GREY"}  # fmt: skip
    found, _ = written(here.folder / "reversed", "majority", scans[0])
    one, other = (expected(scans[0], name) for name in ("first", "second"))
    assert np.array_equal(found, np.array([0, 7, 3])[np.where(one == other, one, 0)])
    assert not (here.folder / "reversed/staple").exists()


def test_tables_of_a_comparison(here: Here, told: dict[str, Any], scans: list[Path]) -> None:
    out = here.folder / "out"
    with open(out / "cases.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 3 * 2
    wanted = {"case": "oblique", "first": "first", "second": "second", "structure": "grey"}
    row = next(each for each in rows if wanted.items() <= each.items())
    masks = [expected(here.folder / "scans/oblique.nii.gz", name) == 1 for name in ("first", "second")]
    assert float(row["dice"]) == pytest.approx(f1_score(*(mask.ravel() for mask in masks)), abs=1e-12)
    assert float(row["second_volume"]) == pytest.approx(masks[1].sum() * VOLUME_ML) and row["unit"] == "ml"
    assert (out / "agreement.md").read_text().startswith("**Agreement of 3 runs**")
    assert {path.suffix for path in out.glob("matrix.*")} == {".csv", ".md", ".tex"}
    assert not (out / "left_out.csv").exists()
    assert any("spoiled has what first has not" in note and "black" in note for note in told["notes"])


def test_people_are_told_the_same(here: Here, runs: list[Path]) -> None:
    said = here("compare", *runs[:2])
    assert said.code == 0 and "3 cases compared." in said.out and re.search(r"first +second +White +3 ", said.out, re.I)


def test_what_cannot_be_compared_is_told_and_left_out(here: Here, runs: list[Path], tmp_path: Path) -> None:
    """A grid that lies elsewhere, a label that nobody declares, a case more, and one that failed."""
    (tmp_path / "scans").mkdir()
    nifti(tmp_path / "scans/oblique.nii.gz", POSES["oblique"], 0)
    nifti(tmp_path / "scans/left-handed.nii.gz", POSES["flipped"], 1)
    nibabel.save(nibabel.Nifti1Image(np.zeros((11, 14, 9), np.int16), np.eye(4)), tmp_path / "scans/sagittal.nii.gz")
    nifti(tmp_path / "scans/another.nii.gz", POSES["oblique"], 0)
    model = reader(tmp_path / "model", "third", **READERS["first"] | {"finish": "labels + 9 * (labels.max() == 0)"})
    third = submit(here, tmp_path / "third", tmp_path / "scans", model=model)
    found = here.json("compare", runs[0], third, "--to", tmp_path / "out", code=3)
    why = {(each["case"], each["model"]): each["why"] for each in found["left_out"]}
    assert why == {
        ("left-handed", "first and third"): "their grids differ in origin, spacing or directions",
        ("sagittal", "third"): "its mask holds the label 9, which is none of [0, 1, 2]",
        ("another", "first"): "its run has no such case",
    }
    assert (found["cases"], found["written"]) == (1, {"majority": 1, "disagreement": 1})
    assert {each["mean_dice"] for each in found["agreement"]} == {1.0}
    assert len((tmp_path / "out/left_out.csv").read_text().splitlines()) == 4
    here.json("compare", *runs[:2], "--to", tmp_path / "out")
    assert not (tmp_path / "out/left_out.csv").exists()
    said = here("compare", runs[0], third)
    assert said.code == 3 and "third, 1 case left out: its mask holds the label 9" in said.err


def grid(size: tuple[int, ...], **place: Any) -> LabelMap:
    usual: dict[str, Any] = {"spacing": (1.0, 1.0, 2.0), "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).flat)}
    return LabelMap(np.zeros(size, np.uint8), Geometry(size[::-1], **usual | place) if place else None)


def test_only_masks_on_one_grid_are_compared() -> None:
    here, near = grid((4, 5, 6), origin=(0.0, 0.0, 0.0)), grid((4, 5, 6), origin=(0.001, 0.0, 0.0))
    assert here.why_not_with(near) == here.why_not_with(here) == grid((4, 5, 6)).why_not_with(grid((4, 5, 6))) == ""
    assert here.why_not_with(grid((4, 6, 5), origin=(0.0, 0.0, 0.0))) == (
        "their grids differ: 6 x 5 x 4 and 5 x 6 x 4 voxels in x, y, z")
    assert here.why_not_with(grid((4, 5, 6))) == "only one of them says where its voxels lie"
    assert "origin, spacing" in here.why_not_with(grid((4, 5, 6), spacing=(1.0, 1.0, 2.1)))


def test_labels_that_nobody_explains_are_asked_for(here: Here, runs: list[Path], tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    shutil.copytree(runs[0], silent)
    plain = json.loads((silent / "run.json").read_bytes())
    plain["model"]["name"], plain["model"]["outputs"][0]["labels"] = "silent", {}
    (silent / "run.json").write_text(json.dumps(plain))
    asked = here("compare", runs[0], silent)
    assert asked.code == 4 and '--map FILE.json  with  {"silent": {"1": "NAME"' in asked.err
    explained = tmp_path / "map.json"
    for given, code, words in (
        ({"silent": {"1": "white", "2": "grey"}, "first": {"Grey": "grey"}}, 0, "3 cases compared"),
        ({"silent": {"1": "bone"}}, 4, "no structure in common"),
        ({"quiet": {"1": "bone"}}, 2, "no run 'quiet', but first, silent"),
        ({"silent": {"1": "a"}, "first": {"black": "a"}}, 2, "has no label 'black'"),
        ({"silent": ["white"]}, 2, "should be like"),
        ("{", 2, "is no JSON"),
    ):
        explained.write_text(given if isinstance(given, str) else json.dumps(given))
        said = here("compare", runs[0], silent, "--map", explained)
        assert (said.code, words in said.text) == (code, True), said.text
    explained.write_text(json.dumps({"silent": {"1": "white", "2": "grey"}}))
    found = here.json("compare", runs[0], silent, "--map", explained)["agreement"]
    assert all(each["mean_dice"] < 0.3 for each in found)  # they were told the wrong way round


def test_what_was_asked_for_makes_no_sense(here: Here, runs: list[Path]) -> None:
    for words, code, told in (
        ((runs[0],), 2, "name two runs or more"),
        ((runs[0], runs[0]), 2, "A run is named twice"),
        ((runs[0], "nowhere"), 2, "not the folder of a run"),
        ((*runs, "--output", "other"), 2, "give nothing of one kind that can be compared"),
        ((*runs, "--by", "patient"), 2, "has no such column"),
        ((*runs, "--consensus", "staple"), 2, "--to DIR"),
    ):
        said = here("compare", *words)
        assert (said.code, told in said.err) == (code, True), said.text


# -- label lists --------------------------------------------------------------------------------------------------


WORDS = json.loads((DIGITS / "contrib_src/model/labels.json").read_bytes()).values()


def guesser(folder: Path, seed: int, prefix: str = "") -> Path:
    """The digits model, half of whose answers are a matter of chance."""
    shutil.copytree(DIGITS, folder)
    for file, before, after in (
        ("model/config.json", '"name": "digits-cnn"', f'"name": "{folder.name}"'),
        ("inference.py", "return self._imageProcessor.computeOutput(results[0])",
         f"import numpy; chance = numpy.random.RandomState({seed} + int(1000 * image.sum()) % 10**6).rand(1, 10)\n"
         "        return self._imageProcessor.computeOutput(0.1 * results[0] + 0.9 * chance / chance.sum())"),
        ("processing.py", 'labels[str(number)]', f'"{prefix}" + labels[str(number)]'),
    ):  # fmt: skip
        path = folder / "contrib_src" / file
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))
    return folder


@pytest.fixture(scope="module")
def guesses(here: Here) -> list[Path]:
    """Over the same pictures: one in the order of their names, one shuffled, in small chunks, and one backwards."""
    names = [f"n{number:02d}" for number in range(40)]
    scans = inputs(here.folder / "digits", names)
    for number, path in enumerate(sorted(scans.iterdir())):  # so that no two are alike
        with Image.open(path) as image:
            Image.fromarray(np.roll(np.asarray(image), number // 10, axis=number % 2)).save(path)
    rows = [(name, scans / f"{name}.png", name) for name in names]
    shuffled = [rows[row] for row in np.random.default_rng(3).permutation(40)]
    backwards = [(f"x-{name}", path, name) for name, path, _ in reversed(rows)]
    for file, lines in (("rows", rows), ("shuffled", shuffled), ("backwards", backwards)):
        with open(here.folder / f"{file}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("case_id", "input", "patient"), *lines])
    one = submit(here, here.folder / "run-digits", here.folder / "rows.csv")
    guess, named = (here.folder / f"models/{name}" for name in ("guess", "named"))
    other = submit(
        here, here.folder / "run-guess", here.folder / "shuffled.csv", "--chunk-size", 7, model=guesser(guess, 1)
    )
    third = submit(here, here.folder / "run-named", here.folder / "backwards.csv", model=guesser(named, 2, "Digit "))
    return [one, other, third]


def probabilities(here: Here, run: Path) -> dict[str, list[float]]:
    told = here.json("results", run)
    return {each["case"]: [p["probability"] for p in each["outputs"][0]["prediction"]] for each in told}


def test_label_lists_against_scikit_learn(here: Here, guesses: list[Path]) -> None:
    found = here.json("compare", *guesses[:2], "--to", "labels")
    one, other = (probabilities(here, run) for run in guesses[:2])
    assert list(one) != list(other)
    tops = [[int(np.argmax(each[name])) for name in one] for each in (one, other)]
    (pair,) = found["agreement"]
    assert (found["kind"], pair["cases"], pair["cases_with_common_labels"]) == ("labels", 40, 40)
    assert 0.1 < pair["top1_agreement"] == np.mean(np.equal(*tops)) < 1
    assert pair["kappa"] == pytest.approx(cohen_kappa_score(*tops), abs=1e-12)
    apart = np.mean([np.abs(np.subtract(one[name], other[name])) for name in one])
    assert pair["mean_abs_probability_difference"] == pytest.approx(apart, abs=1e-12)
    with open(here.folder / "labels/cases.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    alike = [row for row in rows if row["majority"]]
    assert len(rows) == 40 and len(alike) == round(40 * pair["top1_agreement"])
    assert all(row[f"top1 of {found['runs'][0]['name']}"] == row["majority"] and row["votes"] == "2" for row in alike)


def test_cases_by_a_column_in_another_order_and_labels_by_a_map(here: Here, guesses: list[Path]) -> None:
    strangers = here("compare", guesses[0], guesses[2])
    assert strangers.code == 4 and "no case in common" in strangers.err and "--by COLUMN" in strangers.err
    both = guesses[0], guesses[2], "--by", "patient"
    unknown = here.json("compare", *both)
    assert unknown["agreement"][0]["top1_agreement"] == 0 and any("no label in common" in n for n in unknown["notes"])
    name = unknown["runs"][1]["name"]
    (here.folder / "map.json").write_text(json.dumps({name: {f"digit {each}": each for each in WORDS}}))
    (pair,) = here.json("compare", *both, "--map", here.folder / "map.json")["agreement"]
    one, other = (probabilities(here, run) for run in (guesses[0], guesses[2]))
    same = [np.argmax(one[case]) == np.argmax(other[f"x-{case}"]) for case in one]
    assert pair["cases"] == 40 and 0 < pair["top1_agreement"] == np.mean(same) < 1


def test_kappa_without_any_choice_is_none() -> None:
    assert kappa({("a", "a"): 7}) is None
    assert kappa({("a", "b"): 7}) == 0
    for seed in range(20):
        one, other = np.random.default_rng(seed).integers(0, 4, (2, 30)).astype(str)
        counts = Counter(zip(one.tolist(), other.tolist()))
        assert kappa(counts) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)


def test_labels_may_be_any_text(tmp_path: Path) -> None:
    write_csv(tmp_path / "odd.csv", [{"top1 of \udcff": "\ud800,\n", "cases": 1}])
    with open(tmp_path / "odd.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["top1 of \\udcff", "cases"], ["\\ud800,\n", "1"]]


# -- vectors ------------------------------------------------------------------------------------------------------


def test_vectors(here: Here, tmp_path: Path) -> None:
    """The obedient model gives [n, 2n]; one run is told other numbers, NaN, and another length."""
    sites = []
    for name, orders in (
        ("one", {"a": "OK 1", "b": "OK 2", "c": "OK 5", "d": "OK 1", "e": "OK 1", "f": "OK 1"}),
        ("two", {"a": "OK 3", "b": "OK 1", "c": "OK 7", "d": "NAN", "e": "ARRAY 3", "f": "FAIL"}),
    ):
        site = local_run(tmp_path / name, **orders)
        assert site.submit().code == (3 if name == "two" else 0)
        sites.append(site.outdir)
    found = here.json("compare", *sites, code=3)
    names = [each["name"] for each in found["runs"]]
    why = {(each["case"], each["model"]): each["why"] for each in found["left_out"]}
    assert why == {
        ("d", names[1]): "not all of its numbers are finite and of a usual size",
        ("e", " and ".join(names)): "they are [2] and [4, 5] numbers",
        ("f", names[1]): "it failed: model: ValueError: told to fail",
    }
    one, other = np.array([1, 2, 2, 4, 5, 10.0]), np.array([3, 6, 1, 2, 7, 14.0])
    assert found["kind"] == "vectors" and found["agreement"] == [
        {
            "first": names[0], "second": names[1], "cases": 3, "numbers": 6,
            "correlation": pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-12),
            "rmse": pytest.approx(np.sqrt(np.mean((one - other) ** 2)), abs=1e-12),
            "bias": pytest.approx(np.mean(one - other), abs=1e-12),
        }
    ]  # fmt: skip


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_in_pieces_are_those_of_the_whole(offset: float) -> None:
    values = np.random.default_rng(1).normal(offset, 1, (2, 1000))
    found = Moments()
    for start, end in itertools.pairwise([0, 1, 1, 10, 400, 1000]):
        found.add(values[0, start:end], values[1, start:end])
    apart = values[0] - values[1]
    assert found.correlation == pytest.approx(np.corrcoef(values)[0, 1], abs=1e-6)
    assert (found.bias, found.spread) == pytest.approx((apart.mean(), apart.std(ddof=1)), abs=1e-6)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(apart**2)), abs=1e-6)


def test_no_correlation_with_what_never_changes() -> None:
    found = Moments()
    found.add([1.0, 2.0], [3.0, 3.0])
    assert found.correlation is None and found.bias == -1.5
