"""`mh-hpc status`: how a run stands, from its files alone; works while it runs, from any node that sees the folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import owner, run
from modelhub_hpc.cli.output import Voice, duration, one_line
from modelhub_hpc.cli.results import open_run
from modelhub_hpc.cli.submit import failure_facts, first_failures, resume_command, standing
from modelhub_hpc.errors import UnfitError
from modelhub_hpc.owner import OwnerRecord
from modelhub_hpc.record import CaseResult, RunPaths, State
from modelhub_hpc.request import RunRequest

WATCH_S = 2.0
_FRESH_S = 30.0  # progress.json of a living driver is never older


@dataclass(frozen=True)
class Standing:
    """What the files say. driver: who runs it, as far as this user may know; rate: cases per second of now."""

    run: RunRequest
    paths: RunPaths
    state: State
    running: bool
    driver: OwnerRecord | None
    rate: float | None
    eta_s: float | None
    failures: list[CaseResult]

    @property
    def words(self) -> str:
        if self.running:
            return "running"
        return "complete" if self.to_go == 0 else "not running"

    @property
    def to_go(self) -> int:
        return self.run.cases - self.state.done - self.state.failed


def status(folder: Path, watch: bool, voice: Voice) -> int:
    """Show how the run stands, with `watch` until nobody drives it any more; the exit code."""
    paths, of_run = open_run(folder)
    standing_now = _look(paths, of_run)
    show: Callable[[Standing], None] = _answer(voice) if voice.json else _tell(voice)
    show(standing_now)
    while watch and standing_now.running:
        time.sleep(WATCH_S)
        standing_now = _look(paths, of_run)
        show(standing_now)
    return 0


def _look(paths: RunPaths, of_run: RunRequest) -> Standing:
    progress = _progress(paths)
    running, driver = _driver(paths, fresh=progress.get("updated", 0.0) > time.time() - _FRESH_S)
    state = run.survey(paths, of_run)
    rate, eta_s = (progress.get("rate"), progress.get("eta_s")) if running else (None, None)
    failures = first_failures(paths, of_run, state) if state.failed else []
    return Standing(of_run, paths, state, running, driver, rate, eta_s, failures)


def _driver(paths: RunPaths, fresh: bool) -> tuple[bool, OwnerRecord | None]:
    """Whether somebody drives the run, and who; of a driver that cannot be seen only its `fresh` signs count."""
    try:
        holder = owner.holder(paths.private)
    except UnfitError:
        return fresh, None  # another user's run: its private part is closed to this one
    if holder is None:
        return False, None
    running = fresh if holder.alive is None else holder.alive
    return running, holder.record if running else None


def _progress(paths: RunPaths) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(paths.progress_json.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _tell(voice: Voice) -> Callable[[Standing], None]:
    def tell(now: Standing) -> None:
        who = f" by {now.driver.describe()}" if now.driver else ""
        speed = [("speed", f"{now.rate:.1f} cases/s, {duration(now.eta_s)} left")] if now.rate else []
        voice.columns(
            [
                (
                    "run",
                    f"{one_line(now.paths.root)} ({one_line(now.run.model.name)}, begun {now.run.created})",
                ),
                ("state", now.words + who),
                ("cases", standing(now.run.cases, now.state)),
                *speed,
                *(("failure", _failure(result)) for result in now.failures),
                *([("go on", resume_command(now.paths))] if now.words == "not running" else []),
            ]
        )

    return tell


def _failure(result: CaseResult) -> str:
    assert result.error is not None
    return f"{result.case_id}: {result.error.kind}: {one_line(result.error.message, 200)}"


def _answer(voice: Voice) -> Callable[[Standing], None]:
    def answer(now: Standing) -> None:
        driver = now.driver
        voice.answer(
            {
                "run": str(now.paths.root),
                "run_id": now.run.run_id,
                "model": now.run.model.name,
                "state": now.words,
                "driver": {"host": driver.host, "pid": driver.pid, "user": driver.user} if driver else None,
                "cases": now.run.cases,
                "done": now.state.done,
                "failed": now.state.failed,
                "to_go": now.to_go,
                "cases_per_second": now.rate,
                "eta_seconds": now.eta_s,
                "failures": [failure_facts(result) for result in now.failures],
            }
        )

    return answer
