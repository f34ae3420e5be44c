"""mh-hpc benchmark, on models whose order is known and against what other libraries make of their results."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
from contest import BRATS, DIGITS, HERE, SHAKEN, digits, models, patients, records, table, variant
from grounds import REPO
from PIL import Image
from runkit import Here

from modelhub_hpc.cli.commands import main
from modelhub_hpc.record import load_volume
from modelhub_hpc.runs import reading

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
THRESHOLD = REPO / "tests/contributions/threshold"
REGIONS = {"whole tumour": (1, 2, 4), "tumour core": (1, 4), "enhancing tumour": (4,)}
MODELS = ("digits-cnn", "shaken")
COUNT = 150
CASES = 8


@dataclass
class Bench:
    """A benchmark that has been made once. words: its command, but for the table of what is known."""

    folder: Path
    known: Path
    words: list[str]
    facts: dict[str, Any]

    def table(self, name: str) -> list[dict[str, str]]:
        return records(self.folder / "out/tables" / f"{name}.csv")


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("classify")
    known = digits(folder, COUNT)
    shaken = variant(folder, DIGITS, "shaken", SHAKEN)
    words = ["benchmark", "classify", "--models", f"digits-cnn,{shaken}", "--data", str(folder / "data"), *HERE]
    words += ["--outdir", str(folder / "out")]
    return Bench(folder, known, words, Here(folder).json(*words, "--labels", known))


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("segment")
    known = patients(folder, CASES)
    words = ["benchmark", "segment", "--models", ",".join(reversed(models(folder))), *HERE]
    words += ["--data", str(folder / "data"), "--outdir", str(folder / "out")]
    return Bench(folder, known, words, Here(folder).json(*words, "--reference", known, "--regions", "brats"))


@pytest.fixture
def again(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A benchmark in this process: its exit code and all that it says."""

    def run(bench: Bench, flag: str, known: Path, *more: str) -> tuple[int, str]:
        code = main([*bench.words, flag, str(known), *more])
        said = capfd.readouterr()
        return code, said.out + said.err

    return run


# -- classification -----------------------------------------------------------------------------------------------


def predictions(bench: Bench, model: str) -> tuple[list[str], Any]:
    """What a model has said, as its run has it: cases and probabilities, in the order of its labels."""
    run = reading.read(bench.folder / "out/runs" / model)
    found = {result.case_id: result.outputs[0].prediction for result in run.results()}
    return list(found), np.array([[row["probability"] for row in rows] for rows in found.values()])


@pytest.mark.parametrize("model", ["digits-cnn", "shaken"])
def test_accuracy_recall_and_confusion_are_those_of_scikit_learn(classified: Bench, model: str) -> None:
    from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

    names, scores = predictions(classified, model)
    labels = {row["file"].removesuffix(".png"): int(row["label"]) for row in records(classified.known)}
    wanted = [labels[name] for name in names]
    row = next(each for each in classified.table("accuracy") if each["model"] == model)
    for top in (1, 5):
        theirs = top_k_accuracy_score(wanted, scores, k=top, labels=range(10))
        assert float(row[f"top{top}"]) == pytest.approx(theirs, abs=1e-6)
    assert row["cases"] == str(COUNT) and row["without_answer"] == "0"
    found = scores.argmax(axis=1)
    matrix = confusion_matrix(wanted, found, labels=range(10))
    ours = {(each["label"], each["predicted"]): int(each["cases"]) for each in cells(classified, "confusion", model)}
    assert ours == {(NAMES[i], NAMES[j]): count for (i, j), count in np.ndenumerate(matrix) if count}
    recall = dict(zip(NAMES, recall_score(wanted, found, average=None, labels=range(10))))
    shares = {each["label"]: float(each["recall"]) for each in cells(classified, "recall", model)}
    assert shares == pytest.approx(recall, abs=1e-6)


def cells(bench: Bench, name: str, model: str) -> list[dict[str, str]]:
    return [each for each in bench.table(name) if each["model"] == model]


def test_the_card_stands_beside_what_was_measured_and_pairs_are_tested(classified: Bench) -> None:
    first, second = classified.table("accuracy")
    assert (first["top1_card_percent"], second["top1_card_percent"]) == ("99.0", "")
    assert float(first["top1"]) > 0.97 > 0.9 > float(second["top1"])
    assert float(second["top1_low"]) < float(second["top1"]) < float(second["top1_high"])
    assert all(0 < float(each["seconds_median"]) < 5 for each in (first, second))
    (pair,) = classified.table("pairs")
    cases = {model: cells(classified, "cases", model) for model in MODELS}
    right = {model: {row["case"]: row["rank"] == "1" for row in rows} for model, rows in cases.items()}
    only = [sum(right[a][case] > right[b][case] for case in right[a]) for a, b in (MODELS, MODELS[::-1])]
    assert [int(pair["only_first"]), int(pair["only_second"])] == only and float(pair["p"]) < 0.001


def test_the_answer_has_what_was_measured_and_with_what(classified: Bench) -> None:
    facts = classified.facts
    assert facts == json.loads((classified.folder / "out/benchmark.json").read_bytes())
    assert [each["name"] for each in facts["models"]] == list(MODELS)
    assert all(len(each["digest"]) == 64 for each in facts["models"])
    assert facts["tables"]["accuracy"][0]["top1_right"] == int(classified.table("accuracy")[0]["top1_right"])
    assert facts["known"]["path"] == str(classified.known) and facts["notes"] == []


def test_the_same_command_computes_nothing_again(classified: Bench, again: Callable[..., tuple[int, str]]) -> None:
    shards = {path: path.stat().st_mtime_ns for path in (classified.folder / "out/runs").rglob("shards/*")}
    before = {path: path.read_bytes() for path in (classified.folder / "out/tables").iterdir()}
    code, said = again(classified, "--labels", classified.known)
    assert code == 0 and said.count(f"{COUNT} of {COUNT} done, 0 to go") == 2
    assert shards == {path: path.stat().st_mtime_ns for path in (classified.folder / "out/runs").rglob("shards/*")}
    assert before == {path: path.read_bytes() for path in (classified.folder / "out/tables").iterdir()}


def test_what_was_interrupted_goes_on(classified: Bench, tmp_path: Path, again: Callable[..., tuple[int, str]]) -> None:
    shutil.copytree(classified.folder / "out/runs/digits-cnn", tmp_path / "out/runs/digits-cnn")
    lost = max((tmp_path / "out/runs/digits-cnn/shards").glob("*.jsonl"))
    lost.unlink()
    words = [*classified.words[:-1], str(tmp_path / "out")]
    words[3] = "digits-cnn"
    code, said = again(Bench(tmp_path, classified.known, words, {}), "--labels", classified.known)
    assert code == 0 and "to go" in said and lost.exists()
    assert records(tmp_path / "out/tables/accuracy.csv")[0]["top1"] == classified.table("accuracy")[0]["top1"]


def rewritten(bench: Bench, path: Path, change: Callable[[list[list[str]]], Sequence[Sequence[str]]]) -> Path:
    with open(bench.known, newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    return table(path, header, change(rows))


def test_labels_may_be_written_as_names(
    classified: Bench, tmp_path: Path, again: Callable[..., tuple[int, str]]
) -> None:
    def named(rows: list[list[str]]) -> list[list[str]]:
        return [[file.removesuffix(".png"), NAMES[int(label)].title()] for file, label in rows]

    known = rewritten(classified, tmp_path / "a.csv", named)
    before = classified.table("accuracy")[0]["top1"]
    assert again(classified, "--labels", known)[0] == 0 and classified.table("accuracy")[0]["top1"] == before


def test_cases_and_labels_that_do_not_belong_together_are_named(
    classified: Bench, tmp_path: Path, again: Callable[..., tuple[int, str]]
) -> None:
    known = rewritten(classified, tmp_path / "a.csv", lambda rows: [*rows[2:], ["other.png", "1"]])
    code, said = again(classified, "--labels", known)
    assert code == 0 and f"2 cases without a label in {known}, left out: digit-0898, digit-0899" in said
    assert f"1 label in {known} without a case: other.png" in said
    assert classified.table("accuracy")[0]["cases"] == str(COUNT - 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [[name, "sevn"] for name, _ in rows], "line 2: 'sevn' is no label of any.* Did you mean 'seven'"),
        (lambda rows: [*rows[:-1], [rows[-1][0], "10"]], f"line {COUNT + 1}: '10' is no label of any of these"),
        (lambda rows: [["x.png", "1"]], "None of the cases has a label in .*: its rows are of x.png; the cases are"),
        (lambda rows: [*rows, rows[3]], "stands on line 5 already"),
        (lambda rows: [[name, "\udce9"] for name, _ in rows], "line 2: .*is no UTF-8"),
        (lambda rows: [[name, "z\xa0\u202e"] for name, _ in rows], r"line 2: 'z.*u202e' is no label of any"),
    ],
)
def test_labels_that_cannot_be_used(
    classified: Bench, tmp_path: Path, again: Callable[..., tuple[int, str]], change: Any, message: str
) -> None:
    with open(classified.known, newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        csv.writer(stream).writerows([header, *change(rows)])
    code, said = again(classified, "--labels", tmp_path / "a.csv")
    assert code == 4 and re.search(message, said)


FRAIL = """

class ImageProcessor(ImageProcessor):
    def computeOutput(self, inferenceResults):
        rows = super().computeOutput(inferenceResults)
        if inferenceResults[0].argmax() == 0:
            raise ValueError("no zeros, please")
        return rows
"""


def test_cases_without_an_answer_count_against_their_label(
    classified: Bench, tmp_path: Path, again: Callable[..., tuple[int, str]]
) -> None:
    words = [*classified.words[:-1], str(tmp_path / "out")]
    words[3] = str(variant(tmp_path, DIGITS, "frail", FRAIL))
    assert again(Bench(tmp_path, classified.known, words, {}), "--labels", classified.known)[0] == 3
    shares = {row["label"]: row for row in records(tmp_path / "out/tables/recall.csv")}
    assert set(shares) == set(NAMES) and shares["zero"]["recall"] == "0.0"
    counts = Counter(NAMES[int(row["label"])] for row in records(classified.known))
    assert {label: int(row["cases"]) for label, row in shares.items()} == counts


# what a model does where digits-cnn would say zero, one, two and so on
ODD = """

class ImageProcessor(ImageProcessor):
    def computeOutput(self, inferenceResults):
        rows = super().computeOutput(inferenceResults)
        digit = int(inferenceResults[0].argmax())
        if digit == 0:
            raise ValueError("no zeros, please")
        if digit == 2:
            rows = [{"label": row["label"], "probability": 0.1} for row in rows]
        rows.sort(key=lambda row: -row["probability"])
        if digit == 1:
            rows[5]["probability"] = float("nan")
        return [{**row, "label": "neuf" if row["label"] == "nine" else row["label"]} for row in rows[:9]]
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, classified: Bench) -> Bench:
    """digits-cnn, and one that fails, gives no numbers or the same ones, lacks a label, and sorts and cuts its list."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(classified.folder / "out/runs/digits-cnn", folder / "out/runs/digits-cnn")
    words = list(classified.words)
    words[3], words[-1] = f"digits-cnn,{variant(folder, DIGITS, 'odd', ODD)}", str(folder / "out")
    with open(classified.known, newline="", encoding="utf-8") as stream:
        rows = [(row["file"], NAMES[int(row["label"])]) for row in csv.DictReader(stream)]
    known = table(folder / "labels.csv", ("file", "label"), rows)
    return Bench(folder, known, words, Here(folder).json(*words, "--labels", known, code=3))


def test_answers_that_cannot_be_judged_are_wrong_and_counted(odd: Bench) -> None:
    plain = {row["case"]: row for row in cells(odd, "cases", "digits-cnn")}
    ours = {row["case"]: row for row in cells(odd, "cases", "odd")}
    said = {name: row["predicted"] for name, row in plain.items()}
    assert set(said.values()) == set(NAMES)
    for name, row in ours.items():
        if said[name] == "zero":
            assert row["problem"].startswith("model: ") and "no zeros, please" in row["problem"] and not row["rank"]
        elif said[name] == "one":
            assert row["problem"] == "a score is not a number" and not row["rank"]
        elif plain[name]["label"] == "nine":
            assert (row["label"], row["rank"], row["problem"]) == ("nine", "", "")
        elif said[name] == "two" and row["label"] == "two":
            assert row["rank"] == "9" and row["predicted"] != "two"
        else:
            assert (row["rank"], row["predicted"]) == (plain[name]["rank"], said[name].replace("nine", "neuf"))
    lost = sum(word in ("zero", "one") for word in said.values())
    _, accuracy = odd.table("accuracy")
    assert accuracy["without_answer"] == str(lost) and accuracy["cases"] == str(COUNT)
    right = sum(row["rank"] == "1" for row in ours.values())
    assert float(accuracy["top1"]) == right / COUNT and float(accuracy["top1_of_answered"]) == right / (COUNT - lost)
    notes = "\n".join(odd.facts["notes"])
    assert f"odd has no answer to {lost} cases, which count as wrong, such as " in notes
    assert re.search(r"odd does not have the labels of \d+ cases, which count as wrong: nine", notes)
    assert re.search(r"odd gives the right label the score of another one in \d+ cases", notes)


def test_numbers_mean_nothing_to_a_model_that_sorts_its_labels(
    odd: Bench, classified: Bench, again: Callable[..., tuple[int, str]]
) -> None:
    code, said = again(odd, "--labels", classified.known)
    assert code == 4 and re.search("which label is .*odd gives its labels in another order for each case", said)
    assert "Write the labels as it prints them." in said


# -- segmentation -------------------------------------------------------------------------------------------------


def mask(bench: Bench, model: str, case: str) -> Any:
    run = reading.read(bench.folder / "out/runs" / model)
    result = next(each for each in run.results() if each.case_id == case)
    return load_volume(run.paths, result.outputs[0]).voxels


@pytest.mark.parametrize("model", ["phantom-brats", "hasty", "spoiled"])
def test_scores_are_those_of_other_libraries(segmented: Bench, model: str) -> None:
    from sklearn.metrics import f1_score, recall_score

    for row in records(segmented.known):
        truth, spacing = truth_of(segmented, row["reference"])
        found = mask(segmented, model, row["case_id"])
        for region, labels in REGIONS.items():
            (ours,) = (
                each
                for each in cells(segmented, "cases", model)
                if (each["case"], each["region"]) == (row["case_id"], region)
            )
            masks = np.isin(truth, labels), np.isin(found, labels)
            flat = masks[0].ravel(), masks[1].ravel()
            assert float(ours["dice"]) == pytest.approx(f1_score(*flat), abs=1e-6)
            assert float(ours["sensitivity"]) == pytest.approx(recall_score(*flat), abs=1e-6)
            assert float(ours["specificity"]) == pytest.approx(recall_score(~flat[0], ~flat[1]), abs=1e-6)
            assert float(ours["hd95"]) == pytest.approx(hd95(*masks, spacing), abs=1e-6)


def truth_of(bench: Bench, name: str) -> tuple[Any, tuple[float, ...]]:
    """z, y, x, and mm in that order, as nibabel reads them."""
    image: Any = nibabel.load(bench.known.parent / name)
    return np.asarray(image.dataobj).transpose(2, 1, 0), tuple(np.linalg.norm(image.affine[:3, 2::-1], axis=0))


def hd95(truth: Any, found: Any, spacing: tuple[float, ...]) -> float:
    import surface_distance

    if not found.any():
        return float(np.linalg.norm(np.multiply(truth.shape, spacing)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = surface_distance.compute_surface_distances(truth, found, spacing)
    return float(surface_distance.compute_robust_hausdorff(distances, 95))


def test_the_order_of_the_models_is_the_one_that_was_planted(segmented: Bench) -> None:
    rows = segmented.table("ranking")
    assert [row["model"] for row in rows] == ["phantom-brats", "hasty", "spoiled"]
    assert [float(row["position"]) for row in rows] == [1, 2, 3] and float(rows[2]["score"]) == 3
    scores = {row["model"]: float(row["score"]) for row in rows}
    assert scores == pytest.approx(by_counting(segmented), abs=1e-9)
    for row in segmented.table("permutation"):
        assert float(row["difference"]) == pytest.approx(scores[row["first"]] - scores[row["second"]])
        assert row["exact"] == "1" and float(row["p"]) == 2 / 2**CASES  # none of the others is as far from even


def by_counting(bench: Bench) -> dict[str, float]:
    """One more than the number of better models, and half of the equal ones, averaged."""
    ranks: dict[str, dict[str, list[float]]] = {}
    rows = [row for row in bench.table("cases") if row["region"] in REGIONS]
    for row, sign, measure in itertools.chain(((r, -1, "dice") for r in rows), ((r, 1, "hd95") for r in rows)):
        rivals = [r for r in rows if (r["case"], r["region"]) == (row["case"], row["region"])]
        values = [sign * float(r[measure]) for r in rivals if r is not row]
        own = sign * float(row[measure])
        rank = 1 + sum(value < own for value in values) + sum(value == own for value in values) / 2
        ranks.setdefault(row["model"], {}).setdefault(row["case"], []).append(rank)
    return {model: float(np.mean([np.mean(found) for found in cases.values()])) for model, cases in ranks.items()}


def test_figures_are_whole(segmented: Bench, classified: Bench) -> None:
    figures = [segmented.folder / "out/figures" / name for name in ("ranking", "contours")]
    for figure in (*figures, classified.folder / "out/figures/accuracy"):
        drawing = ElementTree.parse(figure.with_suffix(".svg")).getroot()
        assert drawing.tag.endswith("svg") and not list(drawing.iter("{http://www.w3.org/2000/svg}text"))
        with Image.open(figure.with_suffix(".png")) as picture:
            assert picture.width == 1890 and len(picture.getcolors(1 << 24) or []) > 20
    assert segmented.facts["case_drawn"].startswith("patient-")


def test_the_case_to_draw_can_be_chosen(segmented: Bench, again: Callable[..., tuple[int, str]]) -> None:
    drawn = segmented.folder / "out/figures/contours.svg"
    before = drawn.read_bytes()
    other = "patient-00" if segmented.facts["case_drawn"] != "patient-00" else "patient-01"
    code, _ = again(segmented, "--reference", segmented.known, "--regions", "brats", "--case", other)
    assert code == 0 and drawn.read_bytes() != before
    tables = (segmented.folder / "out/tables").stat().st_mtime_ns
    code, said = again(segmented, "--reference", segmented.known, "--regions", "brats", "--case", "nobody")
    assert tables == (segmented.folder / "out/tables").stat().st_mtime_ns
    assert code == 2 and "--case nobody: the cases with a reference are patient-00, patient-01" in said


def test_references_that_cannot_be_used_are_left_out_for_all_and_named(
    segmented: Bench, tmp_path: Path, again: Callable[..., tuple[int, str]]
) -> None:
    def spoiled(case: str, name: str, change: Callable[[Any, Any], tuple[Any, Any]]) -> tuple[str, str]:
        image: Any = nibabel.load(segmented.known.parent / f"{case}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(*change(np.asarray(image.dataobj), image.affine)), tmp_path / name)
        return case, name

    def with_value(value: float) -> Callable[[Any, Any], tuple[Any, Any]]:
        return lambda voxels, affine: (np.where(np.indices(voxels.shape).sum(0) == 9, value, voxels), affine)

    (tmp_path / "text.nii.gz").write_text("no image")
    rows = [
        spoiled("patient-00", "label.nii", with_value(3)),
        spoiled("patient-01", "nan.nii", with_value(np.nan)),
        spoiled("patient-02", "half.nii", with_value(0.5)),
        spoiled("patient-03", "shape.nii", lambda voxels, affine: (voxels[1:], affine)),
        spoiled("patient-04", "place.nii", lambda voxels, affine: (voxels, affine + np.eye(4)[:, [3, 0, 1, 2]])),
        ("patient-05", "none.nii.gz"),
        ("patient-06", "text.nii.gz"),
        ("patient-07", str(segmented.known.parent / "patient-07.nii.gz")),
    ]
    known = table(tmp_path / "reference.csv", ("case_id", "reference"), rows)
    code, said = again(segmented, "--reference", known, "--regions", "brats")
    assert code == 3
    facts = json.loads((segmented.folder / "out/benchmark.json").read_bytes())
    for case, why in zip(facts["left_out"].items(), REASONS):
        assert re.search(why, case[1]) and f"{case[0]} is left out for all models: {case[1]}" in said
    assert len(facts["left_out"]) == len(REASONS) == 7
    assert {row["case"] for row in segmented.table("cases")} == {"patient-07"}
    rows[-1] = ("patient-07", "none.nii")
    code, said = again(segmented, "--reference", table(known, ("case_id", "reference"), rows), "--regions", "brats")
    assert code == 4 and "No reference in" in said


REASONS = [
    "the reference holds the label 3, which is none of 1 non-enhancing core, 2 oedema, 4 enhancing",
    "the reference holds values that are no numbers",
    "the reference holds fractions such as 0.5, and no labels",
    "it has 23 x 28 x 20 voxels in x, y, z, and the input 24 x 28 x 20",
    "it does not lie where the input does: its origin, spacing or directions differ. Resample it",
    "there is no file none.nii.gz",
    "the reference cannot be read",
]


def test_cases_without_a_reference_are_left_out_and_said(
    segmented: Bench, tmp_path: Path, again: Callable[..., tuple[int, str]]
) -> None:
    known = rewritten(segmented, segmented.known.with_name("some.csv"), lambda rows: [*rows[2:], ["patient-99", "x"]])
    code, said = again(segmented, "--reference", known)
    assert code == 0 and f"2 cases without a reference in {known}, left out: patient-00, patient-01" in said
    assert f"1 reference in {known} without a case: patient-99" in said
    # without regions models are ranked by the structures that they declare
    assert {row["region"] for row in segmented.table("scores")} == {"core", "oedema", "enhancing"}
    assert all(row["ranked"] == "1" for row in segmented.table("scores"))


# by the number of marked voxels, a model fails or returns what is no mask of the input
LAME = """

class ImageProcessor(ImageProcessor):
    def computeOutput(self, inferenceResults):
        labels = super().computeOutput(inferenceResults)
        return [broken, numpy.array, lambda each: each * 1.5, lambda each: each[1:]][(labels != 0).sum() % 4](labels)


def broken(labels):
    raise ValueError("a tumour of this size")
"""


def test_models_that_fail_on_a_case_are_last_in_it(segmented: Bench, tmp_path: Path) -> None:
    shutil.copytree(segmented.folder / "out/runs/phantom-brats", tmp_path / "out/runs/phantom-brats")
    lame = variant(tmp_path, BRATS, "lame", LAME)
    words = ["benchmark", "segment", "--models", f"{lame},phantom-brats", *segmented.words[4:-1], tmp_path / "out"]
    facts = Here(tmp_path).json(*words, "--reference", segmented.known, "--regions", "brats", code=3)
    bench = Bench(tmp_path, segmented.known, [], facts)
    kinds = set()
    for row in cells(bench, "cases", "lame"):
        kind = int((mask(bench, "phantom-brats", row["case"]) != 0).sum() % 4)
        kinds.add(kind)
        assert (row["dice"] == "") == (kind != 1) and float(row["case_rank"]) == (1.5 if kind == 1 else 2)
        why = ("model: .*of this size", "^$", "fractions such as 1.5", "the grid of the input")[kind]
        assert re.search(why, row["problem"])
    assert len(kinds) > 2
    lost = len({row["case"] for row in cells(bench, "cases", "lame") if row["problem"]})
    for row in bench.table("scores"):
        if row["model"] == "lame":
            assert int(row["without_mask"]) == lost
            assert float(row["dice_mean"]) == pytest.approx(float(row["dice_mean_of_solved"]) * (1 - lost / CASES))
    assert any(f"lame has no mask of {lost} cases, where it is last" in note for note in facts["notes"])


def test_slices_are_measured_in_their_plane(tmp_path: Path) -> None:
    """DICOM slices; references as arrays and as pictures, whose values have names of their own."""
    samples = REPO / "registry/contributions/phantom-lesion/contrib_src/sample_data"
    (tmp_path / "data").mkdir()
    for path in samples.glob("*.dcm"):
        shutil.copy(path, tmp_path / "data")
    wanted = {number: np.load(samples / f"expected/slice-0{number}.dcm.0.npy") for number in (0, 1, 2)}
    moved = np.roll(wanted[0], 2, axis=1)
    np.save(tmp_path / "0.npy", (moved * 255).astype(np.uint8))
    Image.fromarray((wanted[1] * 255).astype(np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(np.stack([wanted[2]] * 3, axis=-1).astype(np.uint8)).save(tmp_path / "2.png")
    rows = [(f"slice-0{number}.dcm", f"{number}.{kind}") for number, kind in ((0, "npy"), (1, "png"), (2, "png"))]
    known = table(tmp_path / "r.csv", ("file", "mask"), rows)
    (tmp_path / "r.yaml").write_text("labels: {255: lesion}")
    words = ["benchmark", "segment", "--models", "phantom-lesion", "--data", tmp_path / "data", *HERE]
    facts = Here(tmp_path).json(*words, "--reference", known, "--regions", "r.yaml", code=3)
    coloured = "the reference has colours or channels; one number for each voxel is needed"
    assert facts["left_out"] == {"slice-02.dcm": coloured}
    bench = Bench(tmp_path, known, [], facts)
    first, second = records(tmp_path / "benchmark-segment/tables/cases.csv")
    assert (float(second["dice"]), float(second["hd95"])) == (1.0, 0.0) and bench.facts["unit"] == "mm"
    from pydicom import dcmread

    spacing = tuple(map(float, dcmread(samples / "slice-00.dcm").PixelSpacing))
    found = wanted[0].astype(bool)
    assert float(first["hd95"]) == pytest.approx(hd95(moved.astype(bool), found, spacing), abs=1e-6)


def test_pictures_have_no_millimetres_and_are_not_mixed_with_volumes(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    (tmp_path / "data").mkdir()
    for number in range(3):
        grey = random.integers(0, 256, (20, 24)).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"data/{number}.png")
        Image.fromarray((grey > 100).astype(np.uint8) + (grey > 200)).save(tmp_path / f"{number}-truth.png")
    known = table(tmp_path / "r.csv", ("file", "mask"), [(f"{number}", f"{number}-truth.png") for number in range(3)])
    here, words = Here(tmp_path), ["benchmark", "segment", "--models", THRESHOLD, "--data", "data", *HERE]
    several = here(*words, "--reference", known)
    assert several.code == 2 and "has the outputs 'mask' (mask_image)" in several.err and "--output NAME" in several.err
    facts = here.json(*words, "--reference", known, "--output", "mask")
    assert facts["unit"] == "voxels" and "The inputs have no spacing: distances are in voxels." in facts["notes"]
    assert {row["dice_mean"] for row in facts["tables"]["scores"]} == {1.0}
    (tmp_path / "r.yaml").write_text("{labels: {1: grey, 2: white}}")
    silent = here.json(*words, "--reference", known, "--output", "silent", "--regions", "r.yaml", code=3)
    assert any("threshold does not say what its labels mean" in note for note in silent["notes"])
    assert any("threshold has no mask of 3 cases" in n and 'no "axes" are declared' in n for n in silent["notes"])
    assert [row["without_mask"] for row in silent["tables"]["ranking"]] == [3]
    volume = nibabel.Nifti1Image(random.integers(0, 256, (8, 9, 10)).astype(np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    nibabel.save(volume, tmp_path / "data/3.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 9, 10), np.uint8), volume.affine), tmp_path / "3-truth.nii")
    rows = [*((str(number), f"{number}-truth.png") for number in range(3)), ("3", "3-truth.nii")]
    words += ["--outdir", "mixed", "--output", "mask", "--reference", table(known, ("file", "mask"), rows)]
    mixed = here(*words)
    assert mixed.code == 4 and "The inputs of 3 cases have no spacing (0, 1, 2), and others have" in mixed.err


# -- what is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--models", "digits-cnn,digits-cnn"], 2, "names two models that are called digits-cnn"),
        (["--models", "digits-cnn,"], 2, "names a model without a name"),
        (["--models", "digits-cn"], 4, "There is no model 'digits-cn'. Did you mean 'digits-cnn'"),
        (["--models", "digits-embedding"], 2, "has the outputs 'features' .vector.. The one to judge must be a label"),
        (["--models", "digits-cnn", "--output", "other"], 2, "--output other: none of the models has an output of"),
        (["--models", "phantom-lesion", "--output", "mask"], 2, "'mask' .mask_image.*The one to judge must be a label"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(
    words: list[str], code: int, message: str, classified: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--data", str(classified.folder / "data"), "--labels", str(classified.known), *HERE]
    assert main(["benchmark", "classify", *words, *fixed, "--outdir", str(tmp_path / "out")]) == code
    assert re.search(message, capfd.readouterr().err) and not (tmp_path / "out").exists()


def test_labels_that_contradict_each_other_are_told_before_anything_runs(segmented: Bench, tmp_path: Path) -> None:
    words = ["benchmark", "segment", "--models", "phantom-brats,phantom-lesion", "--data", segmented.folder / "data"]
    done = Here(tmp_path)(*words, "--reference", segmented.known, *HERE)
    assert done.code == 4 and "phantom-brats and phantom-lesion number their labels differently" in done.err
    assert done.out == "" and not list(tmp_path.iterdir())


def test_what_is_missing_is_said_before_anything_runs(
    classified: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from modelhub_hpc.cli import benchmarking

    monkeypatch.setattr(benchmarking, "_NEEDED", {"json": "json", "no_such_module": "no-such-module"})
    words = [*classified.words[:-1], str(tmp_path / "out"), "--labels", str(classified.known)]
    assert main(words) == 5
    said = capfd.readouterr().err
    assert "Benchmarks need no-such-module. Install it:  pip install 'modelhub-hpc[results]'" in said
    assert not (tmp_path / "out").exists()
