"""What is derived from the shards when a driver ends: results.csv, failures.csv and record.json."""

from __future__ import annotations

import calendar
import platform
import time
from collections.abc import Iterator, Sequence
from functools import partial

from modelhub_hpc import config
from modelhub_hpc.plan import Chunk
from modelhub_hpc.plan.manifest import Case, Manifest
from modelhub_hpc.record import (
    Count,
    RunFacts,
    RunPaths,
    build_record,
    iter_results,
    replace_json,
    write_failures_csv,
    write_results_csv,
)
from modelhub_hpc.request import RunRequest

_ROWS = 10_000


def write(paths: RunPaths, run: RunRequest, chunks: Sequence[Chunk], stopped: str | None) -> None:
    """Write the derived files anew from the shards, streaming; stopped: why cases are missing, None if none is."""
    manifest = Manifest.open(paths.manifest, paths.manifest_index)
    results = partial(iter_results, paths, run.run_id, run.plan, chunks)
    count = Count(run.cases)
    passing = count.passing(results())
    write_results_csv(paths.results_csv, _cases(manifest), passing, run.model.outputs, manifest.columns)
    found = count.tally()
    # most runs have no failures, and need not read their shards twice
    write_failures_csv(paths.failures_csv, _cases(manifest), results() if found.failed else ())
    replace_json(paths.record_json, build_record(_facts(run, stopped), found))


def _cases(manifest: Manifest) -> Iterator[Case]:
    for first in range(0, len(manifest), _ROWS):
        yield from manifest.cases(first, _ROWS)


def _facts(run: RunRequest, stopped: str | None) -> RunFacts:
    return RunFacts(
        run_id=run.run_id,
        model_id=run.model.id,
        model_name=run.model.name,
        model_version=run.model.version,
        model_digest=run.model.digest,
        image=run.image.name if run.image else None,
        image_digest=run.image.sha256 if run.image else None,
        versions=(
            ("modelhub-hpc", run.software),
            ("engine", run.engine),
            ("python", platform.python_version()),
        ),
        command=run.command,
        site=config.to_json(run.site),
        started=calendar.timegm(time.strptime(run.created, "%Y-%m-%dT%H:%M:%SZ")),
        ended=time.time(),
        stopped=stopped,
    )
