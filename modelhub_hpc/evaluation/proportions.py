"""Shares of cases: their confidence intervals, and whether two models' shares differ."""

from __future__ import annotations

from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proportion:
    """count of total; value, low and high are shares, 0 to 1. total is never 0."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, 95 %, without continuity correction.

        Unlike the textbook one (value plus or minus two standard errors) it keeps its promise near 0 % and 100 %, where
        models are.
        """
        from scipy.stats import binomtest  # type: ignore[import-untyped]

        found = binomtest(self.count, self.total).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test: cases that only one of two models got right, each way."""
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0
