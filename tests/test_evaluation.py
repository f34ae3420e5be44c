"""What benchmarks measure: against definitions written out, other libraries, and simulations of what is promised."""

from __future__ import annotations

import csv
import doctest
import itertools
import json
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from grounds import REPO

from modelhub_hpc.errors import InvalidError, UsageError
from modelhub_hpc.evaluation import classification, classification_tables, contestants, metrics, proportions
from modelhub_hpc.evaluation import ranking, tables, truth
from modelhub_hpc.evaluation.classification import Answer, Score, Vocabulary
from modelhub_hpc.evaluation.contestants import Contestant
from modelhub_hpc.evaluation.figures import Bar, accuracy, write
from modelhub_hpc.evaluation.metrics import measures, worst
from modelhub_hpc.evaluation.proportions import Proportion, mcnemar
from modelhub_hpc.evaluation.regions import BRATS, Scheme, plan, scheme_of
from modelhub_hpc.evaluation.tables import Table
from modelhub_hpc.models import entry
from modelhub_hpc.plan import Case

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import surface_distance
    from surface_distance import lookup_tables

Mask = npt.NDArray[np.bool_]
GRIDS = [((7, 9, 8), (1.0, 1.0, 1.0)), ((6, 8, 10), (3.0, 0.7, 1.3)), ((9, 11), (2.5, 0.4))]


def blob(random: np.random.Generator, shape: tuple[int, ...]) -> Mask:
    """A box and a few voxels elsewhere."""
    mask = random.random(shape) < 0.02
    first = [int(random.integers(0, length - 2)) for length in shape]
    last = [int(random.integers(start + 1, length)) + 1 for start, length in zip(first, shape)]
    mask[tuple(slice(start, end) for start, end in zip(first, last))] = True
    return mask


@pytest.mark.parametrize("module", [classification, metrics, proportions, ranking, tables, truth, contestants])
def test_examples_in_docstrings(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


# -- masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_overlap_is_what_its_definition_says(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    from sklearn.metrics import confusion_matrix, f1_score, recall_score

    random = np.random.default_rng(1)
    for _ in range(20):
        found, wanted = blob(random, shape), blob(random, shape)
        measured = measures(found, wanted, spacing)
        flat = wanted.ravel(), found.ravel()
        (tn, fp), _ = confusion_matrix(*flat)
        assert measured.dice == pytest.approx(f1_score(*flat), abs=1e-12)
        assert measured.sensitivity == pytest.approx(recall_score(*flat), abs=1e-12)
        assert measured.specificity == pytest.approx(tn / (tn + fp), abs=1e-12)


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_hd95_is_that_of_surface_distance_and_of_its_definition(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        found, wanted = blob(random, shape), blob(random, shape)
        measured = measures(found, wanted, spacing).hd95
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            distances = surface_distance.compute_surface_distances(wanted, found, spacing)
        assert measured == pytest.approx(surface_distance.compute_robust_hausdorff(distances, 95), abs=1e-6)
        assert measured == pytest.approx(by_brute_force(found, wanted, spacing), abs=1e-6)


def by_brute_force(found: Mask, wanted: Mask, spacing: tuple[float, ...]) -> float:
    """From every surface element of one mask to all of the other's; 95 % of the surface is not farther."""
    (a, area_a), (b, area_b) = surface(found, spacing), surface(wanted, spacing)
    apart = np.linalg.norm(a[:, np.newaxis] - b, axis=2)
    return max(percentile(apart.min(axis=1), area_a), percentile(apart.min(axis=0), area_b))


def surface(mask: Mask, spacing: tuple[float, ...]) -> tuple[Any, Any]:
    """Places between voxels of which some are in the mask, and the area or length of the surface there."""
    deep = mask.ndim == 3
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL if deep else lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL
    areas = (
        lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
        if deep
        else lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    )
    padded, places, weights = np.pad(mask, 1), [], []
    for corner in itertools.product(*(range(length + 1) for length in mask.shape)):
        block = padded[tuple(slice(at, at + 2) for at in corner)]
        if block.any() and not block.all():
            places.append(np.multiply(corner, spacing))
            weights.append(areas[int((np.asarray(kernel) * block).sum())])
    return np.array(places), np.array(weights)


def percentile(distances: Any, weights: Any) -> float:
    order = np.argsort(distances)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(distances[order][np.searchsorted(share, 0.95 - 1e-12)])


def test_a_block_that_is_moved_is_as_far_off_as_it_was_moved() -> None:
    wanted = np.zeros((12, 12, 12), bool)
    wanted[2:8, 2:8, 2:8] = True
    moved = np.roll(wanted, 3, axis=0)
    assert measures(moved, wanted, (2.0, 1.0, 1.0)).hd95 == pytest.approx(6.0)
    assert measures(moved, wanted, (2.0, 1.0, 1.0)).dice == pytest.approx(0.5)


def test_one_plane_of_a_volume_is_measured_as_a_plane() -> None:
    random = np.random.default_rng(3)
    found, wanted = blob(random, (9, 11)), blob(random, (9, 11))
    flat = measures(found[np.newaxis], wanted[np.newaxis], (5.0, 2.5, 0.4))
    assert flat == measures(found, wanted, (2.5, 0.4))


def test_empty_masks_have_the_values_of_the_challenge() -> None:
    empty, some = np.zeros((155, 240, 240), bool), np.zeros((155, 240, 240), bool)
    some[70:80, 100:110, 100:110] = True
    spacing = (1.0, 1.0, 1.0)
    both = measures(empty, empty, spacing)
    assert (both.dice, both.hd95, both.sensitivity, both.specificity) == (1.0, 0.0, None, 1.0)
    missed, invented = measures(empty, some, spacing), measures(some, empty, spacing)
    assert round(missed.hd95, 2) == round(invented.hd95, 2) == 373.13
    assert (missed.dice, missed.sensitivity) == (0.0, 0.0) and (invented.dice, invented.sensitivity) == (0.0, None)
    assert round(worst(some, spacing).hd95, 2) == 373.13 and worst(empty, spacing).sensitivity is None
    full = np.ones((3, 3), bool)
    assert measures(full, full, (1.0, 1.0)).specificity is None


# -- shares -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.03, 0.1, 0.3, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("n", [50, 200, 899])
def test_intervals_hold_the_truth_as_often_as_they_promise(p: float, n: int) -> None:
    draws = np.random.default_rng(round(1000 * p) + n).binomial(n, p, 4000)
    inside = {count: low <= p <= high for count in set(draws) for low, high in [Proportion(int(count), n).interval]}
    covered = np.mean([inside[count] for count in draws])
    assert 0.92 <= covered <= 0.985


def test_intervals_on_average_hold_what_they_promise() -> None:
    random = np.random.default_rng(4)
    inside = []
    for p in random.uniform(0.02, 0.98, 600):
        low, high = Proportion(int(random.binomial(100, p)), 100).interval
        inside.append(low <= p <= high)
    assert abs(np.mean(inside) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 600)


def test_the_interval_of_the_formula() -> None:
    z, n, count = 1.959963984540054, 899, 890
    p = count / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = Proportion(count, n).interval
    assert (low, high) == pytest.approx(((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)))


def test_mcnemar_is_a_coin_thrown_for_each_case_that_differs() -> None:
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * sum([1, 10]) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)


# -- ranking ------------------------------------------------------------------------------------------------------


def test_ranks_are_averaged_over_criteria_and_ties_share_them() -> None:
    better, equal, none = [1.0, 2.0, 3.0], [5.0, 5.0, 1.0], [np.inf, 4.0, np.inf]
    assert ranking.case_ranks(np.array([[better]])).tolist() == [[1, 2, 3]]
    assert ranking.case_ranks(np.array([[equal]])).tolist() == [[2.5, 2.5, 1]]
    assert ranking.case_ranks(np.array([[none]])).tolist() == [[2.5, 1, 2.5]]
    both = ranking.case_ranks(np.array([[better, equal], [better, none]]))
    assert both.tolist() == [[1.75, 2.25, 2.0], [1.75, 1.5, 2.75]]
    assert ranking.positions(np.array([2.0, 1.0, 2.0])) == [2.5, 1, 2.5]


def test_the_exact_test_counts_every_permutation() -> None:
    ranks = np.array([[1.0, 2.0], [1.25, 1.75], [1.0, 2.0], [2.0, 1.0]])
    (found,) = ranking.differences(ranks, seed=0)
    steps = ranks[:, 0] - ranks[:, 1]
    ways = [abs(np.dot(signs, steps)) for signs in itertools.product((1, -1), repeat=4)]
    assert found.exact and found.p == sum(way >= abs(steps.sum()) - 1e-12 for way in ways) / 16
    assert found.difference == pytest.approx(steps.mean())


def test_drawn_permutations_come_to_what_all_of_them_do() -> None:
    random = np.random.default_rng(5)
    ranks = ranking.case_ranks(random.normal(size=(18, 6, 2)) + [0.0, 0.4])
    (drawn,) = ranking.differences(ranks, seed=0)
    steps = ranks[:, 0] - ranks[:, 1]
    numbers = np.arange(2**18)[:, np.newaxis] >> np.arange(18) & 1
    exact = np.mean(np.abs((numbers * 2.0 - 1) @ steps) >= abs(steps.sum()) - 1e-9)
    assert not drawn.exact and abs(drawn.p - exact) < 0.005
    assert ranking.differences(ranks, seed=0) == [drawn] and ranking.differences(ranks, seed=1) != [drawn]


def test_models_that_are_alike_differ_no_more_often_than_promised() -> None:
    random = np.random.default_rng(6)
    # ranks without ties: with them, as in practice, the test is on the safe side
    ps = np.array([ranking.differences(random.normal(size=(10, 2)), 0)[0].p for _ in range(1000)])
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(ps <= level) - level) < 3 * np.sqrt(level * (1 - level) / 1000)
    tied = [ranking.differences(ranking.case_ranks(random.normal(size=(10, 6, 2))), 0)[0].p for _ in range(600)]
    assert np.mean(np.array(tied) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)
    unlike = ranking.case_ranks(random.normal(size=(10, 6, 2)) + [0.0, 3.0])
    assert ranking.differences(unlike, 0)[0].p < 0.01


# -- labels -------------------------------------------------------------------------------------------------------

IMAGENET = ["n01440764 tench, Tinca tinca", "n02012849 crane", "n03126707 crane", "n02123045 tabby, tabby cat"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("n01440764 tench, Tinca tinca", 0),
        ("n01440764", 0),
        ("N01440764 anything else", 0),
        ("tench, tinca  tinca", 0),
        ("Tinca tinca", 0),
        ("n02012849", 1),
        ("n03126707 crane", 2),
        ("TABBY", 3),
        ("2", 2),
        ("02", 2),
        ("4", None),
        ("dog", None),
        ("-1", None),
        ("²", None),
    ],
)
def test_labels_are_found_as_people_write_them(text: str, place: int | None) -> None:
    declared = {str(number): name for number, name in enumerate(IMAGENET)}
    assert Vocabulary(IMAGENET, declared).place(text) == place


def test_a_label_that_is_two_is_not_chosen_from() -> None:
    with pytest.raises(InvalidError, match="'crane' may be any of 1 .*, 2 .*Write its number or its synset"):
        Vocabulary(IMAGENET, {}).place("crane")
    # without synsets a model says nothing that tells them apart but their number
    words = Vocabulary(["tench", "crane", "crane"], {})
    assert words.place("n01440764 tench") == 0
    with pytest.raises(InvalidError, match="may be any of"):
        words.place("n02012849 crane")


def test_names_that_are_numbers_are_names() -> None:
    assert Vocabulary(["3", "1", "2"], {"1": "3", "2": "1", "3": "2"}).place("1") == 1


@pytest.mark.parametrize(
    ("prediction", "names"),
    [
        ([{"label": "x", "probability": 1}], ("x",)),
        ([[{"label": "x", "probability": 1.0}, {"label": 2, "probability": 0.0}]], ("x", "2")),
    ],
)
def test_label_lists_of_every_form(prediction: Any, names: tuple[str, ...]) -> None:
    found = classification._scores(prediction)
    assert found[0] == names and found[1][0] == 1.0  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("prediction", [None, 3, [], [1], "x", {"label": "x"}, [{"p": 1}], [[]], [{"label": 1}]])
def test_what_is_no_label_list_is_told_so(prediction: Any) -> None:
    assert classification._scores(prediction) in ("its answer is no list of labels", "a score is not a number")


def test_scores_of_models_that_have_one_label_or_answered_nothing() -> None:
    one = Score("one", {"a": Answer("x", 1, "x", 0.5), "b": Answer("y", None, "x", 0.1)}, ("x",), ("y",))
    none = Score("none", {"a": Answer("x", problem="crash"), "b": Answer("y", problem="crash")}, ())
    entrants: Any = [Contestant(name, cast(Any, None), 0, None) for name in ("one", "none")]
    table, pairs = classification_tables.tables_of(entrants, [one, none], classification.pairs([one, none]))
    first, second = table.rows
    assert first[1].startswith("50.0 (") and first[3] == "–" and first[5:] == ["300.0", "2", "0"]
    assert second[1].startswith("0.0 (0.0–") and second[5:] == ["–", "2", "2"]
    assert table.records[1]["top1_of_answered"] is None and table.records[0]["top1_of_answered"] == 0.5
    assert pairs.records[0] == {"first": "one", "second": "none", "only_first": 1, "only_second": 0, "p": 1.0}


# -- tables of what is known --------------------------------------------------------------------------------------


def case(name: str, path: str, **columns: str) -> Case:
    return Case(name, (("single", path),), tuple(columns.items()), 0, 0)


def read(path: Path, text: str | bytes, data: Path | None = None) -> truth.Truth:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return truth.read(path, truth.LABELS, [str(data or path.parent)])


def test_cases_are_found_by_id_name_stem_or_path(tmp_path: Path) -> None:
    known = read(tmp_path / "a.csv", "file,label\none.png,1\ntwo,2\nsub/three.png,3\nscan.nii,4\nmy id,5\n")
    rows = [known.row(each) for each in cases_of(tmp_path)]
    assert [row.value if row else None for row in rows] == ["1", "2", "3", None, "5"]
    known = read(tmp_path / "a.csv", f"path;target\r\n{tmp_path}/one.png;x\r\n")
    assert known.row(cases_of(tmp_path)[0]) == truth.Row(f"{tmp_path}/one.png", "x", 2)


def cases_of(folder: Path) -> list[Case]:
    return [
        case("one", f"{folder}/one.png"),
        case("two-a1", f"{folder}/deep/two.nii.gz"),
        case("three", f"{folder}/sub/three.png"),
        case("scan", f"{folder}/scan.nii.gz"),
        case("my_id-0b", f"{folder}/x.png", original_case_id="my id"),
    ]


def test_a_row_that_fits_two_cases_is_refused(tmp_path: Path) -> None:
    known = read(tmp_path / "a.csv", "file,label\nx.png,1\n")
    both = [(case("x-1", "/a/x.png"), None), (case("x-2", "/b/x.png"), None)]
    with pytest.raises(InvalidError, match="line 2: x.png fits two cases, x-1 and x-2"):
        list(truth.matched(known, both))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1\nb.png,2\n", "line 1: no header.*'a.png, 1'.*file,label"),
        ("", "line 1: no header"),
        ("file,label\n", "no rows below the header"),
        ("file,label\na,1\nb,2\na,1\n", "line 4: a stands on line 2 already"),
        ("file,label\na\n", "line 2: 1 columns, but the first line names 2"),
        ("file,label\na,\n", "line 2: nothing in column label"),
        ("file,label\n ,1\n", "line 2: nothing in column file"),
        ('file,label\na,"1\n', "not a CSV row"),
        ("file,label\na,1\n".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_tables_that_cannot_be_used_say_why(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=f"(?s)a.csv, .*{message}"):
        read(tmp_path / "a.csv", text)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="No such file"):
        truth.read(tmp_path / "none.csv", truth.LABELS, [])


# -- regions ------------------------------------------------------------------------------------------------------


def test_brats_has_the_regions_of_the_challenge() -> None:
    names = ("mic-dkfz-brats", "lfb-rwth-brats", "deepscan-brats", "phantom-brats")
    cards = {name: entry.read(REPO / f"registry/models/{name}.json") for name in names}
    found = plan(BRATS, [(name, card.io.outputs[0].labels or {}) for name, card in cards.items()])
    named = {each.name: (set(each.truth), each.ranked) for each in found.regions}
    assert named == {
        "whole tumour": ({1, 2, 4}, True),
        "tumour core": ({1, 4}, True),
        "enhancing tumour": ({4}, True),
        "non-enhancing core": ({1}, False),
        "oedema": ({2}, False),
    }
    assert found.notes == () and all(set(each.found) == {each.truth} for each in found.regions)


@pytest.mark.parametrize("labels", [{"1": "core", "2": "oedema", "3": "enhancing"}, {"1": "liver", "2": "a", "4": "b"}])
def test_labels_that_are_not_those_of_brats_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match="The regions 'brats' take label . for"):
        plan(BRATS, [("other", labels)])


def test_structures_are_found_by_their_names_in_every_model(tmp_path: Path) -> None:
    first, second = {"1": "Liver", "2": "spleen", "3": "vein"}, {"1": "spleen", "5": "liver"}
    with pytest.raises(InvalidError, match="(?s)first and second number their labels differently.*--regions FILE"):
        plan(Scheme(), [("first", first), ("second", second)])
    (tmp_path / "r.yaml").write_text("labels: {7: spleen, 8: liver}\nregions: {both: [liver, spleen]}\n")
    found = plan(scheme_of(str(tmp_path / "r.yaml")), [("first", first), ("second", second)])
    assert {each.name: (set(each.truth), [set(some) for some in each.found]) for each in found.regions} == {
        "both": ({7, 8}, [{1, 2}, {1, 5}]),
        "spleen": ({7}, [{2}, {1}]),
        "liver": ({8}, [{1}, {5}]),
    }
    assert [each.name for each in found.regions if each.ranked] == ["both"]


def test_without_regions_models_are_ranked_by_structures_that_all_have() -> None:
    found = plan(Scheme(), [("first", {"1": "liver", "2": "spleen"}), ("second", {"1": "Liver"})])
    assert [(each.name, each.ranked) for each in found.regions] == [("liver", True)]
    assert found.notes == ("spleen is not measured by itself: second has no label of that name.",)


def test_labels_that_nobody_declares(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="Neither silent nor its card says"):
        plan(Scheme(), [("silent", {})])
    found = plan(Scheme(labels={1: "lesion"}), [("silent", {})])
    assert found.regions[0].found == (frozenset({1}),) and "silent does not say" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "has other keys"),
        ("region: {a: [1]}", "has other keys"),
        ("regions: {a: 1}", "has regions that are not"),
        ("regions: {a: []}", "has regions that are not"),
        ("labels: {a: b}", "has labels that are not"),
        ("labels: {0: background}", "has labels that are not"),
        ("regions: {a: [x}", "is no YAML"),
        ("a: &a [*a]", "other keys"),
    ],
)
def test_files_of_regions_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        scheme_of(str(tmp_path / "r.yaml"))


def test_a_region_of_a_label_that_a_model_lacks() -> None:
    with pytest.raises(InvalidError, match="one has the labels 1 core.*and no 'brain'"):
        plan(Scheme(labels={1: "core", 2: "brain"}, regions={"all": ["core", "brain"]}), [("one", {"1": "core"})])
    with pytest.raises(UsageError, match="No such file.*or brats"):
        scheme_of("/none/brats.yaml")


# -- tables and figures -------------------------------------------------------------------------------------------

HOSTILE = "50 % of $x_1$ & {y}~^\\ | `<b>`\n#1"


def test_tables_say_the_same_in_every_form(tmp_path: Path) -> None:
    records = [{"model": HOSTILE, "a": 1 / 3}]
    Table("t", HOSTILE, ("Model", "a (%)"), [[HOSTILE, "1.0–2.0 ± 1"]], records, [HOSTILE]).write(tmp_path)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as stream:
        assert list(csv.DictReader(stream)) == [{"model": HOSTILE, "a": repr(1 / 3)}]
    markdown = (tmp_path / "t.md").read_text()
    assert [line.count("|") - line.count("\\|") for line in markdown.splitlines() if line.startswith("|")] == [3, 3, 3]
    assert "| --- | --: |" in markdown and "\\<b\\>" in markdown
    latex = (tmp_path / "t.tex").read_text()
    shown = r"50 \% of \$x\_1\$ \& \{y\}\textasciitilde{}\textasciicircum{}\textbackslash{} |"
    assert latex.count(shown) == 3 and r"1.0--2.0 $\pm$ 1 \\" in latex


def test_figures_are_the_same_files_each_time_and_take_any_name(tmp_path: Path) -> None:
    bars = [Bar("$x_1$ <&> \u4f60", Proportion(9, 10), 95.0), Bar("b", None, None)]
    for name in ("a", "b"):
        write(accuracy([("Top-1", bars)]), tmp_path, name)
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert "<text" not in (tmp_path / "a.svg").read_text()


def test_what_a_card_reports() -> None:
    card = entry.read(REPO / "registry/models/googlenet.json")
    assert contestants.reported(card, "top-1 accuracy in %") is None  # which its authors do not give
    found = contestants.reported(card, "top-5 accuracy in %")
    assert found is not None and found.reported == 93.3
    assert contestants.reported(None, "accuracy in %") is None
    assert json.dumps(found.dataset) == '"ILSVRC2012 validation"'
