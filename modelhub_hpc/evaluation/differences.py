"""What two runs say differently of the same cases, within tolerances."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.evaluation.outputs import OutputDifference, Stored, Tolerance, Verdict, difference
from modelhub_hpc.record import CaseResult
from modelhub_hpc.runs.reading import Reading

_RANK = tuple(Verdict)
_AT_ONCE = 5000  # cases of which both results are in memory
COLUMNS = (
    "case_id", "first", "second", "output", "verdict", "reasons", "values", "unequal", "different", "largest",
    "largest_relative", "lowest_dice", "top_first", "top_second",
)  # fmt: skip


@dataclass(frozen=True)
class CaseDifference:
    """One case. first, second: done, failed or pending; "" where the run has no such case."""

    case_id: str
    first: str
    second: str
    verdict: Verdict
    outputs: tuple[OutputDifference, ...] = ()
    reason: str = ""


def differences(first: Reading, second: Reading, tolerance: Tolerance, only: str = "") -> Iterator[CaseDifference]:
    """Every case of either run, those of the first in its order, then those that only the second has.

    only: the id of the one case to compare. Raises InvalidError if no run has that case, TryAgainError for what is
    damaged.
    """
    pairs = _one(first, second, only) if only else _pairs(first, second)
    for case_id, ours, theirs in pairs:
        yield _case(case_id, (first, ours), (second, theirs), tolerance)


def severity(case: CaseDifference) -> tuple[bool, bool, float]:
    """A key that sorts cases: what cannot be compared is worst, then another most probable label, then numbers."""
    by = (output.largest for output in case.outputs if output.largest is not None)
    in_kind = not case.outputs or any(output.reasons for output in case.outputs)
    return in_kind, any(output.top for output in case.outputs), max(by, default=0.0)


class _Absent:
    """In place of a result: the run has no such case."""


_ABSENT = _Absent()
_Found = CaseResult | _Absent | None  # None: not computed yet
_Pair = tuple[str, _Found, _Found]


def _one(first: Reading, second: Reading, case_id: str) -> Iterator[_Pair]:
    found = [_of_id(run, case_id) for run in (first, second)]
    if all(isinstance(each, _Absent) for each in found):
        raise InvalidError(f"Neither run has a case '{shown(case_id)}'.")
    yield case_id, found[0], found[1]


def _of_id(run: Reading, case_id: str) -> _Found:
    row = next((row for row, case in enumerate(run.manifest.stream()) if case.id == case_id), None)
    return _ABSENT if row is None else _of_row(run, row)


def _of_row(run: Reading, row: int) -> CaseResult | None:
    return next((result for _, result in run.some([row])), None)


def _pairs(first: Reading, second: Reading) -> Iterator[_Pair]:
    """Results of both by case id: streaming where the manifests are the same, else so many cases at a time."""
    if first.request.plan == second.request.plan:
        yield from ((case.id, a, b) for (case, a), (_, b) in zip(first.joined(), second.joined()))
        return
    rows, ours = _rows(second), first.joined()
    seen = bytearray(len(rows))
    while some := list(itertools.islice(ours, _AT_ONCE)):
        wanted = {rows[case.id] for case, _ in some if case.id in rows}
        theirs = {result.index: result for _, result in second.some(wanted)}
        for case, result in some:
            row = rows.get(case.id)
            yield case.id, result, _ABSENT if row is None else theirs.get(row)
        for row in wanted:
            seen[row] = 1
    if not all(seen):
        yield from ((case.id, _ABSENT, result) for row, (case, result) in enumerate(second.joined()) if not seen[row])


def _rows(run: Reading) -> dict[str, int]:
    rows = {case.id: row for row, case in enumerate(run.manifest.stream())}
    if len(rows) != len(run.manifest):
        raise InvalidError(f"{shown(run.paths.manifest)} has two cases with one id: results cannot be told apart.")
    return rows


def _case(
    case_id: str, ours: tuple[Reading, _Found], theirs: tuple[Reading, _Found], tolerance: Tolerance
) -> CaseDifference:
    states = _state(ours[1]), _state(theirs[1])
    a, b = ours[1], theirs[1]
    if not (isinstance(a, CaseResult) and isinstance(b, CaseResult)) or states[0] != states[1]:
        verdict = Verdict.SAME if states[0] == states[1] else Verdict.DIFFERENT
        return CaseDifference(case_id, *states, verdict)
    if a.error and b.error:
        kinds = a.error.kind, b.error.kind
        reason = "" if kinds[0] == kinds[1] else f"failed with {kinds[0]}, {kinds[1]}"
        return CaseDifference(case_id, *states, Verdict.DIFFERENT if reason else Verdict.SAME, (), reason)
    outputs = tuple(_outputs((ours[0], a), (theirs[0], b), tolerance))
    reason = ""
    if len(a.outputs) != len(b.outputs):
        reason = f"{len(a.outputs)} outputs, {len(b.outputs)}"
    verdict = Verdict.DIFFERENT if reason else _worst(each.verdict for each in outputs)
    return CaseDifference(case_id, *states, verdict, outputs, reason)


def _state(found: _Found) -> str:
    if isinstance(found, _Absent):
        return ""
    return "pending" if found is None else found.status


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=_RANK.index, default=Verdict.SAME)


def _outputs(
    ours: tuple[Reading, CaseResult], theirs: tuple[Reading, CaseResult], tolerance: Tolerance
) -> Iterator[OutputDifference]:
    specs = ours[0].request.model.outputs
    for place, (a, b) in enumerate(zip(ours[1].outputs, theirs[1].outputs)):
        spec = specs[place] if place < len(specs) else None
        yield difference(spec, Stored(ours[0].paths, a), Stored(theirs[0].paths, b), tolerance)


@dataclass
class OutputSummary:
    """An output over all cases in which both runs have it."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    other_top: int = 0
    largest: float | None = None
    largest_relative: float | None = None
    lowest_dice: float | None = None

    def add(self, found: OutputDifference) -> None:
        self.verdicts[found.verdict] += 1
        self.other_top += found.top is not None
        self.largest = _most(self.largest, found.largest)
        self.largest_relative = _most(self.largest_relative, found.largest_relative)
        dice = [value for value in (self.lowest_dice, *found.dice.values()) if value is not None]
        self.lowest_dice = min(dice, default=None)


@dataclass
class Summary:
    """All cases as they pass by. states: how many are, say, ("done", "failed") in the runs."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    outputs: dict[str, OutputSummary] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether nothing differs by more than the tolerance."""
        return not self.verdicts[Verdict.DIFFERENT]

    def passing(self, found: Iterable[CaseDifference]) -> Iterator[CaseDifference]:
        """The same cases, counted."""
        for case in found:
            self.verdicts[case.verdict] += 1
            self.states[case.first, case.second] += 1
            for output in case.outputs:
                self.outputs.setdefault(output.name, OutputSummary()).add(output)
            yield case


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def columns(case: CaseDifference) -> Iterator[dict[str, Any]]:
    """The rows of a table: one for each output that was compared, one for a case without any."""
    lead = {"case_id": case.case_id, "first": case.first, "second": case.second}
    for output in case.outputs or (None,):
        if output is None:
            yield {**dict.fromkeys(COLUMNS), **lead, "verdict": case.verdict.value, "reasons": case.reason}
            continue
        tops = output.top or ("", "")
        yield {
            **lead,
            "output": output.name,
            "verdict": output.verdict.value,
            "reasons": "; ".join(itertools.chain([case.reason] if case.reason else [], output.reasons)),
            "values": output.values,
            "unequal": output.unequal,
            "different": output.different,
            "largest": output.largest,
            "largest_relative": output.largest_relative,
            "lowest_dice": min(output.dice.values(), default=None),
            "top_first": tops[0],
            "top_second": tops[1],
        }
