"""Histograms and time lines as numbers for SVG: the page draws them, in its own colours."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelhub_hpc.viewing.words import number

WIDTH, HEIGHT = 360, 96  # of the area that bars are drawn in
_BINS = 36
_LOGARITHMIC = 30.0  # from this ratio of the largest to the smallest value on
_MOST_MARKS = 200
_VISIBLE = 4.0  # of 1000
_VAST = 1e300  # beyond which differences are no numbers any more
_STEPS = 1.0, 2.0, 5.0, 10.0
_TIMES_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """Bars from a common floor. bars: (x, width, height); ticks: (x, what is written there); marks: x of single values.

    summary: what there is to see, in words; peak: how many the highest bar stands for.
    """

    bars: tuple[tuple[float, float, float], ...]
    ticks: tuple[tuple[float, str], ...]
    marks: tuple[float, ...]
    peak: str
    summary: str


def histogram(values: Sequence[float], unit: str = "", odd: Numbers | None = None) -> Chart | None:
    """How often values are there; None where no finite one is. odd: those that are marked.

    On a logarithmic scale where they are all above 0 and spread wide.
    """
    given = np.asarray(values, np.float64)
    given = given[np.isfinite(given)].clip(-_VAST, _VAST)
    if not given.size:
        return None
    low, high = float(given.min()), float(given.max())
    scale = np.log if low > 0 and high / low > _LOGARITHMIC else np.asarray
    start, end = _around(float(scale(low)), float(scale(high)))
    counts, edges = np.histogram(scale(given), _BINS, (start, end))

    def place(value: Numbers) -> Numbers:
        placed: Numbers = (np.asarray(scale(value)) - start) / (end - start) * WIDTH
        return placed

    ticks = _powers(low, high) if scale is np.log else _even(low, high)
    labels = tuple((float(place(np.float64(each))), number(each)) for each in ticks)
    marks = () if odd is None or not odd.size else tuple(place(odd[:_MOST_MARKS]).round(1).tolist())
    middle = float(np.median(given))
    mark = f" {unit}" if unit else ""
    words = f"{len(given):,} values from {number(low)} to {number(high)}{mark}, median {number(middle)}{mark}"
    return Chart(_bars(counts), _apart(labels), marks, f"{int(counts.max()):,}", words)


def timeline(moments: Sequence[float], bins: int = 48) -> Chart | None:
    """How many fall into each part of the time between the first and the last (s); None for less than two."""
    given = np.asarray(moments, np.float64)
    given = given[np.isfinite(given)]
    if len(given) < 2 or given.max() - given.min() < 1e-3:
        return None
    start, end = float(given.min()), float(given.max())
    counts, _ = np.histogram(given, bins, (start, end))
    span = (end - start) / bins
    rate = counts.max() / span
    step = next((each for each in _TIMES_S if each * 5 >= end - start), 86400 * math.ceil((end - start) / 432000))
    ticks = [((at - start) / (end - start) * WIDTH, _clock(at, step)) for at in _multiples(start, end, step)]
    words = f"{len(given):,} cases in {number(round(end - start, 1))} s, at most {number(float(rate))} per second"
    return Chart(_bars(counts), _apart(ticks), (), f"{number(float(rate))}/s", words)


def strip(parts: Mapping[str, float], whole: float) -> list[tuple[str, float, float]]:
    """(name, x, width) of the parts of a strip of 1000; none that there is is too narrow to be seen.

    >>> strip({"done": 1797, "failed": 1, "lost": 0}, 1798)
    [('done', 0.0, 996.0), ('failed', 996.0, 4.0)]
    """
    widths = {name: max(1000 * part / (whole or 1), _VISIBLE) for name, part in parts.items() if part > 0}
    over = sum(widths.values()) - 1000
    if over > 0:
        widest = max(widths, key=lambda name: widths[name])
        widths[widest] -= over
    ends = itertools.accumulate(widths.values(), initial=0.0)
    return [(name, round(x, 2), round(width, 2)) for x, (name, width) in zip(ends, widths.items())]


def _bars(counts: npt.NDArray[np.int64]) -> tuple[tuple[float, float, float], ...]:
    """At least a pixel high where there is anything."""
    width = WIDTH / len(counts)
    tallest = counts.max() or 1
    heights = np.maximum(counts / tallest * HEIGHT, 1.5)
    return tuple(
        (round(i * width + 0.5, 2), round(width - 1, 2), round(float(heights[i]), 2)) for i in np.flatnonzero(counts)
    )


def _around(start: float, end: float) -> tuple[float, float]:
    """A little more on both sides, and something where all are one."""
    if end - start <= 1e-9 * max(abs(start), abs(end), 1e-9):
        room = 0.5 * (abs(start) or 1.0)
        return start - room, end + room
    return start, end


def _even(low: float, high: float) -> list[float]:
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in _STEPS if each * power >= rough * 0.999)
    return [round(each, 12) for each in _multiples(low, high, step)]


def _powers(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [each * 10.0**power for power in range(first, last + 1) for each in (1, 2, 5)]
    inside = [each for each in found if low <= each <= high]
    return inside if len(inside) <= 7 else [each for each in inside if f"{each:e}".startswith("1.")]


def _multiples(low: float, high: float, step: float) -> Iterator[float]:
    at = math.ceil(low / step) * step
    while at <= high + step * 1e-9:
        yield at
        at += step


def _apart(ticks: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Those that have room beside each other."""
    kept: list[tuple[float, str]] = []
    for x, text in ticks:
        if not kept or x - kept[-1][0] > 7 * max(len(text), len(kept[-1][1])):
            kept.append((round(x, 1), text))
    return tuple(kept)


def _clock(seconds: float, step: float) -> str:
    """UTC."""
    form = "%Y-%m-%d" if step >= 86400 else "%H:%M" if step >= 60 else "%H:%M:%S"
    return time.strftime(form, time.gmtime(seconds))
