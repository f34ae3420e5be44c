"""Small pictures of cases: an input with the outputs over it, as data that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import viewing
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import InputError
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.plan import Case
from modelhub_hpc.plan.files import identity_of, series_of
from modelhub_hpc.record import CaseResult, Output, load_array
from modelhub_hpc.runs.reading import Reading
from modelhub_hpc.viewing import Image, Layer, Unviewable, View, charts, layers
from modelhub_hpc.viewing.outlines import Outline, outline
from modelhub_hpc.viewing.words import number, percent

_SIDE = 288  # pixels of a picture at most
_QUALITY = 72
_PANES = 2  # pictures of a case
_NAME_CHARS = 60
_MOST_PARTS = 6  # structures that are told of
_STRONG = {"mask": 0.55, "heat": 0.6, "picture": 1.0}


@dataclass(frozen=True)
class Pane:
    """One picture. width, height: mm, or pixels. ground, over: data URIs; over: with how strong each is.

    paths: outlines as data of SVG paths, with their colours; sharp: whether it is small, and pixels are to be seen.
    """

    width: float
    height: float
    ground: str
    over: tuple[tuple[str, float], ...] = ()
    paths: tuple[tuple[str, str], ...] = ()
    sharp: bool = False


@dataclass(frozen=True)
class Tile:
    """One case. told: what the model said, in words; notes: what is not as it should be."""

    row: int
    case: str
    panes: tuple[Pane, ...]
    told: tuple[str, ...]
    notes: tuple[str, ...] = ()
    bytes: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Swatch:
    """What a colour means."""

    name: str
    colour: str


def tiles(run: Reading, rows: Sequence[int], most_bytes: int) -> Iterator[Tile]:
    """The cases of these rows in order of the manifest, as long as there is room. Raises TryAgainError."""
    room = most_bytes
    for case, result in run.some(rows):
        tile = _tile(run, case, result)
        room -= tile.bytes
        if room < 0:
            return
        yield tile


def legend(outputs: Sequence[OutputSpec]) -> tuple[Swatch, ...]:
    """The labels that masks are said to have."""
    named = {label: name for spec in outputs if spec.type == "mask_image" for label, name in spec.labels.items()}
    labels = sorted((int(label), name) for label, name in named.items() if label.isdecimal() and int(label))
    return tuple(Swatch(name, _colour(label)) for label, name in labels)


def _tile(run: Reading, case: Case, result: CaseResult) -> Tile:
    image, notes = _image(case)
    grid = None if image is None else image.voxels.shape[:3]
    found: list[Layer] = []
    lines: list[Outline] = []
    told: list[str] = []
    for spec, output in run.outputs(result):
        found += _layers(run, spec, output, grid)
        lines += [each for each in [_outline(output)] if each is not None]
        told += _words(output)
    first, others = viewing.view_of(image, found, lines)
    views = [view for view in (first, *others) if view is not None]
    shown = views[:1] + [view for view in others if view is not views[0] and view.layers]
    panes = tuple(_pane(view) for view in shown[:_PANES])
    size = sum(len(pane.ground) + sum(len(data) for data, _ in pane.over) for pane in panes)
    placed = first.geometry if first is not None else None
    for layer in found:
        if layer.kind == "mask":
            on_grid = first is not None and any(each is layer for each in first.layers)
            told.append(_marked(layer, run.request.model.outputs, placed if on_grid else None))
    return Tile(result.index, case.id, panes, tuple(told), (*notes, *_notes(views)), size)


def _notes(views: Sequence[View]) -> Iterator[str]:
    for view in views:
        yield from view.notes


def _image(case: Case) -> tuple[Image | None, tuple[str, ...]]:
    """The first input, if all are still what the model was given."""
    try:
        if identity_of(case) != (case.input_bytes, case.input_mtime_ns):
            return None, ("The input has changed since the run: it is not shown.",)
        return viewing.read(case.inputs[0][1], series_of(case)), ()
    except InputError:
        return None, ("The input is not there any more.",)
    except Unviewable as reason:
        return None, (f"The input is not shown: {reason}",)


def _layers(run: Reading, spec: OutputSpec, output: Output, grid: Sequence[int] | None) -> Sequence[Layer]:
    if output.dataset is None or output.type not in ("mask_image", "heatmap", "image"):
        return ()
    place = None if grid is None else (grid[0], grid[1], grid[2])
    return viewing.layers_of(output.name, output.type, load_array(run.paths, output), spec.axes, place)


def _outline(output: Output) -> Outline | None:
    return outline(output.name, output.prediction) if output.type == "contour" and output.dataset is None else None


def _words(output: Output) -> Iterator[str]:
    """An output that is a word or a number."""
    if output.type == "label_list" and (found := charts.labels(output.prediction)):
        yield f"{found[0].name[:_NAME_CHARS]} ({percent(found[0].value)})"
    elif isinstance(output.value, (int, float)) and not isinstance(output.value, bool):
        yield f"{output.name} {number(output.value)}"


def _marked(layer: Layer, outputs: Sequence[OutputSpec], place: Geometry | None) -> str:
    """How much of what; in ml where there are slices that have a place."""
    labels: Mapping[str, str] = next((spec.labels for spec in outputs if spec.name == layer.name), {})
    size, unit = 1.0, "voxels"
    if place is not None and place.size[2] > 1:
        size, unit = float(np.prod(place.spacing)) / 1000, "ml"
    names = {label: labels.get(str(label), str(label))[:_NAME_CHARS] for label in list(layer.labels)[:_MOST_PARTS]}
    parts = [f"{name} {_short(layer.labels[label] * size)}" for label, name in names.items()]
    return f"{', '.join(parts)} {unit}" if parts else f"{layer.name}: nothing marked"


def _short(value: float) -> str:
    return number(float(f"{value:.3g}")) if value < 1000 else f"{value:,.0f}"


def _pane(view: View) -> Pane:
    plane = view.planes[0]
    index = view.richest(plane)
    rows, columns = view.extent(plane)[1:]
    high, wide = view.steps(plane)
    kinds = {layer.kind for layer in view.layers}
    wanted = next((kind for kind in ("mask", "heat", "picture") if kind in kinds), None)
    over = tuple(
        (_webp(view.overlay(layer, plane, index), exact=layer.kind == "mask"), _STRONG[layer.kind])
        for layer in view.layers
        if layer.kind == wanted
    )
    paths = tuple(
        (path, _colour(i + 2)) for i, each in enumerate(view.outlines) if (path := view.drawn(each, plane, index))
    )
    ground = _webp(view.ground(plane, index), exact=False)
    return Pane(columns * wide, rows * high, ground, over, paths, max(rows, columns) < _SIDE // 2)


def _webp(pixels: npt.NDArray[np.uint8], exact: bool) -> str:
    """A data URI; exact: colours are labels, which must not mix."""
    from PIL import Image as Pictures

    picture: Any = Pictures.fromarray(np.ascontiguousarray(pixels))
    scale = _SIDE / max(picture.size)
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize(size, Pictures.Resampling.NEAREST if exact else Pictures.Resampling.BOX)
    target = io.BytesIO()
    small = max(picture.size) < _SIDE // 2
    picture.save(target, "WEBP", lossless=exact or small, quality=_QUALITY, method=3)
    return f"data:image/webp;base64,{base64.b64encode(target.getvalue()).decode()}"


def _colour(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*layers.label_colour(label))
