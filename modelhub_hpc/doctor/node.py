"""Look at a node through a job that runs there: what the node has, and what lies between it and this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modelhub_hpc import __version__, config, processes, runfolder, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.doctor import exchange, ports, probe, verdict
from modelhub_hpc.doctor.check import Check
from modelhub_hpc.doctor.cluster import SHORT_TIME
from modelhub_hpc.doctor.exchange import Answer, Asked, Found, Met, Talk, Tried
from modelhub_hpc.errors import ModelHubError, UnfitError, shown

log = logging.getLogger(__name__)

# how late a folder may show what is new: as long as NFS clients wait by default before they ask again
VISIBLE_S = 60.0
# the job's two minutes, and what SLURM gives jobs beyond that
_RUN_S = 180.0
_END_S = 35.0
_FIRST_PAUSE_S = 1.0
_KIND = "mh-hpc-doctor"
_NAME = "job on a node"
_LOG_LINES = 8
_NOT_STARTED = ("PENDING", "CONFIGURING")

T = TypeVar("T", Met, Talk, Found)


def checks(site: SiteConfig, image: str | None, base: Path, wait_s: float, here: Sequence[Check]) -> Iterator[Check]:
    """Run a job of at most two minutes with the options of a worker's, and say what it finds.

    base: the folder below which the job's own lies for that time; wait_s: how long it may wait to be started; here:
    what this machine was found to have. However this ends, the job and its folder are gone.
    """
    if any(check.name == "SLURM" and not check.ok for check in here):
        yield Check(_NAME, None, "not tried, without SLURM")
        return
    try:
        with _submitted(site, image, base) as visit:
            yield from visit.checks(wait_s, here)
    except ModelHubError as error:
        yield Check(_NAME, False, str(error), "see what the checks of SLURM above say, or ask the administrators")


@contextlib.contextmanager
def _submitted(site: SiteConfig, image: str | None, base: Path) -> Iterator[_Visit]:
    controller = slurm.cluster().controller
    places = ports.candidates(site, controller)
    name, token = f"modelhub-doctor-{runfolder.token()}", runfolder.token()
    with _private_folder(base) as folder, ports.answering(places, token) as opened:
        python = platform.python_version()
        asked = Asked(token, opened, controller, config.to_json(site), image, python, __version__)
        exchange.put(folder, asked)
        try:
            yield _Visit(site, asked, folder, _Queued(slurm.submit(_options(site, name), _script(site), folder), site))
        finally:
            _end(name)


@contextlib.contextmanager
def _private_folder(base: Path) -> Iterator[Path]:
    try:
        for left in processes.ended_folders(base, _KIND):
            processes.remove_tree(left)
        folder = processes.private_folder(base, _KIND)
    except OSError as error:
        mend = "Name a folder where runs may go: --folder FOLDER"
        raise UnfitError(f"No folder can be made in {shown(base)}: {error.strerror}\n{mend}") from error
    try:
        yield folder
    finally:
        processes.remove_tree(folder)


def _options(site: SiteConfig, name: str) -> list[str]:
    worker = slurm.worker_options(dataclasses.replace(site, time=SHORT_TIME))
    return [*worker, f"--job-name={name}", "--output=/dev/null", "--no-requeue"]


def _script(site: SiteConfig) -> str:
    """No name of a folder gets into it: SLURM starts it in ours, or elsewhere if the node does not see that."""
    lines = [
        "#!/bin/bash",
        f"[ -e {exchange.ASKED} ] || exit 1",
        f"exec >{exchange.LOG} 2>&1",
        *site.job_prologue,
        f"exec {shlex.quote(config.PYTHON)} -m modelhub_hpc.doctor.probe .",
    ]
    return "\n".join(lines) + "\n"


def _end(name: str) -> None:
    """Cancel the job, by its name since its id may not be known, and wait until it writes no more."""
    end = time.monotonic() + _END_S
    try:
        while (left := [job for job in slurm.queue(name) if not job.ended]) and time.monotonic() < end:
            slurm.cancel(job.id for job in left)
            time.sleep(_FIRST_PAUSE_S)
    except ModelHubError as error:
        log.warning("The job %s could not be cancelled and ends by itself after two minutes.\n%s", name, error)


class _Queued:
    """What SLURM says of a job. It is asked ever more rarely, at last every `poll_s`."""

    def __init__(self, job_id: str, site: SiteConfig) -> None:
        self.id = job_id
        self.job: slurm.Job | None = None
        self._pause_s, self._longest_s = _FIRST_PAUSE_S, site.poll_s
        self._next_s, self._started_s, self._ended_s = 0.0, math.inf, math.inf

    @property
    def words(self) -> str:
        """Its state and the reason for that."""
        return f"{self.job.state}, {self.job.reason}" if self.job else "SLURM has forgotten it"

    def runs(self) -> None:
        """It is known from elsewhere that it has started."""
        self._started_s = min(self._started_s, time.monotonic())

    def waits(self) -> bool:
        self._look()
        return self._started_s == math.inf

    def running_s(self) -> float:
        """How long it has been running, or has ended, as far as is known."""
        self._look()
        return max(0.0, time.monotonic() - self._started_s)

    def over_s(self) -> float:
        """How long ago it ended, at least; 0 if it has not, or not that anybody knows."""
        self._look()
        return max(0.0, time.monotonic() - self._ended_s)

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_s:
            return
        self._pause_s = min(self._pause_s * 1.5, max(self._longest_s, _FIRST_PAUSE_S))
        self._next_s = now + self._pause_s
        try:
            job = slurm.look_up(self.id)
        except slurm.Unreachable:
            return
        self.job = job or self.job
        if job is None or job.state not in _NOT_STARTED:
            self._started_s = min(self._started_s, now)
        if job is None or job.ended:
            self._ended_s = min(self._ended_s, now)


@dataclass(frozen=True)
class _Visit:
    """The job, and the talk with it."""

    site: SiteConfig
    asked: Asked
    folder: Path
    queued: _Queued

    def checks(self, wait_s: float, here: Sequence[Check]) -> Iterator[Check]:
        began = time.monotonic()
        met = self._receive(Met, wait_s)
        if met is None:
            yield self._nothing_came(wait_s)
            return
        passed_s = time.monotonic() - began
        yield Check(_NAME, True, f"job {self.queued.id} on {met.node}, which was heard of after {passed_s:.1f} s")
        yield from verdict.judge(self.site, self.asked, self._talk(met), here)

    def _receive(self, kind: type[T], wait_s: float = 0.0) -> T | None:
        """What the node writes next; None if it does not, and will not."""
        end = time.monotonic() + wait_s
        while (found := exchange.get(self.folder, kind)) is None:
            too_late = time.monotonic() > end if self.queued.waits() else self.queued.running_s() > _RUN_S
            over_s = self.queued.over_s()
            # a job that complains has not got as far as to write to us, and is not waited for
            if too_late or over_s > VISIBLE_S or (kind is Met and over_s and self._log()):
                return None
            time.sleep(exchange.LOOK_S)
        self.queued.runs()
        return found

    def _log(self) -> str:
        try:
            return (self.folder / exchange.LOG).read_text(errors="replace").strip()
        except OSError:
            return ""

    def _talk(self, met: Met) -> verdict.Seen:
        file_trouble = probe.modes(self.folder, exchange.path_of(self.folder, Met))
        exchange.put(self.folder, Answer(time.time()))
        knocks = ports.knock_at(met.places, self.asked.token)
        exchange.put(self.folder, Tried())
        talk = self._receive(Talk)
        return verdict.Seen(met, file_trouble, knocks, talk, self._receive(Found), self._log())

    def _nothing_came(self, wait_s: float) -> Check:
        job, words = f"job {self.queued.id}", self.queued.words
        if self.queued.waits():
            mend = "wait longer (--wait), or ask for what is free (sinfo); squeue --start tells when it would start"
            return Check(_NAME, False, f"{job} still waits after {wait_s:.0f} s, says SLURM: {words}", mend)
        node = self.queued.job.node if self.queued.job else ""
        if not node:
            return Check(_NAME, False, f"{job} ended before it started: {words}", "ask the administrators")
        if last := "\n".join(self._log().splitlines()[-_LOG_LINES:]):
            mend = "see the last line; mh-hpc and its Python have to lie on a file system that the nodes share"
            return Check(_NAME, False, f"{job} did not get to its work on {node} ({words}): {last}", mend)
        mend = "choose one that nodes share: here with --folder, and for runs with --outdir"
        detail = f"{job} ran there ({words}), and nothing that it wrote into {shown(self.folder.parent)} is seen here"
        return Check(f"{node}: shared folder", False, detail, mend)
