"""What there is to see of a result: its outputs laid over one of its inputs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import viewing
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.service.pages.kept import Kept, Said
from modelhub_hpc.viewing import Image, Layer, Unviewable, View
from modelhub_hpc.viewing.outlines import Outline, outline


@dataclass(frozen=True, eq=False)
class Looks:
    """views: first the one on the input, if it can be shown; then the outputs that lie on other grids.

    layers, outlines: by the number of the output; refusal: why the input is not shown.
    """

    views: tuple[View, ...]
    layers: tuple[tuple[Layer, ...], ...]
    outlines: tuple[Outline | None, ...]
    refusal: str

    def stack(self, output: int) -> npt.NDArray[Any] | None:
        """The voxels of an output as z, y, x, with its channels at the end if it has several; None for no volume."""
        found = self.layers[output] if output < len(self.layers) else ()
        if not found or found[0].voxels.ndim != 3:
            return None
        return found[0].voxels if len(found) == 1 else np.stack([each.voxels for each in found], axis=-1)

    def place(self, output: int) -> Geometry | None:
        """Where that lies; None where it is not on the input's grid."""
        on_grid = any(layer in self.layers[output] for layer in self.views[0].layers)
        return self.views[0].geometry if on_grid else None


@functools.lru_cache(maxsize=3)
def looks(kept: Kept, ground: int) -> Looks:
    """ground: the number of the input that the outputs are laid over."""
    image, refusal = _image(str(kept.given[ground].path))
    grid = None if image is None else image.voxels.shape[:3]
    layers = tuple(_layers(kept, output, grid) for output in kept.outputs)
    outlines = tuple(_outline(output) for output in kept.outputs)
    every = [layer for group in layers for layer in group]
    lines = [each for each in outlines if each is not None]
    first, others = viewing.view_of(image, every, lines)
    return Looks((*([first] if first else []), *others), layers, outlines, refusal)


def _image(path: str) -> tuple[Image | None, str]:
    try:
        return viewing.read(path), ""
    except Unviewable as reason:
        return None, str(reason)


def _layers(kept: Kept, output: Said, grid: Sequence[int] | None) -> tuple[Layer, ...]:
    axes, place = "", None if grid is None else (grid[0], grid[1], grid[2])
    if output.name in kept.arrays:
        axes = str(kept.attributes(output.name).get("axes", ""))
        array = kept.arrays[output.name]
    else:
        array = as_array(output.prediction)
    return viewing.layers_of(output.name, output.type, array, axes, place)


def as_array(prediction: Any) -> npt.NDArray[Any]:
    """Nested lists of numbers as an array; an empty one for anything else."""
    try:
        array = np.asarray(prediction)
    except ValueError:
        return np.zeros(0)
    return array if array.dtype.kind in "biuf" else np.zeros(0)


def _outline(output: Said) -> Outline | None:
    return outline(output.name, output.prediction) if output.type == "contour" else None
