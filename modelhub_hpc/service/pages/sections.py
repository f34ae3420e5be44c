"""What is said of each output of a result, beside what can be seen of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.service.pages.composing import Looks, as_array
from modelhub_hpc.service.pages.kept import Kept, Said
from modelhub_hpc.service.pages.stages import hexadecimal
from modelhub_hpc.viewing import Layer, charts
from modelhub_hpc.viewing.layers import HEAT_COLOURS, heat_range, label_colour

SHADES = tuple(map(hexadecimal, HEAT_COLOURS))
TOP = 5  # labels that are shown at once
_MOST_ROWS = 1000


@dataclass(frozen=True)
class Section:
    """One output. kind: which part of the template shows it; facts: what that part needs."""

    output: Said
    kind: str
    facts: Mapping[str, Any]


def sections(kept: Kept, looks: Looks) -> list[Section]:
    return [_section(kept, looks, number, output) for number, output in enumerate(kept.outputs)]


def _section(kept: Kept, looks: Looks, number: int, output: Said) -> Section:
    array = kept.arrays.get(output.name)
    layers, outline = looks.layers[number], looks.outlines[number]
    if output.type == "label_list" and (labels := charts.labels(output.prediction)):
        return Section(output, "labels", {"labels": labels[:_MOST_ROWS], "top": TOP, "count": len(labels)})
    if layers:
        facts = {"layers": layers, "rows": _rows(layers, looks), "range": _range(layers), "shades": SHADES}
        return Section(output, layers[0].kind, facts)
    if outline is not None:
        return Section(output, "outline", {"outline": outline})
    values = array if array is not None else as_array(output.prediction)
    if output.type == "vector" and values.size and values.dtype.kind in "biuf":
        return Section(output, "vector", _vector(values))
    if array is not None:
        return Section(output, "array", {"summary": charts.summary(array)})
    return Section(output, "custom", _custom(output.prediction))


def _rows(layers: Sequence[Layer], looks: Looks) -> list[dict[str, Any]]:
    """Labels of masks: how often they are there, and what that is in the patient."""
    place = looks.views[0].geometry if looks.views else None
    on_grid = bool(looks.views) and layers[0] in looks.views[0].layers
    ml = float(np.prod(place.spacing)) / 1000 if place and on_grid else None
    return [
        {"label": label, "colour": hexadecimal(label_colour(label)), "voxels": count, "ml": ml and count * ml}
        for layer in layers
        for label, count in list(layer.labels.items())[:_MOST_ROWS]
    ]


def _range(layers: Sequence[Layer]) -> tuple[float, float] | None:
    return heat_range(layers[0]) if layers[0].kind == "heat" else None


def _vector(values: npt.NDArray[Any]) -> dict[str, Any]:
    flat = values.ravel().astype(np.float64)
    shown = flat[:_MOST_ROWS].tolist()
    return {"plot": charts.plot(flat), "summary": charts.summary(values), "values": shown, "count": flat.size}


def _custom(prediction: Any) -> dict[str, Any]:
    """Plain values, tables, and the rest, apart."""
    given = prediction if isinstance(prediction, dict) else {"": prediction}
    tables = {name: found for name, value in given.items() if (found := charts.table(value))}
    plain = {name: value for name, value in given.items() if name not in tables and charts.is_plain(value)}
    rest = {name: value for name, value in given.items() if name not in tables and name not in plain}
    return {"plain": plain, "tables": tables, "rest": rest.get("", rest) if rest else None}
