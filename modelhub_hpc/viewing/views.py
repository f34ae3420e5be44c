"""One image with what lies over it: what a viewer shows, plane by plane and slice by slice."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.errors import times
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.viewing import layers as painting
from modelhub_hpc.viewing import poses
from modelhub_hpc.viewing.images import Image
from modelhub_hpc.viewing.layers import Layer
from modelhub_hpc.viewing.outlines import Outline
from modelhub_hpc.viewing.poses import Pose


@dataclass(frozen=True)
class View:
    """Layers and outlines over an image, or over nothing. All of them have the grid of the first.

    Slices are counted in the display order, from 0: axial ones from the feet, coronal ones from the front, sagittal
    ones from the patient's right.
    """

    size: tuple[int, int, int]
    image: Image | None
    layers: tuple[Layer, ...] = ()
    outlines: tuple[Outline, ...] = ()
    geometry: Geometry | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def pose(self) -> Pose:
        return Pose.of(self.geometry)

    @property
    def planes(self) -> tuple[str, ...]:
        """Those that are worth a look, that of the stored slices first."""
        own = self.pose.plane
        others = [name for name in poses.PLANES if name != own]
        return (own, *others) if self.size[0] > 1 and (self.pose.known or min(self.size) > 7) else (own,)

    def extent(self, plane: str) -> tuple[int, int, int]:
        """(slices, rows, columns)"""
        return poses.extent(self._turned_size, plane)

    def steps(self, plane: str) -> tuple[float, float]:
        """mm between (rows, columns); 1 where they are not known."""
        return poses.steps(self.pose.spacing(self.geometry), plane)

    def richest(self, plane: str) -> int:
        """The slice with most of what the masks mark, else of the heat; the middle one where there is nothing."""
        slices = self.extent(plane)[0]
        marks = np.zeros(slices)
        for layer in self.layers:
            if layer.kind != "picture":
                marks += _amounts(self.pose.turned(layer.voxels), plane, layer.kind == "mask")
        for outline in self.outlines:
            for index, _ in outline.drawn(self.pose, self._turned_size, plane):
                if index is not None and 0 <= index < slices:
                    marks[index] += 1
        return int(marks.argmax()) if marks.max() > marks.min() else slices // 2

    def ground(self, plane: str, index: int, window: tuple[float, float] | None = None) -> npt.NDArray[np.uint8]:
        """The slice of the image: rows, columns[, 3]; black where there is none."""
        if self.image is None:
            return np.zeros(self.extent(plane)[1:], np.uint8)
        return painting.grey(self._cut(self.image.voxels, plane, index), window or self.image.window)

    def overlay(self, layer: Layer, plane: str, index: int) -> npt.NDArray[np.uint8]:
        """The slice of a layer: rows, columns, RGBA."""
        return painting.rgba(layer, self._cut(layer.voxels, plane, index))

    def drawn(self, outline: Outline, plane: str, index: int) -> str:
        """The outline in this slice as data of an SVG path, in mm from the upper left corner; "" for none."""
        rows, columns = self.steps(plane)
        parts = self.lines(outline, plane, index)
        return " ".join(_path((points + 0.5) * (rows, columns), outline.closed) for points in parts)

    def lines(self, outline: Outline, plane: str, index: int) -> list[npt.NDArray[np.float64]]:
        """The outline in this slice as points (row, column) in voxels."""
        found = outline.drawn(self.pose, self._turned_size, plane)
        return [points for at, points in found if at is None or at == index]

    def _cut(self, voxels: npt.NDArray[Any], plane: str, index: int) -> npt.NDArray[Any]:
        return poses.cut(self.pose.turned(voxels), plane, index)

    @property
    def _turned_size(self) -> tuple[int, int, int]:
        z, y, x = (self.size[axis] for axis in self.pose.axes)
        return z, y, x


def view_of(
    image: Image | None, layers: Sequence[Layer], outlines: Sequence[Outline] = ()
) -> tuple[View | None, tuple[View, ...]]:
    """What lies on the image's grid, together; and a view of its own for each layer that does not.

    None where there is neither image nor outline.
    """
    if image is None:
        return None, tuple(_alone(layer) for layer in layers)
    size = _grid(image.voxels)
    on = tuple(layer for layer in layers if _grid(layer.voxels) == size)
    off = tuple(_alone(layer, size) for layer in layers if _grid(layer.voxels) != size)
    return View(size, image, on, tuple(outlines), image.geometry, image.notes), off


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Rows, columns[, 3 or 4] as a PNG file."""
    from PIL import Image as Pictures

    target = io.BytesIO()
    Pictures.fromarray(np.ascontiguousarray(pixels)).save(target, "PNG", compress_level=1)
    return target.getvalue()


def _grid(voxels: npt.NDArray[Any]) -> tuple[int, int, int]:
    z, y, x = voxels.shape[:3]
    return z, y, x


def _alone(layer: Layer, size: tuple[int, int, int] | None = None) -> View:
    """A picture is its own ground; masks and heat lie on black."""
    grid = _grid(layer.voxels)
    found, wanted = (times(each[::-1]) for each in (grid, size or grid))
    notes = (f"{layer.name} has {found} voxels and the input {wanted}: it is shown by itself.",) if size else ()
    if layer.kind == "picture":
        window = painting.picture_window(layer)
        colours = layer.voxels.ndim == 4 and layer.voxels.dtype != np.uint8
        voxels = painting.scaled(layer.voxels, window) if colours else layer.voxels
        return View(grid, Image(voxels, None, window), notes=notes)
    return View(grid, None, (layer,), notes=notes)


def _amounts(voxels: npt.NDArray[Any], plane: str, counts: bool) -> npt.NDArray[np.float64]:
    """How much there is in each slice: marked voxels, or the sum of what is finite."""
    across = tuple(axis for axis in range(3) if axis != poses.PLANES[plane])
    amounts = voxels != 0 if counts else np.nan_to_num(voxels, posinf=0.0, neginf=0.0) * 1e-6
    totals: npt.NDArray[np.float64] = amounts.sum(axis=across, dtype=np.float64)
    return totals


def _path(points: npt.NDArray[np.float64], closed: bool) -> str:
    """Points (row, column) as data of an SVG path."""
    ends = " L".join(f"{x:.2f} {y:.2f}" for y, x in points)
    return f"M{ends}{' Z' if closed else ''}"
