"""From the order in which voxels are stored to the one in which people look at them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.inputs import Geometry

# the planes, and the axis of the display order (z, y, x) that each one is cut across
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
# what lies left, right, above and below in each: right, left, anterior, posterior, head (S), feet (I)
_EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


@dataclass(frozen=True)
class Pose:
    """How stored z, y, x becomes the display order: z towards the head, y to the back, x to the patient's left.

    axes: the stored axis that each display axis is; flipped: whether it runs the other way. known: whether the
    place in the patient is known; if not, the stored order is shown.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)
    known: bool = False

    @classmethod
    def of(cls, geometry: Geometry | None) -> Pose:
        """The one next to the geometry's directions: oblique grids are turned by right angles only."""
        if geometry is None:
            return cls()
        directions = np.reshape(geometry.direction, (3, 3))[::-1, ::-1]  # rows: world z, y, x; columns: stored z, y, x
        best = max(
            itertools.permutations(range(3)),
            key=lambda axes: sum(abs(directions[world, axis]) for world, axis in enumerate(axes)),
        )
        flips = [bool(directions[world, axis] < 0) for world, axis in enumerate(best)]
        return cls((best[0], best[1], best[2]), (flips[0], flips[1], flips[2]), True)

    @property
    def plane(self) -> str:
        """The one that the stored slices lie in."""
        return next(name for name, axis in PLANES.items() if self.axes[axis] == 0)

    def turned(self, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of z, y, x (and further axes after them) in the display order."""
        rest = range(3, voxels.ndim)
        ordered = voxels.transpose(*self.axes, *rest)
        turned: npt.NDArray[Any] = ordered[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        return turned

    def spacing(self, geometry: Geometry | None) -> tuple[float, float, float]:
        """mm between voxels in the display order; 1 where it is not known."""
        stored = geometry.spacing[::-1] if geometry else (1.0, 1.0, 1.0)
        return stored[self.axes[0]], stored[self.axes[1]], stored[self.axes[2]]

    def edges(self, plane: str) -> str:
        """The letters left, right, above and below; "" where the place is not known."""
        return _EDGES[plane] if self.known else ""

    def points(self, points: npt.NDArray[np.float64], size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Points given as stored x, y, z (n, 3) as z, y, x of the display; size: of the display's voxels."""
        ordered = points[:, ::-1][:, list(self.axes)]
        for axis, flip in enumerate(self.flipped):
            if flip:
                ordered[:, axis] = size[axis] - 1 - ordered[:, axis]
        return ordered


def cut(voxels: npt.NDArray[Any], plane: str, index: int) -> npt.NDArray[Any]:
    """One slice of voxels in display order, rows from above: a view."""
    taken: npt.NDArray[Any] = np.moveaxis(voxels, PLANES[plane], 0)[index]
    return taken if plane == "axial" else taken[::-1]


def extent(size: tuple[int, int, int], plane: str) -> tuple[int, int, int]:
    """(slices, rows, columns) of a plane; size: z, y, x."""
    z, y, x = size
    return {"axial": (z, y, x), "coronal": (y, z, x), "sagittal": (x, z, y)}[plane]


def steps(spacing: tuple[float, float, float], plane: str) -> tuple[float, float]:
    """mm between (rows, columns) of a plane; spacing: z, y, x."""
    z, y, x = spacing
    return {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}[plane]


def on_plane(points: npt.NDArray[np.float64], plane: str, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """(slice, row, column) of points given as z, y, x of the display."""
    z, y, x = points.T
    up = size[0] - 1 - z
    columns = {"axial": (z, y, x), "coronal": (y, up, x), "sagittal": (x, up, y)}[plane]
    return np.stack(columns, axis=1)
