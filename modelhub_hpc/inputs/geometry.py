"""Where the voxels of a volume lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Geometry:
    """A grid of voxels. All in x, y, z order; LPS world axes (+x left, +y posterior, +z superior), mm.

    size: voxels per axis. spacing: mm. origin: centre of voxel 0. direction: 3 x 3 row by row, whose
    columns are the world directions of the voxel axes: world = origin + direction @ (spacing * index).
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    def is_grid_of(self, other: Geometry) -> bool:
        """Whether the voxels of both lie in the same places, to a hundredth of the shortest spacing."""
        if self.size != other.size:
            return False
        near = 0.01 * min(self.spacing)
        return bool(np.abs(self._corners() - other._corners()).max() <= near)

    def _corners(self) -> NDArray[np.float64]:
        """The world places of the first voxel, and of the last along each axis."""
        steps = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        ends = np.vstack([np.zeros(3), np.diag(np.asarray(self.size) - 1)])
        corners: NDArray[np.float64] = np.asarray(self.origin) + ends @ steps.T
        return corners


def of_steps(size: Sequence[int], steps: NDArray[np.float64], origin: Sequence[float]) -> Geometry | None:
    """The geometry whose voxel axes are the columns of `steps` (3 x 3, mm, LPS); None for a singular one."""
    numbers = np.concatenate([steps.ravel(), np.asarray(origin, dtype=np.float64)])
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e9:
        return None
    spacing = np.linalg.norm(steps, axis=0)
    if spacing.min() < 1e-12 or abs(np.linalg.det(steps / spacing)) < 1e-6:
        return None
    nx, ny, nz = ([int(n) for n in size] + [1, 1, 1])[:3]
    ox, oy, oz = (float(each) for each in origin)
    sx, sy, sz = (float(each) for each in spacing)
    direction = tuple(float(each) for each in (steps / spacing).ravel())
    return Geometry((nx, ny, nz), (sx, sy, sz), (ox, oy, oz), direction)


def filled(columns: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """A 3 x 3 of steps from one to three columns of two or three numbers; missing axes become unit steps."""
    steps = np.eye(3)
    for i, column in enumerate(columns[:3]):
        steps[:, i] = 0.0
        steps[: len(column), i] = column[:3]
    return steps
