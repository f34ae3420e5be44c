"""Kill what a run on SLURM consists of, at random and again and again, and say what is different afterwards."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from driving import eventually
from grounds import Process, below
from slurm_driving import SlurmRun, table

from modelhub_hpc.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TRY_AGAIN

log = logging.getLogger(__name__)

KINDS = ("worker", "session", "driver", "slurmd", "slurmctld")

# What a session consists of, by a word of its command; the first that fits says what a process is.
PARTS = {
    "keeper": "keeper.py",
    "runtime": "Apptainer runtime parent",
    "squashfuse": "squashfuse",
    "model": "pipeservice",
}

GO_ON = (EXIT_TRY_AGAIN, EXIT_INTERRUPTED, 128 + signal.SIGTERM)  # of drivers that want to be started again
LOOK_S = 0.2
START_S = 10.0  # by which a driver that was submitted is there
GONE_S = 60.0


@dataclass(frozen=True)
class Victim:
    """A process to be killed. name: of a daemon, or of the worker that it is or belongs to."""

    what: str
    pid: int
    name: str = ""


@dataclass
class Soak:
    """Kills one process of the run every so many seconds, mends what a site would mend, and has the run go on.

    kinds: of KINDS. spare: kill a worker or its session only once that worker has published two chunks since it was hit
    last: one may have been complete by then, and the other needed a session that is well. Without it a case may lose
    two sessions in a row, and is rightly charged with that; a node may be excluded whose sessions do not start, and a
    run given up whose jobs do not. That is unlikely if kills are further apart than a session or worker needs to start.
    """

    run: SlurmRun
    kinds: Sequence[str]
    every_s: float
    seed: int
    spare: bool = False
    killed: collections.Counter[str] = field(default_factory=collections.Counter)
    nobody: int = 0
    resumed: int = 0
    stopped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._down = ""  # a daemon that was killed
        self._mended = -START_S  # when one was started again
        self._resuming: subprocess.Popen[str] | None = None
        self._not_before = 0.0  # the run is resumed, for the last driver is on its way
        self._published: collections.Counter[str] = collections.Counter()  # chunks, by worker
        self._when_hit: dict[str, int] = {}
        self._known: set[str] = set()  # shards

    def to_the_end(self, limit_s: float) -> None:
        """Kill until the run is over. AssertionError if that is not within `limit_s`, or if the run gives up."""
        began = time.monotonic()
        due = began + self.every_s
        try:
            while not self._is_over():
                now = time.monotonic()
                if now - began > limit_s:
                    raise AssertionError(f"not over after {limit_s:.0f} s: {self.killed}\n{self.run.log()}")
                self._keep_driving()
                if now >= due:
                    self._mend()
                    self._kill_one()
                    due = now + self.every_s
                time.sleep(LOOK_S)
        finally:
            self.seconds = time.monotonic() - began
            self._mend()
            if self._resuming is not None:
                self._resuming.communicate()

    # -- the run goes on ------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        if not self.run.is_over():
            return False
        record = self.run.record()
        if record["stopped"] is None:
            return True
        word = f"{record['ended_s']:.0f} {record['exit_code']}: {record['stopped']}"
        if word not in self.stopped:
            self.stopped.append(word)
            if record["exit_code"] not in GO_ON:
                raise AssertionError(f"the run has given up: {word}\n{self.run.log()}")
        return False

    def _keep_driving(self) -> None:
        """Have the run go on where nothing drives it, as a user would."""
        if self._resuming is not None:
            if self._resuming.poll() is None:
                return
            out, err = self._resuming.communicate()
            code, self._resuming = self._resuming.returncode, None
            log.info("resumed: exit code %d: %s", code, " ".join(f"{out}{err}".split()))
            # a controller that has just come back knows of no node that would do
            if code not in (EXIT_DONE, EXIT_TRY_AGAIN) and time.monotonic() - self._mended > START_S:
                raise AssertionError(f"exit code {code} of submit --resume:\n{out}{err}")
            self.resumed += code == EXIT_DONE
            self._not_before = time.monotonic() + (START_S if code == EXIT_DONE else 1.0)
        if self.run.driver() is None and time.monotonic() > self._not_before and not self._is_over():
            self._resuming = self.run.start("--resume")

    def _mend(self) -> None:
        """Start the daemon that was killed last."""
        cluster, name, self._down = self.run.cluster, self._down, ""
        if name:
            log.info("%s starts again", name)
        if name == "slurmctld":
            cluster.start_controller()
        elif name:
            cluster.start_node(name)
        self._mended = time.monotonic() if name else self._mended

    # -- and is hindered ------------------------------------------------------------------------------------------

    def _kill_one(self) -> None:
        """Kill a process of a random kind, of those of which there is one."""
        for kind in self._dice.sample(self.kinds, len(self.kinds)):
            if victims := self._victims(kind):
                self._kill(self._dice.choice(victims))
                return
        self.nobody += 1

    def _kill(self, victim: Victim) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile, as it may in real life
            os.kill(victim.pid, signal.SIGKILL)
            self.killed[victim.what] += 1
        log.info("killed %s %s (process %d)", victim.what, victim.name, victim.pid)
        if victim.what in ("slurmctld", "slurmd"):
            self._down = victim.name
        elif victim.what == "driver":
            self._not_before = 0.0
        else:
            self._when_hit[victim.name] = self._published[victim.name]

    def _victims(self, kind: str) -> list[Victim]:
        if kind == "driver":
            driver = self.run.driver()
            return [Victim(kind, driver.pid)] if driver else []
        if kind in ("slurmctld", "slurmd"):
            if not self.run.driver() or not self.run.workers():
                return []  # or else SLURM alone would be hit again and again, and never get to start them
            names = [kind] if kind == "slurmctld" else self.run.cluster.shape.node_names
            return [Victim(kind, pid, name) for name, pid in self.run.cluster.pids().items() if name in names]
        workers = [Victim(kind, each.pid, _name(each)) for each in self.run.workers()]
        workers = [each for each in workers if not self.spare or self._is_proven(each.name)]
        if kind == "worker" or not workers:
            return workers
        one = self._dice.choice(workers)
        return [Victim(f"session: {part}", pid, one.name) for part, pid in _parts(below(one.pid))]

    def _is_proven(self, worker: str) -> bool:
        for path in self.run.outdir.glob("shards/c*.jsonl"):
            if path.name not in self._known:
                self._known.add(path.name)
                with path.open("rb") as stream:
                    self._published[json.loads(stream.readline())["by"]["worker"]] += 1
        return self._published[worker] >= self._when_hit.get(worker, -1) + 2

    # -- what is to be told ---------------------------------------------------------------------------------------

    def facts(self) -> dict[str, int]:
        """How often the run had to do something anew, by the logs of its drivers and its results."""
        logs = "\n".join(path.read_text(errors="replace") for path in self.run.outdir.glob("logs/slurm-*.out"))
        lost = re.findall(r"chunk (\d+) lost its worker", logs)
        jobs = [json.loads(path.read_bytes())["kind"] for path in self.run.outdir.glob(".mh-hpc/jobs/*.json")]
        return {
            "driver jobs": jobs.count("driver"),
            "worker jobs": jobs.count("worker"),
            "chunks": self.run.shards(),
            "chunks sent out again": len(lost),
            "most often one chunk": max(collections.Counter(lost).values(), default=0),
            "chunks handed back": len(re.findall(r"chunk \d+ was handed back", logs)),
            "cases tried again": sum(result.attempts > 1 for result in self.run.results()),
        }


def differences(run: SlurmRun, cases: int, expected: bytes) -> list[str]:
    """What is not as if nothing had happened. expected: results.csv of an undisturbed run over the same cases."""
    found = []
    rows = collections.Counter(_rows(run))
    if lost := [row for row in range(cases) if not rows[row]]:
        found.append(f"{len(lost)} cases are in no shard: {lost[:10]}")
    if doubled := [row for row, count in rows.items() if count > 1 or row >= cases]:
        found.append(f"{len(doubled)} cases are in more than one shard, or in no plan: {doubled[:10]}")
    results = run.results()
    if failed := [result for result in results if result.error]:
        found.append(f"{len(failed)} cases failed: {[(each.case_id, each.error) for each in failed[:3]]}")
    wrong = [each for each in results if not each.error and each.outputs[0].prediction != _answer(each.index)]
    if wrong:
        found.append(f"{len(wrong)} answers are wrong: {[each.case_id for each in wrong[:10]]}")
    if table(run) != expected:
        found.append("results.csv is not that of an undisturbed run")
    if aside := list((run.outdir / "quarantine").iterdir()):
        found.append(f"damaged shards: {aside}")
    if not eventually(lambda: not run.jobs(), GONE_S):
        found.append(f"jobs are left: {run.jobs()}")
    if not eventually(lambda: not run.leftovers(), GONE_S):
        found.append(f"left behind: {run.leftovers()}")
    return found


def _rows(run: SlurmRun) -> Iterator[int]:
    """The row of every result in every shard."""
    for path in run.outdir.glob("shards/c*.jsonl"):
        for line in path.read_bytes().splitlines()[1:-1]:
            yield json.loads(line)["index"]


def _answer(number: int) -> list[float]:
    return [float(number), 2.0 * number]


def _name(worker: Process) -> str:
    match = re.search(r"--name (\S+)", worker.command)
    return match[1] if match else ""


def _parts(processes: Sequence[Process]) -> Iterator[tuple[str, int]]:
    for each in processes:
        part = next((part for part, word in PARTS.items() if word in each.command), None)
        if part is not None:
            yield part, each.pid
