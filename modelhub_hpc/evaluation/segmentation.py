"""Masks against references: every case, model and region, and what could not be measured and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import inputs, viewing
from modelhub_hpc.errors import InputError, InvalidError, UsageError, count_of, shown, times
from modelhub_hpc.evaluation.contestants import Contestant
from modelhub_hpc.evaluation.metrics import Mask, Measures, measures, worst
from modelhub_hpc.evaluation.ranking import Floats
from modelhub_hpc.evaluation.regions import BACKGROUND, Labels, Plan
from modelhub_hpc.evaluation.truth import Truth, few, matched
from modelhub_hpc.inputs import Geometry, InputLimits
from modelhub_hpc.plan import Case
from modelhub_hpc.record import CaseResult, load_volume

_Voxels = npt.NDArray[Any]


class Unusable(Exception):
    """Why a reference, or an output, cannot be measured."""


@dataclass(frozen=True)
class Entrant:
    """A case as one model had it."""

    case: Case
    result: CaseResult | None


@dataclass(frozen=True)
class Reference:
    """A label map on the grid of a case's input: z, y, x as stored.

    spacing: in that order, mm; 1 where it is not known.
    """

    voxels: _Voxels
    geometry: Geometry | None

    @property
    def spacing(self) -> tuple[float, ...]:
        return self.geometry.spacing[::-1] if self.geometry else (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class CaseScore:
    """Of one case. measures: by region, of each model; problems: of each model, "" for none.

    A model with a problem has the worst of all values. millimetres: whether distances are in mm, or in voxels.
    """

    name: str
    measures: Mapping[str, tuple[Measures, ...]]
    problems: tuple[str, ...]
    millimetres: bool


@dataclass(frozen=True)
class Scores:
    """cases: those that could be measured. left_out: why the others could not, whatever the models did."""

    models: tuple[str, ...]
    plan: Plan
    cases: tuple[CaseScore, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return "mm" if self.cases[0].millimetres else "voxels"

    @property
    def middling(self) -> str:
        """The case that is neither good nor bad: of median Dice, among those that most models have solved."""
        ranked = [each.name for each in self.plan.regions if each.ranked]

        def dice(case: CaseScore) -> float:
            return float(np.mean([each.dice for region in ranked for each in case.measures[region]]))

        most = max(case.problems.count("") for case in self.cases)
        best = sorted((case for case in self.cases if case.problems.count("") == most), key=dice)
        return best[len(best) // 2].name

    def penalties(self) -> Floats:
        """What models are ranked by: (case, criterion, model), smaller is better, infinity for a model without.

        The criteria are Dice and HD95 of each region. Sensitivity and specificity are none: the one can be bought
        with the other.
        """
        return np.array([[*_criteria(each, self.plan)] for each in self.cases], np.float64)


def _criteria(score: CaseScore, plan: Plan) -> Iterator[list[float]]:
    for region in plan.regions:
        if region.ranked:
            solved = list(zip(score.measures[region.name], score.problems))
            yield [np.inf if problem else -each.dice for each, problem in solved]
            yield [np.inf if problem else each.hd95 for each, problem in solved]


@dataclass(frozen=True)
class Drawing:
    """A case to be looked at. regions: of each the reference and the models' masks, None for a model without."""

    name: str
    ground: viewing.Image
    geometry: Geometry | None
    regions: Mapping[str, tuple[Mask, Sequence[Mask | None]]]


@dataclass(frozen=True)
class Study:
    """Models with their runs, the table of references, and what is to be measured."""

    contestants: tuple[Contestant, ...]
    truth: Truth
    plan: Plan

    @cached_property
    def _matched(self) -> tuple[dict[str, list[Entrant | None]], list[str]]:
        found: dict[str, list[Entrant | None]] = {}
        unmatched: dict[str, None] = {}
        for place, contestant in enumerate(self.contestants):
            for row, case, result in matched(self.truth, contestant.reading.joined()):
                if row is None:
                    unmatched[case.id] = None
                else:
                    found.setdefault(row.name, [None] * len(self.contestants))[place] = Entrant(case, result)
        return {name: found[name] for name in self.truth.rows if name in found}, list(unmatched)

    @property
    def entrants(self) -> Mapping[str, Sequence[Entrant | None]]:
        """Of each row of the table that is that of a case, what each model made of it."""
        return self._matched[0]

    @property
    def unmatched(self) -> Sequence[str]:
        """The cases that have no row."""
        return self._matched[1]

    def case(self, name: str) -> Case:
        return next(each.case for each in self.entrants[name] if each is not None)

    def reference(self, name: str) -> Reference:
        """The label map of a row, held to the labels, and to the grid of the case's input. Raises Unusable."""
        row = self.truth.rows[name]
        places = [os.path.join(folder, row.value) for folder in self.truth.folders]
        path = next(filter(os.path.exists, places), None)
        if path is None:
            raise Unusable(f"there is no file {row.value}")
        image = _image(path, "the reference")
        shape, place = _grid_of(self.case(name).inputs[0][1])
        _same_grid(image.voxels.shape, image.geometry, shape, place, "input")
        return Reference(_labels(image.voxels, self.plan.labels, "the reference"), place)

    def drawing(self, name: str, order: Sequence[int]) -> Drawing:
        """A case of `entrants` to be drawn, the models in that order; UsageError where its reference is of no use."""
        try:
            reference = self.reference(name)
        except Unusable as problem:
            raise UsageError(f"--case {shown(name)} was not measured: {shown(problem)}") from problem
        masks = self.masks(name, reference)
        drawn: dict[str, tuple[Mask, Sequence[Mask | None]]] = {}
        for region in filter(lambda each: each.ranked, self.plan.regions):
            both = zip(masks, region.found)
            found = [None if isinstance(mask, Unusable) else within(mask, labels) for mask, labels in both]
            drawn[region.name] = within(reference.voxels, region.truth), [found[place] for place in order]
        try:
            ground = viewing.read(self.case(name).inputs[0][1])
        except viewing.Unviewable:
            ground = viewing.Image(np.zeros(reference.voxels.shape, np.uint8), reference.geometry, (0, 255))
        return Drawing(name, ground, reference.geometry, drawn)

    def masks(self, name: str, reference: Reference) -> list[_Voxels | Unusable]:
        """What each model found, on the grid of the reference; or why that cannot be measured."""
        found: list[_Voxels | Unusable] = []
        for contestant, entrant, labels in zip(self.contestants, self.entrants[name], self.plan.of_models):
            try:
                found.append(_mask(contestant, entrant, reference, labels))
            except Unusable as problem:
                found.append(problem)
        return found


def score(study: Study, progress: Callable[[int], None]) -> Scores:
    """Measure every case that has a reference.

    progress: is told how many cases are measured. Raises InvalidError where none can be, or where some
    distances would be in mm and others not.
    """
    truth = study.truth
    if not study.entrants:
        found = f"its rows are of {few(list(truth.rows))}; the cases are {few(study.unmatched)}"
        raise InvalidError(f"None of the cases has a reference in {truth}: {found}.")
    cases, left_out = list[CaseScore](), dict[str, str]()
    for done, name in enumerate(study.entrants):
        progress(done)
        try:
            reference = study.reference(name)
        except Unusable as problem:
            left_out[name] = str(problem)
        else:
            cases.append(_case_score(study, name, reference))
    _refuse_mixed(cases, left_out, truth)
    models = tuple(each.name for each in study.contestants)
    return Scores(models, study.plan, tuple(cases), left_out, (*_unused(study), *_notes(models, cases, left_out)))


def _case_score(study: Study, name: str, reference: Reference) -> CaseScore:
    masks = study.masks(name, reference)
    measured: dict[str, tuple[Measures, ...]] = {}
    for region in study.plan.regions:
        truth = within(reference.voxels, region.truth)
        measured[region.name] = tuple(
            worst(truth, reference.spacing)
            if isinstance(mask, Unusable)
            else measures(within(mask, labels), truth, reference.spacing)
            for mask, labels in zip(masks, region.found)
        )
    problems = tuple(str(mask) if isinstance(mask, Unusable) else "" for mask in masks)
    return CaseScore(name, measured, problems, reference.geometry is not None)


def _grid_of(path: str) -> tuple[tuple[int, ...], Geometry | None]:
    """z, y, x of an input, and where it lies."""
    try:
        place = inputs.geometry(path)
    except InputError as error:
        raise Unusable(f"the input cannot be read: {error}") from error
    return (place.size[::-1], place) if place else (_image(path, "the input").voxels.shape[:3], None)


def _image(path: str, what: str) -> viewing.Image:
    try:
        inputs.check(path, InputLimits())
        image = viewing.read(path)
    except (InputError, viewing.Unviewable) as error:
        why = " ".join(str(error).split())
        raise Unusable(f"{what} cannot be read: {why} NIfTI, PNG, DICOM and .npy files can be.") from error
    if image.notes:
        raise Unusable(f"{what} is more than one image. {' '.join(image.notes)}")
    return image


def _labels(voxels: _Voxels, known: Labels, what: str) -> _Voxels:
    """Whole numbers, each of them known."""
    if voxels.ndim != 3:
        raise Unusable(f"{what} has colours or channels; one number for each voxel is needed")
    if voxels.dtype.kind not in "biuf" or (voxels.dtype.kind == "f" and not np.isfinite(voxels).all()):
        raise Unusable(f"{what} holds values that are no numbers")
    with np.errstate(invalid="ignore"):  # of numbers that are too large for any label
        whole = voxels.astype(np.int64)
    if voxels.dtype.kind == "f" and not np.array_equal(whole, voxels):
        raise Unusable(f"{what} holds fractions such as {float(voxels[whole != voxels][0]):g}, and no labels")
    strange = sorted(set(np.unique(whole).tolist()) - {BACKGROUND, *known})
    if strange:
        labels = ", ".join(f"{number} {name}" for number, name in known.items())
        raise Unusable(f"{what} holds the label {strange[0]}, which is none of {labels}")
    return whole


def _same_grid(
    shape: tuple[int, ...], place: Geometry | None, wanted: tuple[int, ...], where: Geometry | None, whose: str
) -> None:
    if shape[:3] != wanted:
        found, size = (times(each[:3][::-1]) for each in (shape, wanted))
        raise Unusable(f"it has {found} voxels in x, y, z, and the {whose} {size}")
    if place is not None and where is not None and not place.is_grid_of(where):
        raise Unusable(f"it does not lie where the {whose} does: its origin, spacing or directions differ. Resample it")


def _mask(contestant: Contestant, entrant: Entrant | None, reference: Reference, labels: Labels) -> _Voxels:
    """A model's mask on the grid of the reference."""
    if entrant is None:
        raise Unusable("its run has no such case")
    result = entrant.result
    if result is None or result.error is not None:
        raise Unusable(f"{result.error.kind}: {result.error.message}" if result and result.error else "not computed")
    output = contestant.given(result)
    if output is None or output.dataset is None:
        raise Unusable("its mask is no array")
    try:
        volume = load_volume(contestant.reading.paths, output)
    except ValueError as error:
        raise Unusable(str(error)) from error
    voxels = volume.voxels
    voxels = voxels.reshape(voxels.shape[-3:]) if voxels.size == np.prod(voxels.shape[-3:]) else voxels
    _same_grid(voxels.shape[-3:], volume.geometry, reference.voxels.shape, reference.geometry, "reference")
    return _labels(voxels, labels, "its mask")


def within(voxels: _Voxels, labels: frozenset[int]) -> Mask:
    """Where a label map has any of these labels."""
    found: Mask = np.isin(voxels, list(labels))
    return found


def _refuse_mixed(cases: Sequence[CaseScore], left_out: Mapping[str, str], truth: Truth) -> None:
    if not cases:
        name, why = next(iter(left_out.items()))
        raise InvalidError(f"No reference in {truth} can be used; that of {shown(name)}, for one: {shown(why)}.")
    flat = [each.name for each in cases if not each.millimetres]
    if flat and len(flat) < len(cases):
        raise InvalidError(
            f"The inputs of {count_of(len(flat), 'case')} have no spacing ({few(flat)}), and others have: distances "
            "would be in voxels for some and in mm for others. Give each kind a benchmark of its own."
        )


def _unused(study: Study) -> Iterator[str]:
    truth, unmatched = study.truth, study.unmatched
    if unmatched:
        yield f"{count_of(len(unmatched), 'case')} without a reference in {truth}, left out: {few(unmatched)}."
    unused = [name for name in truth.rows if name not in study.entrants]
    if unused:
        yield f"{count_of(len(unused), 'reference')} in {truth} without a case: {few(unused)}."


def _notes(models: Sequence[str], cases: Sequence[CaseScore], left_out: Mapping[str, str]) -> Iterator[str]:
    for name, why in list(left_out.items())[:10]:
        yield f"{shown(name)} is left out for all models: {shown(why)}."
    if len(left_out) > 10:
        yield f"{len(left_out) - 10:,} more cases are left out; benchmark.json has them all."
    for place, model in enumerate(models):
        failed = [(each.name, each.problems[place]) for each in cases if each.problems[place]]
        if failed:
            name, why = failed[0]
            number = count_of(len(failed), "case")
            yield f"{model} has no mask of {number}, where it is last, such as {shown(name)}: {shown(why)}."
    if not cases[0].millimetres:
        yield "The inputs have no spacing: distances are in voxels."
