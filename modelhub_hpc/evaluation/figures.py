"""Figures for print: drawn without a display, as SVG whose words are paths, and as PNG of 300 dots per inch."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelhub_hpc.evaluation.metrics import Mask
from modelhub_hpc.evaluation.proportions import Proportion
from modelhub_hpc.evaluation.ranking import Floats
from modelhub_hpc.evaluation.segmentation import Drawing
from modelhub_hpc.evaluation.tables import one_line
from modelhub_hpc.runfolder import arriving
from modelhub_hpc.viewing.layers import LABEL_COLOURS, grey
from modelhub_hpc.viewing.poses import PLANES, Pose, cut, extent, steps

_DPI = 300
_WIDTH_IN = 6.3  # between the margins of an A4 page
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "svg.fonttype": "path",
    "svg.hashsalt": "mh-hpc",  # the same file each time
    "text.parse_math": False,  # names may have dollar signs
}
_DASHES: Any = ("solid", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_INK = "#222222"
_FINE = 6  # as fine as outlines follow the edges of pixels
_MOST_PANELS = 4
_LEGEND_CHARS = 90  # in a line, with what stands before each word
_LENGTHS = (1, 2, 5, 10, 20, 50, 100)  # of scale bars


_MEASURED = {"fmt": "o", "color": "#0072b2", "markersize": 4, "capsize": 2.5, "linewidth": 1}
_REPORTED = {"markerfacecolor": "none", "markeredgecolor": "#d55e00", "markersize": 6}


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of names; a box stands for it
        yield


@dataclass(frozen=True)
class Bar:
    """A share as a point with its interval; card: what the model's card reports, in %."""

    model: str
    found: Proportion | None
    card: float | None


@_styled()
def accuracy(panels: Sequence[tuple[str, Sequence[Bar]]]) -> Any:
    """A panel for each measure, a line for each model, the first at the top."""
    count = len(panels[0][1])
    figure = _figure(0.9 + 0.28 * count)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, bars) in zip(axes, panels):
        for line, bar in enumerate(bars):
            _bar(axis, line, bar)
        axis.set_title(title)
        axis.set_xlabel("Cases (%)")
        axis.set_ylim(count - 0.5, -0.5)
        axis.set_yticks(range(count), [one_line(bar.model) for bar in panels[0][1]])
        axis.grid(axis="x", color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
    points = {label: mark for axis in axes for mark, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(list(points.values()), list(points), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _bar(axis: Any, line: int, bar: Bar) -> None:
    if bar.found is not None:
        value, (low, high) = bar.found.value, bar.found.interval
        reach = [[100 * max(0.0, value - low)], [100 * max(0.0, high - value)]]
        axis.errorbar([100 * value], [line], xerr=reach, label="measured, 95 % confidence interval", **_MEASURED)
    if bar.card is not None:
        axis.plot([bar.card], [line], "D", label="as the card reports it", **_REPORTED)


@_styled()
def ranking(models: Sequence[str], ranks: Floats, scores: Floats) -> Any:
    """The ranks of each case as points with a box, and each model's ranking score; ranks: (case, model)."""
    figure = _figure(0.8 + 0.55 * len(models))
    axis = figure.subplots()
    random = np.random.default_rng(0)
    for line, (model, values, score) in enumerate(zip(models, ranks.T, scores)):
        colour = _colour(line)
        axis.boxplot(
            [values],
            positions=[line],
            orientation="horizontal",
            widths=0.55,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": (*colour, 0.45), "edgecolor": _INK, "linewidth": 0.8},
            medianprops={"color": _INK, "linewidth": 1.2},
            whiskerprops={"color": _INK, "linewidth": 0.8},
            capprops={"color": _INK, "linewidth": 0.8},
        )
        shaken = line + random.uniform(-0.2, 0.2, len(values))
        axis.plot(values, shaken, "o", color=_INK, markersize=3, alpha=0.4, markeredgewidth=0)
        axis.plot([score], [line], "D", markerfacecolor="white", markeredgecolor=_INK, markersize=6, zorder=5)
    axis.set_yticks(range(len(models)), [f"{one_line(model)}  ({score:.2f})" for model, score in zip(models, scores)])
    axis.set_ylim(len(models) - 0.5, -0.5)
    axis.set_xlim(0.9, len(models) + 0.1)
    axis.locator_params(axis="x", steps=[1, 2, 5, 10])
    axis.grid(axis="x", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    figure.supxlabel(
        "Rank in each case, averaged over regions and measures (smaller is better)\n"
        "Diamond: ranking score, the mean over cases. Box: quartiles and median. Points: cases.",
        fontsize=8,
    )
    return figure


@_styled()
def contours(models: Sequence[str], case: Drawing) -> Any:
    """Outlines of the first few regions in one slice, that with most of the first one's reference.

    models: in the order in which the case has their masks.
    """
    pose = Pose.of(case.geometry)
    plane = pose.plane
    voxels = pose.turned(case.ground.voxels)
    slices, rows, columns = extent((voxels.shape[0], voxels.shape[1], voxels.shape[2]), plane)
    high, wide = steps(pose.spacing(case.geometry), plane)
    index = _richest(pose, next(iter(case.regions.values()))[0], plane)
    flat = {
        name: [None if each is None else cut(pose.turned(each), plane, index) for each in (truth, *masks)]
        for name, (truth, masks) in list(case.regions.items())[:_MOST_PANELS]
    }
    box = _worth_showing([each for some in flat.values() for each in some if each is not None], (rows, columns))
    top, bottom, left, right = np.array(box) * (high, high, wide, wide)
    in_line = max(1, _LEGEND_CHARS // (max(map(len, ("reference", *models))) + 9))
    tall = min(1.6, (bottom - top) / (right - left))
    figure = _figure(0.6 + 0.2 * math.ceil((len(models) + 1) / in_line) + _WIDTH_IN / max(2, len(flat)) * tall)
    axes = figure.subplots(1, len(flat), squeeze=False)[0]
    picture = grey(cut(voxels, plane, index), case.ground.window)
    for axis, (name, outlines) in zip(axes, flat.items()):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=(0, columns * wide, rows * high, 0))
        for place, mask in enumerate(outlines):
            if mask is not None:
                _outline(axis, mask, (high, wide), place)
        axis.set(xlim=(left, right), ylim=(bottom, top), title=one_line(name), xticks=[], yticks=[])
        _edges(axis, pose.edges(plane))
    _scale_bar(axes[0], right - left, "mm" if case.geometry else "pixels")
    figure.suptitle(one_line(f"{case.name}, slice {index + 1} of {slices}"), fontsize=8)
    figure.legend(handles=_legend(models), loc="outside lower center", ncols=in_line, frameon=False)
    return figure


def _richest(pose: Pose, mask: Mask, plane: str) -> int:
    """The slice with most of a mask, the middle one where it is empty."""
    amounts = pose.turned(mask).sum(axis=tuple(axis for axis in range(3) if axis != PLANES[plane]))
    return int(amounts.argmax()) if amounts.any() else len(amounts) // 2


def _worth_showing(masks: Sequence[Mask], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rows and columns, from and to: what is marked, with some of what is around it."""
    marked = np.any(masks, axis=0) if masks else np.zeros(size, bool)
    found = list[int]()
    for axis, length in enumerate(size):
        places = np.flatnonzero(marked.any(axis=1 - axis)) if marked.any() else np.arange(length)
        margin = max(4, (places[-1] - places[0]) // 3)
        found += [max(0, int(places[0] - margin)), min(length, int(places[-1] + margin + 1))]
    return found[0], found[1], found[2], found[3]


def _outline(axis: Any, mask: Mask, steps: tuple[float, float], place: int) -> None:
    """Around a mask, along the edges of its pixels; place 0 is the reference."""
    if not mask.any():
        return
    high, wide = steps
    rows, columns = ((np.arange(-_FINE, (length + 1) * _FINE) + 0.5) / _FINE for length in mask.shape)
    fine = np.pad(mask, 1).repeat(_FINE, axis=0).repeat(_FINE, axis=1).astype(float)
    colour, width, dashes = _pen(place)
    pen: Any = {"colors": [colour], "linewidths": width, "linestyles": [dashes]}
    drawn = axis.contour(columns * wide, rows * high, fine, [0.5], **pen)
    drawn.set_path_effects(_edged(width, 0.4 if place else 1))


def _pen(place: int) -> tuple[Any, float, Any]:
    """Colour, width and dashes of the reference (0), or of a model."""
    if place == 0:
        return "white", 2.6, "solid"
    return _colour(place - 1), 1.1, _DASHES[(place - 1) % len(_DASHES)]


def _legend(models: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    pens = [(name, *_pen(place)) for place, name in enumerate(["reference", *models])]
    lines = [Line2D([], [], color=c, linewidth=w, linestyle=d, label=one_line(name)) for name, c, w, d in pens]
    for line in lines:
        line.set_path_effects(_edged(line.get_linewidth()))
    return lines


def _edged(width: float, more: float = 1) -> list[Any]:
    """For what is light, and may lie on anything."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width + more, foreground=_INK)]


def _edges(axis: Any, letters: str) -> None:
    """What lies left, right, above and below."""
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"))
    for letter, (x, y, across, along) in zip(letters, (*places, (0.5, 0.02, "center", "bottom"))):
        drawn = axis.text(x, y, letter, color="white", ha=across, va=along, transform=axis.transAxes, fontsize=7)
        drawn.set_path_effects(_edged(0))


def _scale_bar(axis: Any, width: float, unit: str) -> None:
    """A bar of about a quarter of the picture."""
    length = max((each for each in _LENGTHS if each <= 0.35 * width), default=_LENGTHS[0])
    style: dict[str, Any] = {"color": "white", "transform": axis.transAxes}
    ends = [0.04, 0.04 + length / width]
    axis.plot(ends, [0.04, 0.04], linewidth=2, solid_capstyle="butt", path_effects=_edged(2), **style)
    axis.text(ends[0], 0.06, f"{length:g} {unit}", va="bottom", fontsize=7, path_effects=_edged(0), **style)


@_styled()
def write(figure: Any, folder: Path, name: str) -> None:
    """NAME.svg and NAME.png, each whole or as it was."""
    for kind, more in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": _DPI})):
        with arriving(folder / f"{name}.{kind}") as part:
            figure.savefig(part, format=kind, **more)


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH_IN, height), layout="constrained")


def _colour(place: int) -> tuple[float, float, float]:
    red, green, blue = LABEL_COLOURS[place % len(LABEL_COLOURS)]
    return red / 255, green / 255, blue / 255
