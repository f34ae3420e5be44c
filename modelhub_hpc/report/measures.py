"""What the outputs of one case say of themselves: volumes, scores, values that are no numbers, grids that differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import inputs
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import InputError, times
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.plan import Case
from modelhub_hpc.record import CaseResult, LabelList, Output, RunPaths, load_array, load_volume
from modelhub_hpc.viewing import charts
from modelhub_hpc.viewing.layers import as_labels, counted

# what the one number of an output is, by its type; of other types there is none
SCORES = {"label_list": "probability of the first label", "heatmap": "largest value", "vector": "length (norm)"}
_ON_GRID = ("mask_image", "heatmap", "image")


@dataclass(frozen=True)
class Measures:
    """Of one output of one case.

    voxels: of a mask by structure, the label as text, with its channel before it where there are several; None of
    any other output. size: of a voxel in mm3, or of a pixel in mm2 where flat; None where that is not known.
    top: the first label of a label list. score: see SCORES. missing: values that are not finite.
    trouble: how the array does not fit the grid of the input; "" where it does, or where nobody knows.
    """

    voxels: Mapping[str, int] | None = None
    size: float | None = None
    flat: bool = False
    top: str | None = None
    score: float | None = None
    missing: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class Measured:
    """A case. outputs: in the order of the model's; apart: the inputs that are on another grid than the first.

    unread: inputs that cannot be read any more.
    """

    outputs: tuple[Measures, ...] = ()
    apart: str = ""
    unread: int = 0


@dataclass(frozen=True)
class Measuring:
    """Measures the cases of one run, here or in another process. May raise TryAgainError."""

    paths: RunPaths
    outputs: Sequence[OutputSpec] = field(repr=False)

    def __call__(self, case: Case, result: CaseResult) -> Measured:
        lies = any(output.type in _ON_GRID for output in result.outputs)
        grids = dict(_grids(case)) if len(case.inputs) > 1 or (lies and _is_picture(case.inputs[0][1])) else {}
        first = grids.get(case.inputs[0][0])
        found = tuple(self._output(*each, first) for each in zip(self.outputs, result.outputs))
        return Measured(found, _apart(grids), sum(grid is None for grid in grids.values()))

    def _output(self, spec: OutputSpec, output: Output, grid: Geometry | tuple[int, int] | None) -> Measures:
        if output.dataset is None:
            return _of_value(output)
        if output.type in _ON_GRID:
            return self._of_image(spec, output, grid)
        return _of_vector(load_array(self.paths, output), output.type)

    def _of_image(self, spec: OutputSpec, output: Output, grid: Geometry | tuple[int, int] | None) -> Measures:
        place, trouble = None, ""
        if not spec.axes:  # nobody knows how it lies
            array = load_array(self.paths, output)
        else:
            try:
                volume = load_volume(self.paths, output)
                array, place = volume.voxels, volume.geometry
            except ValueError as error:
                array, trouble = load_array(self.paths, output), str(error)
            if isinstance(grid, tuple) and array.shape[:-3:-1] != grid and not trouble:
                trouble = f"the array is {times(array.shape[:-3:-1])} pixels, the picture {times(grid)}"
        if array.dtype.kind not in "biuf":
            return Measures(trouble=trouble)
        missing = _missing(array)
        if output.type == "heatmap":
            return Measures(score=_largest(array), missing=missing, trouble=trouble)
        if output.type == "image":
            return Measures(missing=missing, trouble=trouble)
        flat = place is not None and "z" not in spec.axes
        size = None if place is None else float(np.prod(place.spacing[: 2 if flat else 3]))
        return Measures(_structures(array), size, flat, missing=missing, trouble=trouble)


def _structures(array: npt.NDArray[Any]) -> dict[str, int]:
    """Voxels by structure; axes before the last three are channels."""
    if array.ndim < 4:
        return {str(label): count for label, count in counted(as_labels(array)).items()}
    channels = array.reshape(-1, *array.shape[-3:])
    several = len(channels) > 1
    return {
        f"{number}/{label}" if several else str(label): count
        for number, channel in enumerate(channels)
        for label, count in counted(as_labels(channel)).items()
    }


def _of_value(output: Output) -> Measures:
    """Of what is JSON: NaN has become null there."""
    value = output.value
    if isinstance(value, LabelList):
        return _top(value.labels, value.probabilities)
    if output.type == "label_list":
        rows = charts.labels(value)
        return Measures() if rows is None else _top([row.name for row in rows], [row.value for row in rows])
    if output.type == "vector" or isinstance(value, (int, float)):
        return _of_vector(_numbers(value), "vector")
    return Measures(missing=_nulls(value) if output.type in ("contour", *_ON_GRID) else 0)


def _top(labels: Sequence[str], probabilities: Sequence[float]) -> Measures:
    values = np.asarray(probabilities, np.float64)
    missing = _missing(values)
    if missing == len(values):
        return Measures(missing=missing)
    best = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
    return Measures(top=labels[best], score=float(values[best]), missing=missing)


def _of_vector(values: npt.NDArray[Any], type: str) -> Measures:
    """The number itself where there is one only, else their norm."""
    if values.dtype.kind not in "biuf":
        return Measures()
    missing = _missing(values)
    if type != "vector" or missing or not values.size:
        return Measures(missing=missing)
    score = float(values.ravel()[0]) if values.size == 1 else float(np.linalg.norm(values.astype(np.float64)))
    return Measures(score=score if math.isfinite(score) else None)


def _numbers(value: Any) -> npt.NDArray[np.float64]:
    """Nested lists of numbers, null among them, as doubles; an empty array for anything else."""
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError):
        return np.zeros(0)


def _nulls(value: Any) -> int:
    """How often null stands in nested lists."""
    return sum(map(_nulls, value)) if isinstance(value, list) else value is None


def _missing(array: npt.NDArray[Any]) -> int:
    return array.size - int(np.count_nonzero(np.isfinite(array))) if array.dtype.kind == "f" else 0


def _largest(array: npt.NDArray[Any]) -> float | None:
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    return float(finite.max()) if finite.size else None


def _grids(case: Case) -> Iterator[tuple[str, Geometry | tuple[int, int] | None]]:
    """The grid of each input, or the width and height of a picture; those that have neither are left out.

    None for an input that cannot be read any more.
    """
    for key, path in case.inputs:
        try:
            grid = _picture(path) if _is_picture(path) else inputs.geometry(path)
        except (InputError, OSError, ValueError):
            yield key, None
        else:
            if grid is not None:
                yield key, grid


def _is_picture(path: str) -> bool:
    return (inputs.mime(path) or "").startswith("image/")


def _picture(path: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.width, picture.height


def _apart(grids: Mapping[str, Geometry | tuple[int, int] | None]) -> str:
    known = {key: grid for key, grid in grids.items() if grid is not None}
    if len(known) < 2:
        return ""
    (first, grid), *others = known.items()
    apart = [key for key, other in others if not _same(grid, other)]
    sizes = {key: times(each.size if isinstance(each, Geometry) else each) for key, each in known.items()}
    told = ", ".join(f"{key} ({sizes[key]})" for key in apart)
    return f"{told} on another grid than {first} ({sizes[first]})" if apart else ""


def _same(one: Geometry | tuple[int, int], other: Geometry | tuple[int, int]) -> bool:
    if isinstance(one, Geometry) and isinstance(other, Geometry):
        return one.is_grid_of(other)
    return one == other
