"""Models ranked case by case, as the BraTS challenges rank them.

Of each case, every model gets a rank for each region and measure, 1 being the best; models that are equal share the
mean of their ranks, and one that has not solved the case is last. The mean over regions and measures is its rank of
that case, and the mean over cases its score: the smaller, the better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERMUTATIONS = 100_000
_BLOCK = 4096
_ROUNDING = 1e-9  # by which sums of the same ranks in another order may differ


@dataclass(frozen=True)
class Difference:
    """Of two models, by their places. difference: the score of the first less that of the second.

    p: two-sided; exact: all permutations were tried.
    """

    first: int
    second: int
    difference: float
    p: float
    exact: bool


def case_ranks(penalties: Floats) -> Floats:
    """(case, criterion, model), the smaller the better, infinity for a model without -> (case, model)."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    ranks: Floats = rankdata(penalties, axis=2).mean(axis=1)
    return ranks


def positions(scores: Floats) -> list[float]:
    """The place of each model by its score, 1 for the best; equal ones share the mean of their places."""
    from scipy.stats import rankdata

    return [float(place) for place in rankdata(np.round(scores, 9))]


def differences(ranks: Floats, seed: int) -> list[Difference]:
    """A permutation test of each pair of models; ranks: (case, model), a row for at least one case."""
    pairs = combinations(range(ranks.shape[1]), 2)
    return [_difference(ranks, first, second, np.random.default_rng(seed)) for first, second in pairs]


def _difference(ranks: Floats, first: int, second: int, random: np.random.Generator) -> Difference:
    """Were the models alike, each case could as well have given the one the other's rank: two-sided, paired by case."""
    steps = ranks[:, first] - ranks[:, second]
    seen = abs(steps.sum()) - _ROUNDING
    exact = 2 ** len(steps) <= PERMUTATIONS
    signs = _every_sign(len(steps)) if exact else _random_signs(len(steps), random)
    counts = [(int((np.abs(block @ steps) >= seen).sum()), len(block)) for block in signs]
    extreme, total = (sum(column) for column in zip(*counts))
    # what was seen is one of the ways: among all of them, and beside those that were drawn
    p = extreme / total if exact else (extreme + 1) / (total + 1)
    return Difference(first, second, float(steps.mean()), p, exact)


def _every_sign(cases: int) -> Iterator[Floats]:
    for start in range(0, 2**cases, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, 2**cases))[:, np.newaxis]
        yield ((numbers >> np.arange(cases) & 1) * 2 - 1).astype(np.float64)


def _random_signs(cases: int, random: np.random.Generator) -> Iterator[Floats]:
    for start in range(0, PERMUTATIONS, _BLOCK):
        yield (random.integers(0, 2, (min(_BLOCK, PERMUTATIONS - start), cases)) * 2 - 1).astype(np.float64)
