"""What an output of a case is in two runs: the same, close, or different; one piece of an array at a time."""

from __future__ import annotations

import enum
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import times
from modelhub_hpc.record import LabelList, Output, RunPaths, load_grid
from modelhub_hpc.record.export import pieces

_MOST_LABELS = 256  # of a mask; what has more is no mask
_NUMERIC = "biufc"
_ITEM_BYTES = 64  # taken for elements with fields
_Array = npt.NDArray[Any]


class Verdict(str, enum.Enum):
    """How two cases, or two outputs, compare; the worst of its outputs is that of a case."""

    SAME = "same"
    CLOSE = "close"  # not the same, and within the tolerance
    DIFFERENT = "different"


@dataclass(frozen=True)
class Tolerance:
    """a and b are close where |a - b| <= absolute + relative * max(|a|, |b|). Whole numbers have to be equal."""

    relative: float = 1e-5
    absolute: float = 1e-8


@dataclass(frozen=True)
class OutputDifference:
    """One output of one case in both runs.

    values: how many numbers were compared, unequal: how many are not the same, different: how many are not close.
    largest, largest_relative: over those that are finite in both; None where nothing was compared, or all are equal.
    reasons: what else differs, or differs in kind. top: the most probable labels where they are not the same.
    dice: of each label of a mask that differs. place: index in an array of its largest difference, else of its first.
    """

    name: str
    verdict: Verdict
    values: int = 0
    unequal: int = 0
    different: int = 0
    largest: float | None = None
    largest_relative: float | None = None
    reasons: tuple[str, ...] = ()
    top: tuple[str, str] | None = None
    dice: Mapping[str, float] = field(default_factory=dict)
    place: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Stored:
    """An output, and the run in which it is."""

    paths: RunPaths
    output: Output

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """None where the elements have fields."""
        try:
            return np.dtype(self.output.dtype)
        except TypeError:
            return None

    def pieces(self, itemsize: int) -> Iterator[_Array]:
        return pieces(self.paths, self.output, itemsize)


class _Numbers:
    """Numbers compared so far."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.values = self.unequal = self.different = 0
        self.largest: float | None = None
        self.largest_relative: float | None = None
        self.place: int | None = None  # of the largest difference, else of the first

    def add(self, a: _Array, b: _Array) -> None:
        """Flat arrays of equal length; of text and the like it is known only whether they are equal. NaN equals NaN."""
        before, self.values = self.values, self.values + a.size
        unequal = np.asarray(a != b)
        if a.dtype.kind in "fc" and b.dtype.kind in "fc":
            unequal &= ~(np.isnan(a) & np.isnan(b))
        count = int(np.count_nonzero(unequal))
        if not count:
            return
        self.unequal += count
        places = before + np.flatnonzero(unequal)
        if self.place is None:
            self.place = int(places[0])
        measurable = a.dtype.kind in _NUMERIC and b.dtype.kind in _NUMERIC
        self.different += self._measured(a[unequal], b[unequal], places) if measurable else count

    def _measured(self, a: _Array, b: _Array, places: _Array) -> int:
        """How many of these unequal numbers are not close."""
        exact = a.dtype.kind in "biu" and b.dtype.kind in "biu"
        kind = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
        x, y = a.astype(kind), b.astype(kind)
        with np.errstate(invalid="ignore", over="ignore"):
            apart, scale = np.abs(x - y), np.maximum(np.abs(x), np.abs(y))
            close = apart <= self._tolerance.absolute + self._tolerance.relative * scale
        finite = np.isfinite(apart) & np.isfinite(scale)
        if finite.any():
            # whole numbers beyond 2**53 may come out equal here, which they are not
            worst = int(np.where(finite, apart, -1.0).argmax())
            if self.largest is None or apart[worst] > self.largest:
                self.largest, self.place = float(apart[worst]), int(places[worst])
            relative = apart[finite] / np.where(scale[finite] > 0, scale[finite], 1.0)
            self.largest_relative = max(self.largest_relative or 0.0, float(relative.max()))
        return len(x) if exact else int(np.count_nonzero(~(close & finite)))


def difference(spec: OutputSpec | None, ours: Stored, theirs: Stored, tolerance: Tolerance) -> OutputDifference:
    """spec: what the model of the first run declares of the output. Raises TryAgainError for a damaged file."""
    a, b = ours.output, theirs.output
    reasons, numbers = list(_in_kind(a, b)), _Numbers(tolerance)
    top: tuple[str, str] | None = None
    dice: dict[str, float] = {}
    place: tuple[int, ...] | None = None
    if a.dataset is not None and b.dataset is not None:
        reasons += _in_space(ours, theirs)
        if a.shape == b.shape and _are_comparable(ours, theirs):
            _arrays(ours, theirs, numbers)
            place = None if numbers.place is None else _index(numbers.place, a.shape)
            if numbers.different and a.type == b.type == "mask_image":
                dice = _dice(ours, theirs, spec.labels if spec else {})
    elif a.dataset is None and b.dataset is None:
        reasons += _values(a, b, numbers)
        top = _tops(a, b) if numbers.unequal or reasons else None
    verdict = Verdict.SAME
    if numbers.unequal:
        verdict = Verdict.CLOSE
    if numbers.different or reasons:
        verdict = Verdict.DIFFERENT
    measured = numbers.values, numbers.unequal, numbers.different, numbers.largest, numbers.largest_relative
    return OutputDifference(a.name, verdict, *measured, tuple(reasons), top, dice, place)


def _in_kind(a: Output, b: Output) -> Iterator[str]:
    if a.name != b.name:
        yield f"name {a.name}, {b.name}"
    if a.type != b.type:
        yield f"type {a.type}, {b.type}"
    if (a.dataset is None) != (b.dataset is None):
        yield "an array in one run only"
    elif a.dataset is not None:
        if a.shape != b.shape:
            yield f"shape {times(a.shape)}, {times(b.shape)}"
        if a.dtype != b.dtype:
            yield f"dtype {a.dtype}, {b.dtype}"


def _in_space(ours: Stored, theirs: Stored) -> Iterator[str]:
    (axes, grid), (other_axes, other_grid) = (load_grid(each.paths, each.output) for each in (ours, theirs))
    if axes != other_axes:
        yield f"axes {axes or 'unknown'}, {other_axes or 'unknown'}"
    if (grid is None) != (other_grid is None):
        yield "geometry in one run only"
    elif grid is not None and other_grid is not None and not grid.is_grid_of(other_grid):
        yield "geometry"


def _are_comparable(ours: Stored, theirs: Stored) -> bool:
    kinds = [each.dtype.kind for each in (ours, theirs) if each.dtype is not None]
    return ours.output.dtype == theirs.output.dtype or (len(kinds) == 2 and set(kinds) <= set(_NUMERIC))


def _index(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(each) for each in np.unravel_index(place, shape))


def _arrays(ours: Stored, theirs: Stored, numbers: _Numbers) -> None:
    for a, b in _both(ours, theirs):
        numbers.add(a, b)


def _both(ours: Stored, theirs: Stored) -> Iterator[tuple[_Array, _Array]]:
    itemsize = max(each.dtype.itemsize if each.dtype is not None else _ITEM_BYTES for each in (ours, theirs))
    return zip(ours.pieces(itemsize), theirs.pieces(itemsize), strict=True)


def _dice(ours: Stored, theirs: Stored, names: Mapping[str, str]) -> dict[str, float]:
    """Of every label but 0; {} where there are so many values that it is no mask."""
    found, other, common = Counter[float](), Counter[float](), Counter[float]()
    for a, b in _both(ours, theirs):
        for counter, voxels in ((found, a), (other, b), (common, a[a == b])):
            labels, counts = np.unique(voxels, return_counts=True)
            if len(labels) > _MOST_LABELS:
                return {}
            counter.update({float(label): int(count) for label, count in zip(labels, counts)})
        if len(found) > _MOST_LABELS or len(other) > _MOST_LABELS:
            return {}
    every = sorted(label for label in {*found, *other} if label and not math.isnan(label))
    return {_named(label, names): 2 * common[label] / (found[label] + other[label]) for label in every}


def _named(label: float, names: Mapping[str, str]) -> str:
    text = f"{label:g}"
    return names.get(text, text)


def _values(a: Output, b: Output, numbers: _Numbers) -> Iterator[str]:
    """Compare predictions that are JSON; what differs apart from numbers."""
    if isinstance(a.value, LabelList) and isinstance(b.value, LabelList) and a.value.labels == b.value.labels:
        numbers.add(np.array(a.value.probabilities), np.array(b.value.probabilities))
        return
    left, right = (_by_label(each) for each in (a, b))
    found: tuple[list[float], list[float]] = [], []
    kinds = set[str]()
    _walk(left, right, found, kinds)
    if found[0]:
        numbers.add(np.array(found[0]), np.array(found[1]))
    yield from sorted(kinds)


def _by_label(output: Output) -> Any:
    """A label list by its labels, whose order says nothing; anything else as it is."""
    entries: Any = output.prediction
    if output.type != "label_list" or not isinstance(entries, list):
        return entries
    if not all(isinstance(entry, dict) and isinstance(entry.get("label"), str) for entry in entries):
        return entries
    by_label = defaultdict[str, list[Any]](list)
    for entry in entries:
        by_label[entry["label"]].append({name: value for name, value in entry.items() if name != "label"})
    return dict(by_label)


def _walk(a: Any, b: Any, numbers: tuple[list[float], list[float]], kinds: set[str]) -> None:
    """Put numbers that stand in the same place together, and say what else differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            kinds.add("labels")
        for name in a.keys() & b.keys():
            _walk(a[name], b[name], numbers, kinds)
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            kinds.add("length")
        for left, right in zip(a, b):
            _walk(left, right, numbers, kinds)
    elif _is_number(a) and _is_number(b):
        numbers[0].append(float(a))
        numbers[1].append(float(b))
    elif type(a) is not type(b) or a != b:
        kinds.add("NaN" if None in (a, b) else "text")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _tops(a: Output, b: Output) -> tuple[str, str] | None:
    first, second = _top(a), _top(b)
    return (first, second) if first is not None and second is not None and first != second else None


def _top(output: Output) -> str | None:
    """The most probable label of a label list."""
    if isinstance(output.value, LabelList):
        pairs: Iterable[tuple[str, Any]] = zip(*output.value)
    elif output.type == "label_list" and isinstance(output.value, list):
        entries = [entry for entry in output.value if isinstance(entry, dict) and isinstance(entry.get("label"), str)]
        pairs = ((str(entry["label"]), entry.get("probability")) for entry in entries)
    else:
        return None
    known = [(float(value), label) for label, value in pairs if _is_number(value)]
    return max(known, key=lambda each: each[0])[1] if known else None
