"""Runs as they lie on disk and in SLURM's queue: which there are, how they stand, and how they are ended."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest, read_order
from modelhub_hpc.slurm import Job

_COARSE_S = 0.05  # times of files may be so much behind
_OF_A_WORKER = re.compile("-[wa][0-9]+")


@dataclass(frozen=True)
class NotedJob:
    """A SLURM job that was submitted for a run. kind: driver, worker or array; submitted: seconds since 1970."""

    id: str
    kind: str
    name: str
    submitted: float


def in_folder(folder: Path) -> list[RunPaths]:
    """The runs that lie in a folder, in no order."""
    try:
        found = [RunPaths(entry.absolute()) for entry in folder.iterdir()]
    except OSError:
        return []
    return [paths for paths in found if _is_visible(paths)]


def id_of(paths: RunPaths) -> str | None:
    """The id of the run in a folder; None if it holds none that this user may read."""
    try:
        found = json.loads(paths.run_json.read_bytes())["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _is_visible(paths: RunPaths) -> bool:
    try:
        return paths.run_json.exists()
    except OSError:
        return False  # another user's


def site_now(paths: RunPaths, run: RunRequest) -> SiteConfig:
    """The options of the run's last driver, as far as this user may know them."""
    try:
        order = read_order(paths)
    except (OSError, ValueError, KeyError, ModelHubError):
        order = None  # another user's, or another version's
    return order.site if order else run.site


def noted_jobs(paths: RunPaths) -> list[NotedJob]:
    """The SLURM jobs that were submitted for a run, oldest first; none where this user may not know them."""
    try:
        files = [entry for entry in paths.jobs.iterdir() if entry.suffix == ".json"]
    except OSError:
        return []
    return sorted((job for job in map(_noted, files) if job), key=lambda job: (job.submitted, job.id))


def _noted(file: Path) -> NotedJob | None:
    try:
        job = json.loads(file.read_bytes())
        return NotedJob(str(job["id"]), str(job["kind"]), str(job["name"]), float(job["submitted"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def belongs(job_name: str, run_id: str) -> bool:
    """Whether a job of that name is of this run; the id of one run may begin with that of another.

    >>> [belongs(f"mh-net-ab{more}", "net-ab") for more in ("", "-w12", "-a1", "-w12-x", "cd", "-net-ab")]
    [True, True, True, False, False, False]
    """
    own = slurm.job_name(run_id)
    return job_name == own or (
        job_name.startswith(own) and _OF_A_WORKER.fullmatch(job_name[len(own) :]) is not None
    )


def drives(job_name: str, run_id: str) -> bool:
    """Whether a job of that name is the driver of this run, or what follows its arrays."""
    return job_name == slurm.job_name(run_id)


def tasks_of(job_id: str) -> int:
    """How many tasks of an array a line of the queue stands for; SLURM may have cut a list of them short.

    >>> [tasks_of(each) for each in ("12", "12_3", "12_[3-9%2]", "12_[0,4-5,7,...]")]
    [1, 1, 7, 4]
    """
    match = re.search(r"\[([^\]%]*)", job_id)
    if match is None:
        return 1
    ranges = re.findall(r"([0-9]+)(?:-([0-9]+))?", match[1])
    return sum(int(last or first) - int(first) + 1 for first, last in ranges)


@dataclass
class Queue:
    """What SLURM says of this user's jobs: asked when somebody wants to know, and not again for `every_s`.

    prefix: of the names of jobs that matter. silence: what SLURM answered instead of its queue; passes: it may yet.
    """

    prefix: str = slurm.PREFIX
    every_s: float = 0.0
    silence: str = ""
    passes: bool = False
    _heard: tuple[float, list[Job]] | None = None  # when SLURM was asked, and its answer; threads share it

    def look_again(self, since: float = 0.0) -> None:
        """Let what was heard go if it is old enough, or from before `since` (seconds since 1970)."""
        heard = self._heard
        if heard is not None and heard[0] < max(time.time() - self.every_s, since + _COARSE_S):
            self._heard = None

    def jobs(self) -> list[Job]:
        """The jobs that have not ended; [] and `silence` where SLURM does not answer."""
        heard = self._heard
        if heard is None:
            asked, jobs, self.silence = time.time(), list[Job](), ""
            try:
                jobs = [job for job in slurm.queue(self.prefix) if not job.ended]
            except ModelHubError as error:
                self.silence = str(error)
                self.passes = isinstance(error, slurm.Unreachable)
            self._heard = heard = asked, jobs
        return heard[1]

    def jobs_of(self, run_id: str) -> list[Job]:
        return [job for job in self.jobs() if belongs(job.name, run_id)]


def elsewhere(queue: Queue, here: Iterable[str]) -> Iterator[RunPaths]:
    """The runs that have jobs in SLURM's queue, other than those whose ids are in `here`."""
    ids = list(here)
    strange = [job for job in queue.jobs() if not any(belongs(job.name, run_id) for run_id in ids)]
    if not strange:
        return
    try:
        folders = slurm.folders()
    except ModelHubError as error:
        queue.silence = str(error)
        return
    names = {job.name for job in strange}
    for folder in sorted({folder for name, folder in folders.items() if name in names}):
        paths = RunPaths(folder)
        if id_of(paths) not in (None, *ids):
            yield paths
