"""Cases that several runs have in common, by their ids or by a column of their manifests."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.evaluation.contestants import Contestant
from modelhub_hpc.record import CaseResult, iter_results
from modelhub_hpc.runs.reading import Reading

_FEW = 3


class Unusable(Exception):
    """Why what a run has of a case cannot be compared."""


@dataclass(frozen=True)
class Together:
    """key: what the case is called in all runs. results: of each run, or why there is none that counts."""

    key: str
    results: tuple[CaseResult | Unusable, ...]


class Cases:
    """The cases of several runs, in the order of the first one, those that it lacks last."""

    def __init__(self, contestants: Sequence[Contestant], by: str | None) -> None:
        """by: a column that names the cases, None for their ids.

        UsageError for a column that a run lacks, InvalidError where two cases of a run have one name, and where no two
        runs have a case in common.
        """
        self._rows = [_rows(each, by) for each in contestants]
        self._readers = [_Results(each.reading) for each in contestants]
        self.keys = list(dict.fromkeys(key for rows in self._rows for key in rows))
        if not any(sum(key in rows for rows in self._rows) > 1 for key in self.keys):
            some = (f"{each.name}: {_some(rows)}" for each, rows in zip(contestants, self._rows))
            raise InvalidError(
                f"The runs have no case in common. {'; '.join(some)}.\n"
                "Cases belong together by their ids, or with --by COLUMN by a column of the manifests."
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Together]:
        for key in self.keys:
            yield Together(key, tuple(self._result(place, key) for place in range(len(self._rows))))

    def _result(self, place: int, key: str) -> CaseResult | Unusable:
        row = self._rows[place].get(key)
        if row is None:
            return Unusable("its run has no such case")
        result = self._readers[place].of_row(row)
        if result is None:
            return Unusable("it is not computed yet")
        return result if result.error is None else Unusable(f"it failed: {result.error.kind}: {result.error.message}")


def _rows(contestant: Contestant, by: str | None) -> dict[str, int]:
    """The rows of a run's cases by their names."""
    manifest, found = contestant.reading.manifest, dict[str, int]()
    if by is not None and by not in manifest.columns:
        there = f"It has {shown(', '.join(manifest.columns))}." if manifest.columns else "It has none of its own."
        raise UsageError(f"--by {shown(by)}: the manifest of {contestant.name} has no such column. {there}")
    for row, case in enumerate(manifest.stream()):
        key = case.id if by is None else dict(case.columns).get(by, "")
        if key in found:
            what = shown(key) if key else "nothing"
            raise InvalidError(f"--by {shown(by)}: two cases of {contestant.name} have {what} there. Which is meant?")
        found[key] = row
    return found


def _some(rows: Mapping[str, int]) -> str:
    return ", ".join(shown(key) for key in list(rows)[:_FEW]) + (", ..." if len(rows) > _FEW else "")


class _Results:
    """Results by their rows. The chunk that was asked for last stays in memory, since most runs are in one order."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._chunks = sorted(reading.chunks, key=lambda each: each.first)
        self._firsts = [each.first for each in self._chunks]
        self._present = -1
        self._results: dict[int, CaseResult] = {}

    def of_row(self, row: int) -> CaseResult | None:
        place = bisect.bisect_right(self._firsts, row) - 1
        if place != self._present:
            request = self._reading.request
            found = iter_results(self._reading.paths, request.run_id, request.plan, self._chunks[place : place + 1])
            self._results, self._present = {each.index: each for each in found}, place
        return self._results.get(row)
