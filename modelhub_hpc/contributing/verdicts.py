"""What a trial proves, check by check, and the problems that it meets."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelhub_hpc.contributing import reasons
from modelhub_hpc.contributing.reasons import Reason

_EVIDENCE = 2000  # characters
# in the order in which they are told
CHECKS = (
    "starts",
    "predicts",
    "outputs",
    "expected",
    "repeats",
    "offline",
    "read-only",
    "no root",
    "another user",
)
_OF_CONTAINERS = ("offline", "read-only", "no root", "another user")
_COUNTED = ("expected", "repeats", "another user")  # which hold only if something was compared
_TOLD = ("expected", "another user")  # why they were not tried


@dataclass(frozen=True)
class Problem:
    """What is wrong. sample: "" where it is of all; evidence: a traceback, say."""

    check: str
    sample: str
    what: str
    mend: str
    evidence: str = ""


@dataclass(frozen=True)
class Check:
    """ok: None for what was not tried."""

    name: str
    ok: bool | None
    detail: str
    problems: tuple[Problem, ...]


@dataclass
class Tally:
    """What is known so far. contained: the model runs in a container; details: what to say of a check that holds.

    predicted: samples that were predicted; counts: comparisons by check.
    """

    contained: bool
    details: dict[str, str]
    predicted: int = 0
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, check: str, sample: str, what: str, mend: str, evidence: str = "") -> None:
        self.problems.append(Problem(check, sample, what, mend, evidence[-_EVIDENCE:]))

    def failed(self, check: str, sample: str, error: str, evidence: str) -> None:
        """A failure, of `check` and, where a container forbids what the model did, of the check that is about that."""
        reason = reasons.find(f"{error}\n{evidence}") if self.contained else None
        reason = reason or Reason(check, error, "The traceback says where.")
        if check == "another user":
            self.add(check, sample, f"works for you, but not for another user: {reason.what}", reason.mend, evidence)
            return
        self.add(check, sample, error, reason.mend, evidence)
        if reason.check != check:
            self.add(reason.check, sample, reason.what, reason.mend)

    def checks(self) -> Iterator[Check]:
        for name in CHECKS:
            problems = tuple(each for each in self.problems if each.check == name)
            ok = self._holds(name) if not problems else False
            told = self.details.get(name, "not tried") if ok or name in _TOLD else "not tried"
            yield Check(name, ok, problems[0].what if problems else told, problems)

    def _holds(self, name: str) -> bool | None:
        if name in _OF_CONTAINERS and not self.contained:
            return None
        tried = self.counts[name] if name in _COUNTED else self.predicted or name == "starts"
        return True if tried else None
