"""Keep as many worker jobs in the queue as the run can use: dask's own scale() and adapt() do not replace lost ones.

A look compares the jobs that are wanted, those that squeue shows, and the workers that have registered, and submits
or ends what differs. What squeue does not answer is unknown, and then nothing is done.
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelhub_hpc import config, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import ModelHubError, UnfitError
from modelhub_hpc.runfolder import Json
from modelhub_hpc.slurm import Job

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 5
MAX_BAD_NODES = 2  # of a model that has not started anywhere yet
_SLOWEST_LOOK_S = 60.0
_SHORT_LOOKS = 4  # a worker that leaves may take a while to end its session
_STOP_S = 10.0


@dataclass(frozen=True)
class Hands:
    """What a supervisor can do besides asking SLURM.

    submit: a job of that name, which keeps off these nodes; its id. note: that a job of that id and name is ours;
    registered: worker -> node it is on, for
    those that are connected. idle: workers without a chunk. leave: have workers take no more chunks. last_words: of
    the log of a job.
    """

    submit: Callable[[str, tuple[str, ...]], str]
    note: Callable[[str, str], None]
    registered: Callable[[], Mapping[str, str]]
    idle: Callable[[], set[str]]
    leave: Callable[[set[str]], None]
    last_words: Callable[[str], str]


@dataclass
class _Mine:
    """A job of ours. id: None while it is not known whether SLURM took it; strange: looks at which it was gone.

    most: workers that it has had at once; short: looks in a row at which it had fewer.
    """

    id: str | None
    has_registered: bool = False
    unwanted: bool = False
    strange: int = 0
    most: int = 0
    short: int = 0


@dataclass(frozen=True)
class Targets:
    """Jobs to have, and jobs that may stay although there is too little work for them."""

    wanted: int
    kept: int


def targets(site: SiteConfig, chunks: int) -> Targets:
    """How many jobs a run with so many chunks left can use.

    >>> four = SiteConfig(executor="slurm", workers=4)
    >>> targets(four, 99), targets(four, 1)
    (Targets(wanted=4, kept=4), Targets(wanted=1, kept=4))
    >>> import dataclasses
    >>> targets(dataclasses.replace(four, min_workers=2), 1)
    Targets(wanted=2, kept=2)
    """
    most, each = config.worker_count(site), config.workers_per_job(site)
    least = min(most if site.min_workers is None else site.min_workers, most)
    useful = min(most, chunks)
    wanted = useful if site.min_workers is None or not chunks else max(useful, least)
    return Targets(-(-wanted // each), -(-max(wanted, least) // each))


@dataclass
class Supervisor:
    """Looks after the jobs of one driver, from a thread of its own between start() and stop()."""

    site: SiteConfig
    run_id: str
    hands: Hands
    first_number: int = 1
    chunks: int = 1
    proved: bool = False
    trouble: ModelHubError | None = None
    waiting: str = ""
    excluded: dict[str, str] = field(default_factory=dict)
    _mine: dict[str, _Mine] = field(default_factory=dict)
    _queue: list[Job] = field(default_factory=list)
    _taken_away: set[str] = field(default_factory=set)
    _failed_starts: int = 0
    _numbers: int = 0
    _wake: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Submit nothing more, and end the jobs that have not begun; those that run are left to leave."""
        self._over.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)  # it may be asking a SLURM that does not answer
        try:
            jobs = [job for job in self._alive(slurm.queue(self._prefix)) if job.state != "RUNNING"]
            slurm.cancel(job.id for job in jobs)
        except ModelHubError as error:
            log.warning("jobs may be left in the queue, and end once they start: %s", error)

    def wake(self) -> None:
        """Something has changed: look soon, though never more often than the site wants."""
        self._wake.set()

    def expect(self, chunks: int) -> None:
        if chunks != self.chunks:
            grown = chunks > self.chunks
            self.chunks = chunks
            if grown or self.site.min_workers is not None:
                self.wake()

    def exclude(self, node: str, words: str) -> bool:
        """Keep off a node from now on; False if the model has failed on so many that it is not the nodes' fault."""
        if node not in self.excluded:
            log.warning("node %s is excluded from now on: %s", node, words)
        self.excluded[node] = words
        on_it = {worker for worker, where in self.hands.registered().items() if where == node}
        self.hands.leave(on_it)
        self.wake()
        return self.proved or len(self.excluded) < MAX_BAD_NODES

    def job_of(self, worker: str) -> str | None:
        """The id of a worker's job, if this driver submitted it."""
        found = self._mine.get(_job_name(worker, self._mine))
        return found.id if found else None

    def facts(self) -> dict[str, Json]:
        """For progress.json."""
        states = collections.Counter(job.state for job in self._queue)
        return {
            "jobs": dict(states),
            "waiting": self.waiting or _reasons(self._queue),
            "nodes": list[Json](sorted(set(self.hands.registered().values()))),
            "excluded": dict(self.excluded),
        }

    @property
    def _prefix(self) -> str:
        return slurm.job_name(self.run_id, "w")

    # -- looking ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        pause_s = 0.0
        while not self._over.wait(pause_s):
            self._wake.clear()
            changed = self._look_safely()
            # never more often than the site wants, less often while nothing changes
            pause_s = min(self.site.poll_s, _SLOWEST_LOOK_S)
            if self._over.wait(pause_s):
                return
            slower = 0.0 if changed else min(_SLOWEST_LOOK_S, 4 * self.site.poll_s) - pause_s
            self._wake.wait(max(0.0, slower))
            pause_s = 0.0

    def _look_safely(self) -> bool:
        try:
            return self.look()
        except slurm.Unreachable as error:
            self.waiting = str(error)
            log.warning("%s", error)
            return True
        except Exception as error:  # a thread has nobody to raise to: the run loop does it
            self.trouble = error if isinstance(error, ModelHubError) else UnfitError(f"{error!r}")
            log.exception("the supervisor cannot go on")
            return False

    def look(self) -> bool:
        """Look once, and act; whether anything changed. Raises Unreachable."""
        before = self._queue
        everything = slurm.queue(self._prefix, ended=True)
        self._taken_away = {job.name for job in everything if job.state in slurm.TAKEN_AWAY}
        self._queue = self._alive(everything)
        registered = {_job_name(worker, self._mine) for worker in self.hands.registered()}
        self._account(registered)
        self._send_strays_away(registered)
        self._end_short_jobs()
        moved = self._adjust(registered)
        return moved or [(j.id, j.state) for j in before] != [(j.id, j.state) for j in self._queue]

    def _alive(self, jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if job.name in self._mine and not job.ended]

    def _account(self, registered: set[str]) -> None:
        """Take note of what became of our jobs."""
        there = {job.name: job for job in self._queue}
        for name, mine in list(self._mine.items()):
            if name in there:
                self._take_note(name, there[name].id)
                mine.strange = 0
            if name in registered and not mine.has_registered:
                mine.has_registered, self._failed_starts = True, 0
            if name not in there and name not in registered:
                self._ended(name, mine)

    def _ended(self, name: str, mine: _Mine) -> None:
        mine.strange += 1
        if mine.strange > 1 or mine.unwanted:
            return
        if mine.id is None:
            log.info("SLURM did not take %s", name)
        elif name in self._taken_away:
            log.info("job %s (%s) was cancelled, preempted, or lost its node", mine.id, name)
        elif not mine.has_registered:
            self._failed_starts += 1
            words = self.hands.last_words(mine.id)
            log.warning("job %s ended before its worker had registered:\n%s", mine.id, words)
            if self._failed_starts >= MAX_FAILED_STARTS:
                self.trouble = UnfitError(
                    f"{self._failed_starts} jobs in a row ended before their workers were ready.\n"
                    f"Does every node see the run folder, and {config.PYTHON}? `mh-hpc doctor --node` looks.\n"
                    f"The last of them, job {mine.id}, wrote:\n{words}"
                )
        else:
            log.info("job %s (%s) has ended", mine.id, name)

    def _send_strays_away(self, registered: set[str]) -> None:
        """A worker whose job is over for SLURM, as when a node seemed dead, has no right to go on."""
        there = {job.name for job in self._queue}
        strays = set()
        for name in registered - there:
            mine = self._mine.get(name)
            if mine is not None:
                mine.strange += 1
                strays |= {name} if mine.strange > 1 else set()
        if strays:
            log.warning("%s: SLURM no longer has their jobs, so they leave", ", ".join(sorted(strays)))
            self.hands.leave(self._workers_of(strays))

    def _end_short_jobs(self) -> None:
        """A job that has lost a worker, which may only hang, ends once the others are done: a whole one replaces it."""
        have = collections.Counter(_job_name(worker, self._mine) for worker in self.hands.registered())
        for job in self._queue:
            mine = self._mine[job.name]
            mine.most = max(mine.most, have[job.name])
            mine.short = mine.short + 1 if have[job.name] < mine.most else 0
        short = [job for job in self._queue if self._mine[job.name].short >= _SHORT_LOOKS]
        for job in short:
            log.warning("job %s (%s) has lost a worker and is ended", job.id, job.name)
        self.hands.leave(self._workers_of({job.name for job in short}))
        slurm.cancel(job.id for job in short if not have[job.name])

    def _workers_of(self, jobs: set[str]) -> set[str]:
        return {worker for worker in self.hands.registered() if _job_name(worker, self._mine) in jobs}

    # -- acting -------------------------------------------------------------------------------------------------

    def _adjust(self, registered: set[str]) -> bool:
        target = targets(self.site, self.chunks)
        alive = [job for job in self._queue if not self._mine[job.name].unwanted]
        self.waiting = ""
        if len(alive) < target.wanted and self.trouble is None:
            # after a failed start one job at a time, until one is good
            missing = target.wanted - len(alive)
            return self._submit(missing if not self._failed_starts else min(missing, 1))
        if len(alive) > target.kept:
            return self._shrink(alive, len(alive) - target.kept)
        return False

    def _submit(self, count: int) -> bool:
        for _ in range(count):
            if self._over.is_set():
                return True
            name = slurm.job_name(self.run_id, f"w{self.first_number + self._numbers}")
            self._numbers += 1
            self._mine[name] = _Mine(None)  # first, so that a job is known even if the answer to sbatch is lost
            try:
                self._take_note(name, self.hands.submit(name, tuple(self.excluded)))
            except slurm.LimitReached as error:
                self.waiting = str(error)
                log.info("%s", error)
                return False
            except UnfitError as error:
                self._refused(error)
                return False
        return True

    def _take_note(self, name: str, job_id: str) -> None:
        """Of a job that SLURM has, whether it said so or was only found to have it."""
        if self._mine[name].id is None:
            self._mine[name].id = job_id
            self.hands.note(job_id, name)

    def _refused(self, error: UnfitError) -> None:
        """Sbatch wants no such job: the end, unless others are there to do the work."""
        bad = "".join(f"\nnode {node} is left out: {words}" for node, words in self.excluded.items())
        if self._queue or self.hands.registered():
            self.waiting = f"{error}{bad}"
            log.warning("%s", self.waiting)
        else:
            self.trouble = UnfitError(f"{error}{bad}")

    def _shrink(self, alive: list[Job], count: int) -> bool:
        """End jobs that nothing is left for: those that wait, then those whose workers all have no chunk."""
        waiting = [job for job in alive if job.state == "PENDING"][-count:]
        slurm.cancel(job.id for job in waiting)
        idle, workers = self.hands.idle(), self.hands.registered()
        busy = {_job_name(worker, self._mine) for worker in workers if worker not in idle}
        running = [job for job in alive if job.state == "RUNNING" and job.name not in busy]
        spare = running[: count - len(waiting)]
        self.hands.leave(self._workers_of({job.name for job in spare}))
        for job in (*waiting, *spare):
            self._mine[job.name].unwanted = True
        return bool(waiting or spare)


def _job_name(worker: str, known: Mapping[str, object]) -> str:
    """The job of a worker; those that share one add a number to its name."""
    return worker if worker in known else worker.rpartition("-")[0]


def _reasons(queue: list[Job]) -> str:
    """Why jobs wait, in SLURM's words."""
    reasons = collections.Counter(job.reason for job in queue if job.state == "PENDING")
    return ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
