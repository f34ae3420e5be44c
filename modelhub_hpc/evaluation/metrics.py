"""How well a mask fits its reference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
PERCENT = 95


@dataclass(frozen=True)
class Measures:
    """Of one region in one case. dice, sensitivity, specificity: 0 to 1; hd95: mm, or what the spacing is in.

    sensitivity is None where the reference is empty, specificity where it leaves nothing out: there is nothing to find
    or to leave out, for any model.
    """

    dice: float
    hd95: float
    sensitivity: float | None
    specificity: float | None


def measures(found: Mask, truth: Mask, spacing: Sequence[float]) -> Measures:
    """Of masks on one grid, z, y, x or y, x; spacing: in that order.

    Both masks empty: Dice 1 and HD95 0. One of them empty: Dice 0, and for HD95 the diagonal of the grid, which
    is 373.13 mm for BraTS, as its challenge has it.
    """
    both, positives = _count(found & truth), _count(truth)
    either, negatives = _count(found) + positives, truth.size - positives
    return Measures(
        dice=2 * both / either if either else 1.0,
        hd95=_hd95(found, truth, spacing),
        sensitivity=both / positives if positives else None,
        specificity=_count(~(found | truth)) / negatives if negatives else None,
    )


def worst(truth: Mask, spacing: Sequence[float]) -> Measures:
    """What a model gets for a case that it has not solved."""
    positives = _count(truth)
    return Measures(
        dice=0.0,
        hd95=diagonal(truth.shape, spacing),
        sensitivity=0.0 if positives else None,
        specificity=0.0 if positives < truth.size else None,
    )


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """From corner to corner of a grid: farther than any two of its voxels."""
    return float(np.linalg.norm(np.multiply(shape, spacing)))


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _hd95(found: Mask, truth: Mask, spacing: Sequence[float]) -> float:
    """The larger one of the two directions' 95th percentiles, surface elements weighted by their area."""
    if not found.any() or not truth.any():
        return 0.0 if found.any() == truth.any() else diagonal(truth.shape, spacing)
    import surface_distance  # type: ignore[import-untyped]

    axes = [i for i, length in enumerate(truth.shape) if length > 1 or truth.ndim - i <= 2]
    flat = tuple(slice(None) if i in axes else 0 for i in range(truth.ndim))
    steps = [float(spacing[i]) for i in axes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it takes functions of SciPy from where they were
        distances: Any = surface_distance.compute_surface_distances(truth[flat], found[flat], steps)
    return float(surface_distance.compute_robust_hausdorff(distances, PERCENT))
