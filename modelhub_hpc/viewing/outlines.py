"""Contours: lists of points, as models give them, on the planes of a view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.viewing.poses import Pose, on_plane

_MOST_POINTS = 100_000


@dataclass(frozen=True)
class Outline:
    """Lines of points x, y or x, y, z in voxels as stored; [0, 0] is the centre of the first. closed: rings."""

    name: str
    lines: tuple[npt.NDArray[np.float64], ...]
    closed: bool = True

    @property
    def points(self) -> int:
        return sum(len(line) for line in self.lines)

    def drawn(
        self, pose: Pose, size: tuple[int, int, int], plane: str
    ) -> Iterator[tuple[int | None, npt.NDArray[np.float64]]]:
        """(slice, points (row, column)) on a plane; slice None: on every one. Nothing on the other planes.

        size: z, y, x in display order.
        """
        if plane != pose.plane:
            return
        for line in self.lines:
            deep = line.shape[1] == 3
            whole = line if deep else np.column_stack([line, np.zeros(len(line))])
            places = on_plane(pose.points(whole, size), plane, size)
            yield (int(round(float(places[0, 0]))) if deep else None), places[:, 1:]


def outline(name: str, prediction: Any) -> Outline | None:
    """[[x, y], ...] or several of these; None for anything else, and for more points than can be drawn."""
    lines = [prediction] if _is_line(prediction) else prediction if isinstance(prediction, list) else []
    if not lines or not all(map(_is_line, lines)) or sum(map(len, lines)) > _MOST_POINTS:
        return None
    arrays = tuple(np.array(line, np.float64) for line in lines)
    return Outline(name, arrays) if all(np.isfinite(each).all() for each in arrays) else None


def _is_line(given: Any) -> bool:
    return (
        isinstance(given, list)
        and len(given) > 0
        and isinstance(given[0], list)
        and len(given[0]) in (2, 3)
        and all(isinstance(point, list) and len(point) == len(given[0]) and _numbers(point) for point in given)
    )


def _numbers(point: list[Any]) -> bool:
    return all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in point)
