"""What is derived from the shards when a driver ends: results.csv, failures.csv and record.json."""

from __future__ import annotations

import calendar
import dataclasses
import json
import platform
import time
from collections.abc import Iterator, Sequence
from functools import partial

from modelhub_hpc import config, slurm
from modelhub_hpc.plan import Chunk
from modelhub_hpc.plan.manifest import Case, Manifest
from modelhub_hpc.record import (
    Count,
    RunFacts,
    RunPaths,
    build_record,
    iter_results,
    makers,
    replace_json,
    write_failures_csv,
    write_results_csv,
)
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import Json

_ROWS = 10_000


def write(paths: RunPaths, run: RunRequest, chunks: Sequence[Chunk], stopped: str | None, code: int) -> None:
    """Write the derived files anew from the shards, streaming.

    stopped: why cases are missing, None if none is; code: the driver's exit code.
    """
    manifest = Manifest.open(paths.manifest, paths.manifest_index)
    results = partial(iter_results, paths, run.run_id, run.plan, chunks)
    count = Count(run.cases)
    passing = count.passing(results())
    write_results_csv(paths.results_csv, _cases(manifest), passing, run.model.outputs, manifest.columns)
    found = count.tally()
    # most runs have no failures, and need not read their shards twice
    write_failures_csv(paths.failures_csv, _cases(manifest), results() if found.failed else ())
    replace_json(paths.record_json, build_record(_facts(paths, run, stopped, code), found))


def _cases(manifest: Manifest) -> Iterator[Case]:
    for first in range(0, len(manifest), _ROWS):
        yield from manifest.cases(first, _ROWS)


def _facts(paths: RunPaths, run: RunRequest, stopped: str | None, code: int) -> RunFacts:
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
        exit_code=code,
        workers=tuple(makers(paths)),
        jobs=tuple(_jobs(paths)),
    )


def _jobs(paths: RunPaths) -> list[dict[str, Json]]:
    """The SLURM jobs of a run, oldest first, with what accounting knows of them."""
    jobs = [json.loads(path.read_bytes()) for path in paths.jobs.glob("*.json")]
    used = {each.id: dataclasses.asdict(each) for each in slurm.usage(job["id"] for job in jobs)}
    return sorted(({**job, "used": used.get(job["id"])} for job in jobs), key=lambda job: job["submitted"])
