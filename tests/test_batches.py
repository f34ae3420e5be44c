"""How many cases are computed together, as their times say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest

from modelhub_hpc.batches import LARGEST, Batches


def settle(cost: Callable[[int], float], most: int = 10**6) -> int:
    """The size that "auto" ends with, where a batch of n takes cost(n) seconds, and more than `most` fit nowhere."""
    batches = Batches("auto")
    for _ in range(40):
        size = next(batches.sizes())
        for _ in range(size):
            batches.took(size, size if size <= most else 1, cost(size) / size)
    return batches.size


@pytest.mark.parametrize(
    ("cost", "size"),
    [
        (lambda n: n, 1),  # nothing is won
        (lambda n: 1.0, LARGEST),  # a device that is idle with one
        (lambda n: 10 + n, LARGEST),
        (lambda n: max(1.0, n / 8), 8),  # full with eight
    ],
)
def test_auto_grows_while_it_pays(cost: Callable[[int], float], size: int) -> None:
    assert settle(cost) == size


def test_what_does_not_fit_is_not_tried_again() -> None:
    assert settle(lambda n: 1.0, most=16) == 16


def test_a_slow_first_batch_of_a_size_is_not_held_against_it() -> None:
    seen: set[int] = set()

    def cost(size: int) -> float:
        first = size not in seen
        seen.add(size)
        return 100.0 if first else 1.0

    assert settle(cost) == LARGEST


def test_answers_to_what_was_asked_before_do_not_count() -> None:
    batches = Batches("auto")
    for _ in range(2):
        batches.took(1, 1, 1.0)
    assert batches.size == 2
    for _ in range(10):
        batches.took(1, 1, 1.0)
    assert batches.size == 2


def test_cases_that_failed_tell_nothing() -> None:
    batches = Batches("auto")
    for seconds in (None, 1.0, None, 1.0):
        batches.took(1, 1, seconds)
    assert batches.size == 2
    for _ in range(4):
        batches.took(2, 2, 0.5)
    assert batches.size == 4


def test_after_a_crash_they_come_one_by_one() -> None:
    batches = Batches("8")
    sizes = batches.sizes()
    assert next(sizes) == 8
    batches.split(3)
    assert list(islice(sizes, 5)) == [1, 1, 1, 8, 8]
