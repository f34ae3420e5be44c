"""A job as its run folder shows it: one of five states, and why."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import request
from modelhub_hpc.errors import EXIT_INTERRUPTED
from modelhub_hpc.record import RunPaths
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.runs import Queue
from modelhub_hpc.runs.look import COMPLETE, NOT_RUNNING, RUNNING, UNKNOWN, WAITING, Look, look

STARTING, PROCESSING, SUCCEEDED, FAILED, CANCELED = "starting", "processing", "succeeded", "failed", "canceled"
_START_S = 30.0  # in which a driver shows itself that was not started here
STATES = (STARTING, PROCESSING, SUCCEEDED, FAILED, CANCELED)


@dataclass(frozen=True)
class Job:
    """One run, for those who asked for it.

    id: the name of its folder; state: one of STATES; created, ended: UTC, ISO 8601; rate: cases per second of now;
    reason: why it waits, has failed or was ended; failures: the latest of its failed cases, with kind and message;
    begun_here: by the endpoint rather than by `mh-hpc submit`.
    """

    id: str
    model: str
    model_version: str
    state: str
    created: str
    ended: str | None
    total: int
    done: int
    failed: int
    rate: float | None
    eta_s: float | None
    reason: str
    failures: tuple[dict[str, str], ...]
    run_folder: Path
    begun_here: bool

    @property
    def is_over(self) -> bool:
        return self.state not in (STARTING, PROCESSING)

    def to_json(self) -> dict[str, Any]:
        place = f"/jobs/{self.id}"
        return {
            "id": self.id,
            "model": {"name": self.model, "version": self.model_version},
            "state": self.state,
            "created": self.created,
            "ended": self.ended,
            "cases": {
                "total": self.total,
                "done": self.done,
                "failed": self.failed,
                "to_go": self.total - self.done - self.failed,
            },
            "cases_per_second": self.rate,
            "eta_seconds": self.eta_s,
            "reason": self.reason or None,
            "failures": list(self.failures),
            "links": {"self": place, **{name: f"{place}/{name}" for name in ("events", "results", "files")}},
        }


def note_path(paths: RunPaths) -> Path:
    """What the endpoint keeps of a job that it has begun."""
    return paths.private / "job.json"


def cancel_path(paths: RunPaths) -> Path:
    """Is there once somebody has asked for the job's end."""
    return paths.private / "canceled"


def see(paths: RunPaths, queue: Queue, is_queued: bool) -> Job:
    """The job as it stands; is_queued: this server will start its driver, or has just done so.

    Raises InvalidError or TryAgainError for a folder that is damaged or gone.
    """
    of = request.read(paths)
    now = look(paths, of, queue)
    state, reason = _queued(now) if is_queued else _state(now)
    counts = now.counts
    is_over = state not in (STARTING, PROCESSING)
    return Job(
        id=paths.root.name,
        model=of.model.name,
        model_version=of.model.version,
        state=state,
        created=of.created,
        ended=read_json(paths.record_json).get("ended") if is_over else None,
        total=counts.total,
        done=counts.done,
        failed=counts.failed,
        rate=counts.rate,
        eta_s=counts.eta_s,
        reason=reason,
        failures=tuple(_failures(now)),
        run_folder=paths.root,
        begun_here=note_path(paths).exists(),
    )


def _queued(now: Look) -> tuple[str, str]:
    if now.state == NOT_RUNNING:
        return STARTING, "other jobs go first"
    return _state(now)


def _state(now: Look) -> tuple[str, str]:
    if now.state == COMPLETE:
        return (SUCCEEDED, "") if now.counts.done else (FAILED, "every case has failed")
    if now.state == WAITING:
        return STARTING, f"SLURM has it wait ({now.why})"
    if now.state == RUNNING:
        return (PROCESSING if now.paths.progress_json.exists() else STARTING), now.workers.waiting
    if now.state == UNKNOWN:
        return PROCESSING if now.counts.done else STARTING, "SLURM does not answer"
    return _ended_early(now)


def _ended_early(now: Look) -> tuple[str, str]:
    record = read_json(now.paths.record_json)
    if cancel_path(now.paths).exists() or record.get("exit_code") == EXIT_INTERRUPTED:
        return CANCELED, "it was canceled; what is done stays, and `mh-hpc resume` goes on with the rest"
    if not (record or now.paths.progress_json.exists()) and _age_s(now.paths) < _START_S:
        return STARTING, ""  # `mh-hpc submit` has written the run down and has yet to drive it
    return FAILED, f"{now.why or 'its driver has never begun'}; `mh-hpc resume` goes on with what is left"


def _age_s(paths: RunPaths) -> float:
    try:
        return time.time() - paths.run_json.stat().st_mtime
    except FileNotFoundError:
        return float("inf")  # it is being removed


def _failures(now: Look) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for result in now.failures:
        assert result.error is not None
        found.append({"case": result.case_id, "kind": result.error.kind, "message": result.error.message})
    return found
