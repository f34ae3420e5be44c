"""One output of one case, as all formats see it: it is read once, whatever is made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import inputs, viewing
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import InputError, UnfitError
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.plan import Case
from modelhub_hpc.plan.files import identity_of, series_of
from modelhub_hpc.record import Output, Volume, load_array, load_volume
from modelhub_hpc.runs.reading import Reading
from modelhub_hpc.viewing import Unviewable

if TYPE_CHECKING:
    from pydicom import Dataset

_WHOLE = np.uint8, np.int16, np.int32


class LeftOut(Exception):
    """Why an output of a case is not there in a format. empty: there is nothing in it, which is no fault."""

    def __init__(self, reason: str, empty: bool = False) -> None:
        super().__init__(reason)
        self.empty = empty


def missing(package: str) -> UnfitError:
    """Said where a format needs a package that is not installed."""
    return UnfitError(f"""
        This format needs {package}, which is not installed here. Install what exports need:
          pip install 'modelhub-hpc[results]'""")


@dataclass(frozen=True, eq=False)
class Source:
    """The input of a case as it lies there now, the first one where there are several. Each member is read once."""

    case: Case

    @property
    def path(self) -> str:
        return self.case.inputs[0][1]

    @cached_property
    def geometry(self) -> Geometry | None:
        try:
            return inputs.geometry(self.path, series_of(self.case))
        except InputError:
            return None

    @cached_property
    def image(self) -> viewing.Image:
        """Raises LeftOut where it cannot be shown, or is another than the model has seen."""
        self.demand_same()
        try:
            return viewing.read(self.path, series_of(self.case))
        except Unviewable as reason:
            raise LeftOut(f"the input cannot be shown: {reason}") from None

    @cached_property
    def slices(self) -> tuple[Dataset, ...]:
        """The headers of the DICOM files, along the normal of their planes, as volumes have them.

        Raises LeftOut for any other input.
        """
        import pydicom

        if not (os.path.isdir(self.path) or inputs.is_dicom(self.path)):
            raise LeftOut("the input is not DICOM")
        self.demand_same()
        found = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in self._dicom_files()]
        try:
            ordered = sorted(found, key=_height) if len(found) > 1 else found
        except (AttributeError, TypeError, ValueError, IndexError):
            raise LeftOut("the DICOM files do not say where their slices lie") from None
        if not ordered:
            raise LeftOut("the input is a folder without a DICOM file")
        return tuple(ordered)

    def _dicom_files(self) -> list[str]:
        if series_of(self.case) or not os.path.isdir(self.path):
            return list(series_of(self.case) or (self.path,))
        paths = (os.path.join(self.path, name) for name in sorted(os.listdir(self.path)))
        return [path for path in paths if os.path.basename(path).upper() != "DICOMDIR" and inputs.is_dicom(path)]

    def demand_same(self) -> None:
        """Raises LeftOut where an input is gone or was changed since the run was planned."""
        try:
            found = identity_of(self.case)
        except InputError as error:
            raise LeftOut(f"the input is not there any more: {error.kind}") from None
        if found != (self.case.input_bytes, self.case.input_mtime_ns):
            raise LeftOut("the input was changed after the run was planned")


def _height(data: Dataset) -> float:
    axes = [float(each) for each in data.ImageOrientationPatient]
    return float(np.dot(np.cross(axes[:3], axes[3:]), [float(each) for each in data.ImagePositionPatient]))


@dataclass(frozen=True, eq=False)
class Item:
    """An output of a case. name: its own, as a part of file names."""

    run: Reading
    source: Source
    spec: OutputSpec
    output: Output
    name: str

    @property
    def type(self) -> str:
        return self.spec.type

    @property
    def labels(self) -> Mapping[str, str]:
        return self.spec.labels

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """As the model gave it. Raises LeftOut for an output that is no array."""
        if self.output.dataset is None:
            raise LeftOut("it is not an array")
        return load_array(self.run.paths, self.output)

    @cached_property
    def volume(self) -> Volume:
        """Voxels c, z, y, x, or z, y, x where there is one channel. Raises LeftOut where nobody knows the order."""
        try:
            found = load_volume(self.run.paths, self.output)
        except ValueError as error:
            raise LeftOut(str(error)) from None
        voxels = found.voxels
        channels = tuple(length for length in voxels.shape[:-3] if length > 1)
        if len(channels) > 1:
            raise LeftOut(f"it has {len(channels)} axes beside x, y and z")
        return Volume(voxels.reshape(channels + voxels.shape[-3:]), found.geometry)

    @cached_property
    def mask(self) -> npt.NDArray[Any]:
        """Labels z, y, x in the smallest type that holds them. Raises LeftOut for what is no map of labels."""
        if self.volume.voxels.ndim != 3:
            raise LeftOut(f"it has {self.volume.voxels.shape[0]} channels, which are no map of labels")
        return whole(self.volume.voxels)


def whole(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels in the smallest integer type that holds them; LeftOut for values that are no labels."""
    if voxels.dtype.kind not in "biuf":
        raise LeftOut(f"values of the type {voxels.dtype} are no labels")
    if voxels.dtype.kind == "f" and not np.array_equal(voxels, np.rint(voxels)):  # never true of NaN
        raise LeftOut("its values are not whole numbers, which labels are")
    low, high = (float(voxels.min()), float(voxels.max())) if voxels.size else (0.0, 0.0)
    for kind in _WHOLE:
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return voxels.astype(kind, copy=False)
    raise LeftOut(f"its labels reach from {low:.0f} to {high:.0f}, beyond 32 bits")
