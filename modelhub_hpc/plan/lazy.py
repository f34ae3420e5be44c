"""Sequences of millions that cost little: made when looked at, compared by their hashes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

S = TypeVar("S")
T = TypeVar("T")


class Mapped(Sequence[T]):
    """What a function makes of each item of a sequence, made anew whenever it is looked at."""

    def __init__(self, function: Callable[[S], T], items: Sequence[S]) -> None:
        self._function: Callable[[Any], T] = function
        self._items: Sequence[Any] = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return map(self._function, self._items)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Mapped[T]: ...

    def __getitem__(self, at: int | slice) -> T | Mapped[T]:
        if isinstance(at, slice):
            return Mapped(self._function, self._items[at])
        return self._function(self._items[at])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None  # type: ignore[assignment]


def alike(items: Sequence[Hashable]) -> list[int]:
    """Where items are that may equal others of them: all that do, and rarely one that does not."""
    hashes = np.fromiter(map(hash, items), np.int64, len(items))
    ordered = np.sort(hashes)
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    found: list[int] = np.flatnonzero(np.isin(hashes, shared)).tolist() if len(shared) else []
    return found
