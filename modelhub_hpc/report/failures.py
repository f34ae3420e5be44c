"""Failed cases, grouped by what they have in common; of each group as many are told of as a page has room for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from markupsafe import escape

from modelhub_hpc.plan import Case
from modelhub_hpc.record import CaseResult, FailureKind

# the model's process died of them, also when they were tried alone
QUARANTINED = (FailureKind.CRASH.value, FailureKind.TIMEOUT.value, FailureKind.MEMORY.value)
_EVIDENCE_CHARS = 6000
_ROOM = 6_000_000  # bytes of a page that all of them may take
_ROW = 500  # bytes of a page that a case takes beside its own words
_MOST_CASES = 250  # of a group that are listed
_MOST_GROUPS = 40  # beside those for what is in no other
_MESSAGE_CHARS = 500
_PATH = re.compile(r"(?:/[^\s/:;,'\"()]+){2,}/?")
_VARIES = re.compile(r"0x[0-9a-f]+|[0-9]+")
_TWICE = re.compile(r"\b([\w-]+): (?=\1: )")
_OTHER = "other causes"


@dataclass(frozen=True)
class Failed:
    """One failed case. evidence: None where it is not kept here."""

    case: str
    inputs: str
    message: str
    attempts: int
    node: str
    evidence: str | None


@dataclass
class Group:
    """Failed cases of one kind with one cause. cases: the first of them; count: of all."""

    kind: str
    cause: str
    cases: list[Failed] = field(default_factory=list)
    count: int = 0

    @property
    def quarantined(self) -> bool:
        return self.kind in QUARANTINED


class Failures:
    """Takes failed cases one after the other, and forgets what no page could hold."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Group] = {}

    def add(self, case: Case, result: CaseResult) -> None:
        assert result.error is not None
        error = result.error
        cause = _cause(error.message, case)
        key = error.kind, _VARIES.sub("#", cause)
        if key not in self._groups and len(self._groups) >= _MOST_GROUPS:
            cause, key = _OTHER, (error.kind, _OTHER)
        group = self._groups.setdefault(key, Group(error.kind, cause))
        group.count += 1
        if len(group.cases) < _MOST_CASES:
            given = cut("\n".join(path for _, path in case.inputs), _MESSAGE_CHARS)
            message, evidence = cut(error.message, _MESSAGE_CHARS), cut(error.evidence, _EVIDENCE_CHARS)
            group.cases.append(Failed(case.id, given, message, result.attempts, result.host, evidence))

    def groups(self) -> list[Group]:
        """Quarantined ones first, then the largest; each has its share of the room, its first cases with evidence."""
        found = sorted(self._groups.values(), key=lambda group: (not group.quarantined, -group.count, group.cause))
        room = _ROOM
        kept: list[list[Failed]] = [[] for _ in found]
        for turn in range(_MOST_CASES):
            for group, own in zip(found, kept):
                if turn < len(group.cases):
                    case = _fitting(group.cases[turn], room)
                    own += [case] if case else []
                    room -= _bytes(case) if case else 0
        for group, own in zip(found, kept):
            group.cases = own
        return found


def _fitting(case: Failed, room: int) -> Failed | None:
    """A case, or one without its evidence, or none."""
    bare = replace(case, evidence=None)
    return next((each for each in (case, bare) if _bytes(each) <= room), None)


def _bytes(case: Failed) -> int:
    """At most so many on a page."""
    words = f"{case.case}{case.case}{case.inputs}{case.message}{case.node}{case.evidence or ''}"
    return _ROW + len(str(escape(words)).encode("unicode_escape"))


def _cause(message: str, case: Case) -> str:
    """A message without what is this case's own: its paths and its id.

    >>> case = Case("a-case", (("single", "/data/a.png"),), (), 1, 1)
    >>> _cause("truncated: /data/a.png: truncated: it ends inside chunk 3 of /data/x/y", case)
    'truncated: it ends inside chunk 3 of …'
    """
    cause = cut(message, _MESSAGE_CHARS)
    for own in _longest_first([*(path for _, path in case.inputs), case.id]):
        cause = cause.replace(own, "…")
    cause = " ".join(_PATH.sub("…", cause).split())
    return _TWICE.sub("", cause.replace("…: ", ""))


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted((text for text in texts if len(text) > 3), key=len, reverse=True)


def cut(text: str, most: int) -> str:
    """Beginning and end, which say most, of a text that is too long."""
    if len(text) <= most:
        return text
    tail = most * 2 // 3
    return f"{text[: most - tail]}\n… {len(text) - most:,} characters …\n{text[-tail:]}"
