"""What is wrong with a contribution: where, what, and how it is mended."""

from __future__ import annotations

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
