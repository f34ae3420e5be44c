"""What is derived from the shards when a driver ends: results.csv, failures.csv, record.json and its publication."""

from __future__ import annotations

import calendar
import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from functools import partial

from modelhub_hpc import apptainer, config, slurm
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.plan import Chunk
from modelhub_hpc.plan.manifest import Manifest
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
from modelhub_hpc.slurm import Usage

_log = logging.getLogger(__name__)

_PAUSES_S = (1, 2, 4, 8)  # in which workers leave, and accounting hears of it


def write(paths: RunPaths, run: RunRequest, chunks: Sequence[Chunk], stopped: str | None, code: int) -> None:
    """Write the derived files anew from the shards, streaming.

    stopped: why cases are missing, None if none is; code: the driver's exit code.
    """
    manifest = Manifest.open(paths.manifest, paths.manifest_index)
    results = partial(iter_results, paths, run.run_id, run.plan, chunks)
    count = Count(run.cases)
    passing = count.passing(results())
    write_results_csv(paths.results_csv, manifest.stream(), passing, run.model.outputs, manifest.columns)
    found = count.tally()
    # most runs have no failures, and need not read everything twice
    failed = (manifest.stream(), results()) if found.failed else ((), ())
    write_failures_csv(paths.failures_csv, *failed)
    jobs, used = jobs_of(paths, patient=stopped is None)
    record = {**build_record(_facts(paths, run, stopped, code, jobs), found), "usage": used, "repeats": run.repeats}
    replace_json(paths.record_json, record)
    from modelhub_hpc import publication  # here, since models end meanwhile, and results wait for no import

    publication.write(paths, run, record)


def _facts(
    paths: RunPaths, run: RunRequest, stopped: str | None, code: int, jobs: Sequence[dict[str, Json]]
) -> RunFacts:
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
            *_platforms(run, jobs),
        ),
        command=run.command,
        site=config.to_json(run.site),
        started=calendar.timegm(time.strptime(run.created, "%Y-%m-%dT%H:%M:%SZ")),
        ended=time.time(),
        stopped=stopped,
        exit_code=code,
        workers=tuple(makers(paths)),
        jobs=tuple(jobs),
    )


def _platforms(run: RunRequest, jobs: Sequence[dict[str, Json]]) -> Iterator[tuple[str, str]]:
    """The versions of what the run ran on, as far as they can be had here."""
    try:
        if run.image:
            yield "apptainer", apptainer.version()
        if jobs:
            yield "slurm", slurm.cluster().version
    except ModelHubError as error:
        _log.info("the record is without a version: %s", error)


def jobs_of(paths: RunPaths, patient: bool) -> tuple[list[dict[str, Json]], dict[str, Json] | None]:
    """The SLURM jobs of a run, oldest first, each with what accounting knows of it; and of all of them together."""
    jobs = [json.loads(path.read_bytes()) for path in paths.jobs.glob("*.json")]
    accounts = _accounts([job["id"] for job in jobs], patient)
    used: dict[str, list[Usage]] = {}
    for each in accounts:
        used.setdefault(each.id.split("_")[0], []).append(each)  # an array has one entry here, its tasks have accounts
    found = [{**job, "used": _used(used[job["id"]]) if job["id"] in used else None} for job in jobs]
    return sorted(found, key=lambda job: job["submitted"]), _sum(accounts) if accounts else None


def _accounts(ids: Sequence[str], patient: bool) -> list[Usage]:
    """What accounting knows of jobs. patient: wait for those that are leaving, whose peak it knows when they end."""
    own = config.caller().slurm_job_id
    found = slurm.usage(ids)
    for pause_s in _PAUSES_S if patient else ():
        if all(each.ended or each.id == own for each in found):
            break
        time.sleep(pause_s)
        found = slurm.usage(ids)
    return found


def _used(parts: Sequence[Usage]) -> dict[str, Json]:
    """A job, or the tasks of an array: how it ended, where it ran, what it used."""
    states, nodes = ({getattr(part, name) for part in parts} for name in ("state", "node"))
    return {"state": ",".join(sorted(states)), "node": ",".join(sorted(nodes)), **_sum(parts)}


def _sum(parts: Sequence[Usage]) -> dict[str, Json]:
    """None where accounting has no figure: no step has ended, or the cluster does not count GPUs or memory."""
    return {
        "cpu_hours": sum(part.cpu_hours for part in parts),
        "gpu_hours": sum(part.gpu_hours for part in parts) or None,
        "peak_mb": max(part.peak_mb for part in parts) or None,
    }
