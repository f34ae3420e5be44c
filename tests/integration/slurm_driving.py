"""Drive runs on a real SLURM through the real command line, and do to them what clusters do to runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from driving import Ended, Site, environment, eventually, finish
from grounds import OBEDIENT, Process, processes
from slurm_cluster import Cluster

from modelhub_hpc.record import RunPaths
from modelhub_hpc.runfolder import Json

LIMIT_S = 120.0
COLUMNS = "%i|%T|%r|%N|%j"


class SlurmRun(Site):
    """A run whose workers are jobs; `flags` are those of every submission."""

    flags: tuple[str, ...] = ("-t", "10", "--gres", "gpu:1", "--mem", "1G", "--workers", "6", "--chunk-size", "5")

    def __init__(self, cluster: Cluster, folder: Path, executor: str = "slurm", model: Path = OBEDIENT) -> None:
        super().__init__(folder, "host", executor, model)
        self.cluster = cluster
        self.variables = {**cluster.environment(), "MH_HPC_POLL_S": "1", "MH_HPC_DRAIN_S": "2"}

    def numbers(self, count: int, seconds: float = 0.2) -> None:
        """Cases whose results are known: each sleeps, and answers with its number and twice that."""
        for number in range(count):
            self.order(f"n{number:05d}", f"SLEEP {seconds} {number}")

    def start(self, *more: str, **variables: str) -> subprocess.Popen[str]:
        return super().start(*self.flags, *more, **{**self.variables, **variables})

    def mh(self, *words: str, limit_s: float = LIMIT_S) -> Ended:
        """Another command of mh-hpc, as the user types it."""
        command = [sys.executable, "-m", "modelhub_hpc.cli", *words]
        env = environment(**self.variables)
        kwargs: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return finish(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, **kwargs), limit_s)

    # -- what there is --------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        return str(json.loads((self.outdir / "run.json").read_bytes())["run_id"])

    def jobs(self, kind: str = "", state: str = "") -> list[str]:
        """Ids of this run's jobs: kind "w" for workers, "driver", "a" for arrays, "" for all."""
        listed = self.cluster.run("squeue", "--noheader", f"--format={COLUMNS}").splitlines()
        rows = [line.strip().split("|") for line in listed]
        name = f"mh-{self.run_id}"
        suffix = {"": ".*", "driver": "", "w": r"-w\d+", "a": r"-a\d+"}[kind]
        return [
            row[0]
            for row in rows
            if re.fullmatch(re.escape(name) + suffix, row[4]) and state in row[1] and row[1] != "COMPLETING"
        ]

    def workers(self) -> list[Process]:
        """The worker processes of this run."""
        mark = f"mh-{self.run_id}-w"
        return [each for each in processes() if "executors.worker" in each.command and mark in each.command]

    def sessions(self) -> list[Process]:
        """The model processes of this run."""
        inside = str(self.scratch)
        found = (each for each in processes() if "pipeservice" in each.command and "keeper.py" not in each.command)
        return [each for each in found if each.mentions((inside,))]

    def driver(self) -> Process | None:
        """The process of the driver, whatever started it."""
        held = sorted((self.outdir / ".mh-hpc").glob("owner.??????"))
        pid = json.loads(held[-1].read_bytes())["pid"] if held else 0
        return next((each for each in processes() if each.pid == pid and " drive " in each.command), None)

    def progress(self) -> dict[str, Json]:
        try:
            found: dict[str, Json] = json.loads((self.outdir / "progress.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def is_over(self) -> bool:
        """Whether the run has its record and no driver any more."""
        paths = RunPaths(self.outdir)
        if not paths.record_json.exists():
            return False
        highest = max(path.name[6:12] for path in paths.private.glob("owner.??????"))
        return (paths.private / f"owner.{highest}.released").exists()

    def log(self) -> str:
        """All that the jobs of the run have said."""
        parts = [f"== {path.name}\n{path.read_text(errors='replace')}" for path in sorted(self.outdir.glob("logs/*"))]
        return "\n".join(parts)

    # -- waiting --------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], what: str, within_s: float = LIMIT_S) -> None:
        assert eventually(condition, within_s), f"not within {within_s:g} s: {what}\n{self.progress()}\n{self.log()}"

    def under_way(self, shards: int = 3) -> None:
        """Wait until so many chunks are done."""
        self.until(lambda: self.shards() >= shards, f"{shards} shards")

    def ends(self, code: int = 0, within_s: float = LIMIT_S) -> dict[str, Any]:
        """Wait for the end, and not that of a driver after which another comes; the record."""
        self.until(lambda: self.is_over() and self.record()["exit_code"] == code, f"the end with {code}", within_s)
        return self.record()

    def right(self, count: int) -> None:
        """Every case is done, once, with the answer that it must have; and nothing of the run is left anywhere."""
        found = [(result.index, result.outputs[0].prediction) for result in self.results() if not result.error]
        assert found == [(number, [float(number), 2.0 * number]) for number in range(count)]
        assert not list((self.outdir / "quarantine").iterdir())
        self.until(lambda: not self.jobs(), "no job left", 30)
        self.until(lambda: not self.leftovers(), f"nothing left but {self.leftovers()}", 30)


def kill(process: Process, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        pass  # it ended meanwhile, as it may in real life


def table(run: Site) -> bytes:
    return (run.outdir / "results.csv").read_bytes()


def undisturbed(folder: Path, run: Site) -> bytes:
    """The results.csv of a run over the same cases with which nothing happens, and which take no time."""
    for path in run.inputs.glob("n*.npy"):
        words = np.load(path).tobytes().decode("ascii").split()
        run.order(path.stem, f"OK {words[-1]}")
    calm = Site(folder, run.runtime, "inline", run.model)
    calm.inputs = run.inputs
    ended = calm.submit()
    assert ended.code == 0, ended.text
    return table(calm)


def pauses(every_s: float, for_s: float) -> Iterator[int]:
    """A number every so many seconds, for so long."""
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < for_s:
        yield number
        number += 1
        time.sleep(max(0.0, began + number * every_s - time.monotonic()))
