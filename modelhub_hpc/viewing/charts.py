"""Outputs that are numbers and words: labels with their probabilities, vectors, and whatever else JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_BARS = 400  # of a plot, beyond which each stands for several numbers


@dataclass(frozen=True)
class Label:
    """share: of the longest bar, 0 to 1."""

    name: str
    value: float
    share: float


@dataclass(frozen=True)
class Plot:
    """Bars of a vector as data of one SVG path, in a box of 100 x 100; zero: the height of 0 in it."""

    path: str
    low: float
    high: float
    zero: float
    grouped: int  # numbers that each bar stands for: the one that is farthest from 0 is drawn


def labels(prediction: Any) -> tuple[Label, ...] | None:
    """A label_list, the most probable first; None for what is none."""
    rows = prediction if isinstance(prediction, list) else None
    if rows and isinstance(rows[0], list):  # some models give a list for each of their inputs
        rows = rows[0]
    if not rows or not all(isinstance(row, dict) and "label" in row for row in rows):
        return None
    pairs = [(str(row["label"]), _number(row.get("probability"))) for row in rows]
    longest = max((value for _, value in pairs if math.isfinite(value)), default=0.0)
    scale = 1.0 if 0 <= longest <= 1 else longest
    shares = [min(1.0, max(0.0, value / scale)) if scale and math.isfinite(value) else 0.0 for _, value in pairs]
    found = [Label(name, value, share) for (name, value), share in zip(pairs, shares)]
    return tuple(sorted(found, key=lambda each: -each.value if math.isfinite(each.value) else math.inf))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def plot(vector: npt.NDArray[np.float64]) -> Plot | None:
    """Of the finite numbers; None where there is none."""
    values = np.where(np.isfinite(vector), vector, 0.0)
    if not values.size or not np.isfinite(vector).any():
        return None
    grouped = math.ceil(len(values) / _MOST_BARS)
    values = _farthest(values, grouped)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    span = (high - low) or 1.0
    zero = 100 * high / span
    width = 100 / len(values)
    bars = [
        f"M{i * width:.3f} {zero:.3f}v{-100 * value / span:.3f}h{width * 0.8:.3f}v{100 * value / span:.3f}z"
        for i, value in enumerate(values.tolist())
        if value
    ]
    return Plot("".join(bars), low, high, zero, grouped)


def _farthest(values: npt.NDArray[np.float64], grouped: int) -> npt.NDArray[np.float64]:
    """Of every so many neighbours the one that is farthest from 0."""
    if grouped == 1:
        return values
    padded = np.pad(values, (0, -len(values) % grouped)).reshape(-1, grouped)
    chosen: npt.NDArray[np.float64] = padded[np.arange(len(padded)), np.abs(padded).argmax(axis=1)]
    return chosen


@dataclass(frozen=True)
class Summary:
    """Of an array. All None where it holds no finite number."""

    shape: tuple[int, ...]
    dtype: str
    smallest: float | None
    largest: float | None
    mean: float | None
    missing: int  # values that are not finite


def summary(array: npt.NDArray[Any]) -> Summary:
    if array.dtype.kind not in "biuf":
        return Summary(array.shape, str(array.dtype), None, None, None, 0)
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    missing = array.size - finite.size
    if not finite.size:
        return Summary(array.shape, str(array.dtype), None, None, None, missing)
    mean = float(finite.mean(dtype=np.float64))
    return Summary(array.shape, str(array.dtype), float(finite.min()), float(finite.max()), mean, missing)


def table(rows: Any) -> tuple[Sequence[str], Sequence[Sequence[Any]]] | None:
    """A list of objects with the same plain fields as (names, rows); None for anything else."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        return None
    names = list(rows[0])
    plain = all(list(row) == names and all(map(is_plain, row.values())) for row in rows)
    return (names, [[row[name] for name in names] for row in rows]) if plain else None


def is_plain(value: Any) -> bool:
    """Whether it can stand in a cell: a word, a number, or a few of them."""
    if isinstance(value, list):
        return len(value) <= 8 and all(isinstance(each, (str, int, float)) for each in value)
    return value is None or isinstance(value, (str, int, float))
