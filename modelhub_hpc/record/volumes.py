"""A stored array as a volume: its axes in one order, and where its voxels lie in the patient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.errors import times
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.record.hdf5 import AttributeValue

_SPACE = "z", "y", "x"


@dataclass(frozen=True)
class Volume:
    """Voxels that lie on the grid of the model's input, of the first one where it has several.

    voxels: the last three axes are z, y, x (z is 1 long for a plane); any others come before, as they were.
    geometry: size, spacing, origin and direction in x, y, z order; LPS world axes, mm. None where the input has
    none. SimpleITK takes both as they are: GetImageFromArray(voxels), SetSpacing(geometry.spacing) ...
    """

    voxels: npt.NDArray[Any]
    geometry: Geometry | None


def volume(array: npt.NDArray[Any], attributes: Mapping[str, AttributeValue]) -> Volume:
    """A stored array and the attributes of its dataset, as a volume; the voxels are a view of the array.

    Raises ValueError where the order of its axes is not known, does not fit its shape, or where the array is not on
    the grid of the input: then nobody knows where it lies.
    """
    voxels = _in_order(array, str(attributes.get("axes", "")))
    geometry = grid(attributes)
    found = voxels.shape[:-4:-1]
    if geometry and found != geometry.size:
        wanted = times(geometry.size)
        raise ValueError(f"the array is {times(found)} voxels in x, y, z, the grid of the input {wanted}")
    return Volume(voxels, geometry)


def grid(attributes: Mapping[str, AttributeValue]) -> Geometry | None:
    """The grid of the input of which an array was made; None where the input had none."""
    if "spacing" not in attributes:
        return None
    known: dict[str, Any] = {f.name: attributes[f.name] for f in dataclasses.fields(Geometry)}
    return Geometry(**known)


def _in_order(array: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    names = axes.split(",") if axes else []
    if not {"x", "y"} <= set(names):
        known = f"its axes are {axes!r}" if axes else 'no "axes" are declared of the output in config.json'
        raise ValueError(f"the array is no volume: {known}")
    if len(names) != array.ndim:
        raise ValueError(f"axes {axes!r} are declared, and the array has {array.ndim}: {times(array.shape)}")
    if "z" not in names:
        names, array = ["z", *names], array[np.newaxis]
    others = [i for i, name in enumerate(names) if name not in _SPACE]
    ordered: npt.NDArray[Any] = array.transpose(*others, *(names.index(name) for name in _SPACE))
    return ordered
