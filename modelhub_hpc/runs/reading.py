"""A run that is there, as those see it who make something of its results."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modelhub_hpc import request
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import UsageError, shown
from modelhub_hpc.plan import Case, Chunk, Manifest, chunk_table
from modelhub_hpc.record import CaseResult, Output, RunPaths, iter_results
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import storage


@dataclass(frozen=True)
class Reading:
    """A run, whether it is finished or not; cases and results are in the order of the manifest."""

    paths: RunPaths
    request: RunRequest

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.open(self.paths.manifest, self.paths.manifest_index)

    @cached_property
    def chunks(self) -> Sequence[Chunk]:
        return chunk_table(self.paths.chunks_json) or [Chunk(0, 0, 1)]

    def results(self) -> Iterator[CaseResult]:
        """Those that are there; one chunk of them is in memory. Raises TryAgainError for a damaged shard."""
        return iter_results(self.paths, self.request.run_id, self.request.plan, self.chunks)

    def some(self, rows: Collection[int]) -> Iterator[tuple[Case, CaseResult]]:
        """The results of some rows of the manifest, as far as they are there, and no more than their chunks is read."""
        wanted = sorted(rows)
        chunks = [each for each in self.chunks if _first_from(wanted, each.first) < each.first + each.count]
        for result in iter_results(self.paths, self.request.run_id, self.request.plan, chunks):
            if _first_from(wanted, result.index) == result.index:
                yield self.manifest.cases(result.index, 1)[0], result

    def joined(self) -> Iterator[tuple[Case, CaseResult | None]]:
        """Every case with its result, None where it has none yet."""
        upcoming = self.results()
        result = next(upcoming, None)
        for index, case in enumerate(self.manifest.stream()):
            if result is not None and result.index == index:
                yield case, result
                result = next(upcoming, None)
            else:
                yield case, None

    def outputs(self, result: CaseResult) -> Iterator[tuple[OutputSpec, Output]]:
        """What a case has given, with what the model declares of it; they belong together by position."""
        yield from zip(self.request.model.outputs, result.outputs)


def read(folder: Path) -> Reading:
    """The run in that folder; UsageError if there is none."""
    paths = RunPaths(folder.absolute())
    if not is_run(paths):
        raise UsageError(f"{shown(folder)} is not the folder of a run: it has no run.json.")
    return Reading(paths, request.read(paths))


def is_run(paths: RunPaths) -> bool:
    """Whether the folder holds a run; UnfitError where this user may not even look."""
    with storage(paths.root):
        return paths.run_json.exists()


def result_facts(result: CaseResult) -> dict[str, Any]:
    """A result as commands show it in JSON: `dataset` is FILE:PATH in shards/, `cost` is null where not measured."""
    error = result.error
    return {
        "case": result.case_id,
        "status": result.status,
        "outputs": [_output_facts(output) for output in result.outputs],
        "seconds": result.seconds,
        "attempts": result.attempts,
        "notes": list(result.notes),
        "cost": dict(vars(result.cost)),
        "error": {"kind": error.kind, "message": error.message, "evidence": error.evidence} if error else None,
    }


def _output_facts(output: Output) -> dict[str, Any]:
    facts = {
        "name": output.name,
        "type": output.type,
        "description": output.description,
        "shape": list(output.shape),
    }
    if output.dataset is None:
        return {**facts, "prediction": output.prediction}
    return {**facts, "dtype": output.dtype, "dataset": output.dataset}


def _first_from(rows: Sequence[int], row: int) -> float:
    """The first of some ascending rows that is not before this one; infinity where there is none."""
    place = bisect.bisect_left(rows, row)
    return rows[place] if place < len(rows) else math.inf
