"""What is wrong with a contribution: where, what, and how it is mended."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One mistake. check: what was looked at, such as "config"; where: the file, and its line where that is known.

    An error keeps the model from being found, run or published; a warning is for the contributor to judge.
    """

    level: Level
    check: str
    where: str
    what: str
    mend: str


def error(check: str, where: str, what: str, mend: str) -> Finding:
    return Finding("error", check, where, what, mend)


def warning(check: str, where: str, what: str, mend: str) -> Finding:
    return Finding("warning", check, where, what, mend)


def meant(word: str, known: Iterable[str]) -> str | None:
    """The word that somebody who wrote this may have meant.

    >>> meant("provevance", ["provenance", "format"]), meant("mask", ["mask_image"]), meant("x", ["y"])
    ('provenance', 'mask_image', None)
    """
    near = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.55)
    return near[0] if near else None
