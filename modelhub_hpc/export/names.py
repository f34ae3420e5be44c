"""How files of an export are called: as the input where that is clear, and never like those of another case."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from modelhub_hpc import inputs
from modelhub_hpc.plan import Case, safe_name

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_BLOCK = 10_000

Candidates = Callable[[Case], Sequence[str]]


class Names:
    """The name of each case: the first of its candidates that is no other's, else its last one.

    What is kept of a case is eight bytes, and of the names that several cases would have.
    """

    def __init__(self, cases: Iterable[Case], candidates: Candidates) -> None:
        """candidates: names for a case, the best first; the last is one that no other case has as its last."""
        self._candidates = candidates
        keys = np.sort(_keys(cases, candidates))
        self._shared = frozenset(keys[1:][keys[1:] == keys[:-1]].tolist())

    def of(self, case: Case) -> str:
        found = self._candidates(case)
        return next((name for name in found if _key(name) not in self._shared), found[-1])


def plain_names(case: Case) -> Sequence[str]:
    """The input's own name where the case is one file and has a plain name, then the case's id."""
    own = stem(case.inputs[0][1]) if len(case.inputs) == 1 else ""
    return (own, case.id) if _PLAIN.fullmatch(own) else (case.id,)


def stem(path: str) -> str:
    """The name of an input without the extension of a known type."""
    name = os.path.basename(path.rstrip("/"))
    return name[: -len(inputs.extension(path))] if inputs.mime(path) else name


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names of outputs as names of files, told apart where they are alike.

    >>> distinct(["mask", "Mask", "../x", "a b"])
    ('mask', 'Mask-2', '_._x', 'a_b')
    """
    found: list[str] = []
    for name in names:
        plain = candidate = safe_name(name, 80)
        number = 1
        while candidate.lower() in {each.lower() for each in found}:
            number += 1
            candidate = f"{plain}-{number}"
        found.append(candidate)
    return tuple(found)


def _keys(cases: Iterable[Case], candidates: Candidates) -> npt.NDArray[np.uint64]:
    blocks = list(_blocks(_key(name) for case in cases for name in {each.lower(): each for each in candidates(case)}))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.uint64)


def _blocks(keys: Iterator[int]) -> Iterator[npt.NDArray[np.uint64]]:
    block: list[int] = []
    for key in keys:
        block.append(key)
        if len(block) == _BLOCK:
            yield np.array(block, np.uint64)
            block = []
    yield np.array(block, np.uint64)


def _key(name: str) -> int:
    """Of names that differ in case only, which some file systems hold for the same, one and the same."""
    return int.from_bytes(hashlib.blake2b(name.lower().encode(), digest_size=8).digest(), "big")
