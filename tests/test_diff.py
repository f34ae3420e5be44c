"""Two runs compared: case by case, output by output, within tolerances."""

from __future__ import annotations

import csv
import io
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import digitruns
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from runkit import Here, local_run
from shardkit import PLAN, RUN
from test_export import ARRAYS

from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.evaluation import differences
from modelhub_hpc.evaluation.outputs import OutputDifference, Stored, Tolerance, Verdict, difference
from modelhub_hpc.record import ArrayOutput, CaseResult, LabelList, Output, RunPaths, ShardWriter
from modelhub_hpc.runs import reading

NAMES = ["a", "b", "c d", "é", "e"]
GRID = {
    "size": (5, 4, 3), "spacing": (1.0, 2.0, 3.0), "origin": (0.0, 0.0, 0.0),
    "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Here:
    """A folder with two runs of one model, one of a model of which a bit has flipped, and one of other cases."""
    made = Here(tmp_path_factory.mktemp("runs"))
    scans = digitruns.inputs(made.folder / "scans", NAMES)
    for name in ("first", "again"):
        digitruns.submit(made, made.folder / name, scans)
    digitruns.submit(made, made.folder / "flipped", scans, model=digitruns.altered(made.folder / "altered"))
    backwards = [(name, scans / f"{name}.png") for name in (*reversed(NAMES[1:]), "new")]
    backwards[-1] = ("new", scans / "a.png")
    digitruns.submit(made, made.folder / "backwards", digitruns.table(made.folder / "cases.csv", backwards))
    return made


def test_the_same_model_finds_the_same(here: Here) -> None:
    done = here("diff", "first", "again")
    assert done.code == 0 and "No difference in 5 cases: to the last bit" in done.out
    facts = here.json("diff", "first", "again")
    assert facts["same"] and facts["cases"] == {"same": 5} and not facts["differences"]


def test_a_flipped_bit_shows_and_is_found(here: Here) -> None:
    facts = here.json("diff", "first", "flipped", code=3)
    assert not facts["same"] and facts["runs"][0]["model_digest"] != facts["runs"][1]["model_digest"]
    first, flipped = (
        {case["case"]: _probabilities(case) for case in here.json("results", run)} for run in ("first", "flipped")
    )
    found = {case["case_id"]: case["outputs"][0] for case in facts["differences"]}
    for name, ours in first.items():
        theirs = flipped[name]
        apart = {label: abs(ours[label] - theirs[label]) for label in ours}
        far = sum(apart[each] > 1e-8 + 1e-5 * max(ours[each], theirs[each]) for each in ours)
        assert (name in found) == bool(far)
        if far:
            assert (found[name]["different"], found[name]["values"]) == (far, 10)
            assert found[name]["largest"] == pytest.approx(max(apart.values()))
    assert found and facts["cases"]["different"] == len(found)
    done = here("diff", "first", "flipped")
    assert done.code == 3 and f"{len(found)} of 5 cases differ" in done.out and "model digest" in done.out


def _probabilities(case: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in case["outputs"][0]["prediction"]}


def test_wide_tolerances_forgive(here: Here) -> None:
    facts = here.json("diff", "first", "flipped", "--atol", "1")
    assert facts["same"] and facts["cases"]["close"]


def test_cases_belong_together_by_their_ids_in_any_order(here: Here) -> None:
    facts = here.json("diff", "first", "backwards", code=3)
    assert facts["outputs"]["probabilities"]["verdicts"] == {"same": 4}
    states = {(each["first"], each["second"]): each["cases"] for each in facts["statuses"]}
    assert states == {("done", "done"): 4, ("done", ""): 1, ("", "done"): 1}
    assert {case["case_id"] for case in facts["differences"]} == {"a", "new"}


def test_a_few_cases_at_a_time_are_all_cases(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [reading.read(here.folder / name) for name in ("first", "backwards")]
    whole = list(differences.differences(*runs, Tolerance()))
    monkeypatch.setattr(differences, "_AT_ONCE", 2)
    assert list(differences.differences(*runs, Tolerance())) == whole and len(whole) == 6
    back = {case.case_id: case for case in differences.differences(*reversed(runs), Tolerance())}
    assert {name: (case.second, case.first, case.verdict) for name, case in back.items()} == {
        case.case_id: (case.first, case.second, case.verdict) for case in whole
    }


def test_one_case(here: Here) -> None:
    facts = here.json("diff", "first", "backwards", "--case", "b")
    assert facts["same"] and facts["cases"] == {"same": 1}
    assert here.json("diff", "first", "backwards", "--case", "new", code=3)["statuses"][0]["first"] == ""
    done = here("diff", "first", "again", "--case", "zzz")
    assert done.code == 4 and "Neither run has a case 'zzz'" in done.err


def test_a_table_has_a_row_for_every_case(here: Here) -> None:
    done = here("diff", "first", "backwards", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert done.code == 3 and len(rows) == 6 and {row["verdict"] for row in rows} == {"same", "different"}
    assert here("diff", "first", "backwards", "--csv", "table.csv", "--limit", "0").code == 3
    assert (here.folder / "table.csv").read_text() == done.out
    assert here("diff", "first", "again", "--csv", "nowhere/table.csv").code == 2


def test_cases_that_failed(tmp_path: Path) -> None:
    here = Here(tmp_path)
    orders = {"first": {"a": "OK 1", "b": "FAIL", "c": "FAIL", "d": "OK 1"},
              "second": {"a": "FAIL", "b": "FAIL", "c": "NANARRAY", "d": "OK 2"}}  # fmt: skip
    for name, told in orders.items():
        assert local_run(tmp_path / name, **told).submit().code == 3
    facts = here.json("diff", "first/run", "second/run", code=3)
    states = {(each["first"], each["second"]): each["cases"] for each in facts["statuses"]}
    assert states == {("done", "failed"): 1, ("failed", "failed"): 1, ("failed", "done"): 1, ("done", "done"): 1}
    assert {case["case_id"] for case in facts["differences"]} == {"a", "c", "d"}
    assert facts["cases"] == {"same": 1, "different": 3}


Store = Callable[..., Stored]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Store an array as the only output of a run."""

    def stored(array: Any, kind: str = "image", **attributes: Any) -> Stored:
        paths = RunPaths(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        paths.create()
        with ShardWriter(paths, RUN, PLAN, 0) as shard:
            case = CaseResult("case", 0, "done", (), 0.5, 1, None, (), "host", 1.0)
            result = shard.add(case, {"out": ArrayOutput(np.asarray(array), kind, "", attributes)})
            assert shard.publish()
        return Stored(paths, result.outputs[0])

    return stored


def compare(a: Stored, b: Stored, tolerance: Tolerance = Tolerance(), **labels: str) -> OutputDifference:
    """The comparison, which is the same in both directions."""
    spec = OutputSpec("out", "image", "", "", labels)
    there, back = (difference(spec, *pair, tolerance) for pair in ((a, b), (b, a)))
    for name in ("verdict", "values", "unequal", "different", "largest", "largest_relative", "dice", "place"):
        assert getattr(there, name) == getattr(back, name)
    return there


NUMBERS = st.sampled_from([0.0, 1.0, 1.000001, 1.0001, -1.0, 1e-9, math.nan, math.inf, -math.inf, 1e30])
VECTORS = arrays("float64", 8, elements=NUMBERS)


@given(a=VECTORS, b=VECTORS)
def test_tolerances_are_those_that_are_promised(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> None:
    tolerance = Tolerance(1e-4, 1e-8)
    plain = [[None if math.isnan(x) else x for x in each.tolist()] for each in (a, b)]
    values = [Output("out", "vector", "", (8,), each) for each in plain]
    far = unequal = 0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        if math.isnan(x) or math.isnan(y):  # which stand there as null
            continue
        unequal += x != y
        far += x != y and not (math.isfinite(x - y) and abs(x - y) <= 1e-8 + 1e-4 * max(abs(x), abs(y)))
    nowhere = RunPaths(Path("/nonexistent"))
    found = compare(*(Stored(nowhere, each) for each in values), tolerance)
    assert (found.unequal, found.different) == (unequal, far)
    assert ("NaN" in found.reasons) == any(math.isnan(x) != math.isnan(y) for x, y in zip(a, b))


def test_in_arrays_nan_equals_nan_and_nothing_else(store: Store) -> None:
    a = store(np.array([np.nan, np.nan, np.inf, 1, 2], "float32"))
    b = store(np.array([np.nan, 1, np.inf, 1, -np.inf], "float32"))
    found = compare(a, b)
    assert (found.verdict, found.values, found.unequal, found.different) == (Verdict.DIFFERENT, 5, 2, 2)
    assert compare(a, a).verdict is Verdict.SAME


@pytest.mark.parametrize("kind", ["uint8", "int32", "uint64", "bool"])
def test_whole_numbers_have_to_be_equal(store: Store, kind: str) -> None:
    a = np.full((3, 4), 100, kind)
    b = a.copy()
    b[1, 2] = False if kind == "bool" else 99
    found = compare(store(a), store(b), Tolerance(1.0, 1000.0))
    assert (found.verdict, found.unequal, found.different, found.largest) == (Verdict.DIFFERENT, 1, 1, 1.0)


def test_what_differs_in_kind(store: Store) -> None:
    array = np.arange(60, dtype="float32").reshape(3, 4, 5)
    one = store(array, axes="z,y,x", **GRID)
    other = compare(one, store(array.astype("float64"), axes="z,y,x", **GRID))
    assert (other.verdict, other.reasons, other.unequal) == (Verdict.DIFFERENT, ("dtype float32, float64",), 0)
    assert compare(one, store(array[:2], axes="z,y,x", **GRID)).reasons == ("shape 3 x 4 x 5, 2 x 4 x 5",)
    assert compare(one, store(array, axes="z,y,x", **{**GRID, "origin": (0.0, 0.5, 0.0)})).reasons == ("geometry",)
    assert compare(one, store(array, axes="z,y,x")).reasons == ("geometry in one run only",)
    assert compare(one, store(array, axes="x,y,z", **GRID)).reasons == ("axes z,y,x, x,y,z",)
    assert compare(one, store(array, "heatmap", axes="z,y,x", **GRID)).reasons == ("type image, heatmap",)
    assert compare(one, store(np.full((3, 4, 5), "x"), axes="z,y,x", **GRID)).verdict is Verdict.DIFFERENT
    assert compare(store(["a", "ü"]), store(["a", "u"])).different == 1


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_any_kind_are_compared(store: Store, name: str) -> None:
    array = ARRAYS[name]
    other = array.copy()
    found = compare(store(array), store(other))
    assert (found.verdict, found.values, found.reasons) == (Verdict.SAME, array.size, ())
    if array.size:
        place = (0,) * array.ndim
        zero, one = np.zeros((), array.dtype), np.ones((), array.dtype)
        other[place] = zero if array.flat[0] != zero else one
        found = compare(store(array), store(other))
        assert (found.verdict, found.unequal, found.different) == (Verdict.DIFFERENT, 1, 1)
        assert found.place == place


def test_the_largest_difference_has_a_place(store: Store) -> None:
    a = np.zeros((3, 700, 1000), "float32")  # of several pieces
    b = a.copy()
    b[0, 1, 2], b[1, 600, 3], b[2, 699, 999] = 1.0, 5.0, np.nan
    found = compare(store(a), store(b))
    assert (found.place, found.largest, found.different) == ((1, 600, 3), 5.0, 3)


def test_masks_have_a_dice_for_each_label(store: Store) -> None:
    random = np.random.default_rng(1)
    a, b = (random.integers(0, 3, (20, 30, 40)).astype("uint8") for _ in range(2))
    found = compare(store(a, "mask_image"), store(b, "mask_image"), **{"1": "liver"})
    names = {1: "liver", 2: "2"}
    wanted = {names[n]: 2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum()) for n in names}
    assert found.dice == pytest.approx(wanted) and found.different == (a != b).sum()
    assert compare(store(a, "mask_image"), store(a, "mask_image")).dice == {}


def test_an_array_of_any_size_is_compared_in_little_memory(store: Store) -> None:
    a = np.zeros((40, 2**20), "uint8")
    b = a.copy()
    b[-1, -1] = 7
    stored = store(a), store(b)
    tracemalloc.start()
    found = difference(None, *stored, Tolerance())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.unequal == 1 and found.values == a.size and peak < 24 * 2**20


def labels(**probabilities: float | None) -> Stored:
    entries = [{"label": name, "probability": value} for name, value in probabilities.items()]
    return Stored(RunPaths(Path("/nonexistent")), Output("out", "label_list", "", (len(entries),), entries))


def test_labels_are_compared_by_name(store: Store) -> None:
    assert compare(labels(cat=0.25, dog=0.75), labels(dog=0.75, cat=0.25)).verdict is Verdict.SAME
    found = compare(labels(cat=0.25, dog=0.75), labels(dog=0.25, cat=0.75))
    assert (found.top, found.different, found.largest) == (("dog", "cat"), 2, 0.5)
    assert compare(labels(cat=1.0), labels(cow=1.0)).reasons == ("labels",)
    assert compare(labels(cat=None), labels(cat=None)).verdict is Verdict.SAME
    assert compare(labels(cat=None), labels(cat=1.0)).reasons == ("NaN",)
    long = LabelList(("cat", "dog"), (0.25, 0.75))
    same = Stored(RunPaths(Path("/nonexistent")), Output("out", "label_list", "", (2,), long))
    assert compare(same, labels(dog=0.75, cat=0.25)).verdict is Verdict.SAME


def test_values_of_any_form_are_compared(store: Store) -> None:
    def value(given: Any) -> Stored:
        return Stored(RunPaths(Path("/nonexistent")), Output("out", "custom", "", (), given))

    assert compare(value({"a": [1, 2.0]}), value({"a": [1.0, 2]})).verdict is Verdict.SAME
    assert compare(value({"a": [1, 2]}), value({"a": [1]})).reasons == ("length",)
    assert compare(value({"a": "x"}), value({"a": "y"})).reasons == ("text",)
    assert compare(value(True), value(1)).verdict is Verdict.DIFFERENT
    assert compare(value(None), value(None)).verdict is Verdict.SAME
    assert compare(value([1.0]), store([1.0], "custom")).reasons == ("an array in one run only",)
