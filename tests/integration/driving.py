"""Drive runs through the real command line, and see what they left on disk and among the processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from grounds import CACHE, OBEDIENT, REPO, processes

from modelhub_hpc.plan import chunk_table
from modelhub_hpc.record import CaseResult, RunPaths, iter_results
from modelhub_hpc.request import read

LIMIT_S = 120.0
GONE_S = 5.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Site:
    """One run folder with its inputs and its private scratch folder, and the command that drives it."""

    def __init__(self, folder: Path, runtime: str, executor: str, model: Path = OBEDIENT) -> None:
        self.inputs = folder / "inputs"
        self.scratch = folder / "scratch"
        self.outdir = folder / "run"
        for each in (self.inputs, self.scratch):
            each.mkdir(parents=True, exist_ok=True)
        self.runtime = runtime
        self.executor = executor
        self.model = model

    def order(self, name: str, text: str) -> None:
        """Write an input that commands the obedient model."""
        np.save(self.inputs / f"{name}.npy", np.frombuffer(text.encode("ascii"), np.uint8))

    def argv(self, *more: str) -> list[str]:
        fixed = ["--model", self.model, "--inputs", self.inputs, "--outdir", self.outdir]
        how = ["--runtime", self.runtime, "--executor", self.executor, "--scratch-dir", self.scratch]
        command = [sys.executable, "-m", "modelhub_hpc.cli", "submit", *fixed, *how]
        return [*map(str, command), *more]

    def start(self, *more: str, **variables: str) -> subprocess.Popen[str]:
        """The command as a process in a group of its own, as a shell would start it."""
        return subprocess.Popen(
            self.argv(*more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables),
            start_new_session=True,
        )

    def submit(self, *more: str, limit_s: float = LIMIT_S, variables: Mapping[str, str] | None = None) -> Ended:
        return finish(self.start(*more, **(variables or {})), limit_s)

    def shards(self) -> int:
        return len(list((self.outdir / "shards").glob("c*.jsonl")))

    def started(self, *more: str, shards: int = 1) -> subprocess.Popen[str]:
        """A driver that has published so many shards; one that did not get there is an error with its words."""
        driver = self.start(*more)
        if not eventually(lambda: self.shards() >= shards or driver.poll() is not None, LIMIT_S):
            driver.kill()
        if driver.poll() is not None or self.shards() < shards:
            raise AssertionError(f"{self.shards()} shards: {finish(driver)}")
        return driver

    def results(self) -> list[CaseResult]:
        """The results of the run, read from its shards."""
        paths = RunPaths(self.outdir)
        request = read(paths)
        return list(iter_results(paths, request.run_id, request.plan, chunk_table(paths.chunks_json) or []))

    def by_name(self) -> dict[str, CaseResult]:
        return {result.case_id: result for result in self.results()}

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.outdir / "record.json").read_bytes())
        return record

    def leftovers(self) -> list[str]:
        """What a run that has ended should not have left: scratch, half-written files, processes."""
        half = [str(path) for path in self.outdir.rglob("*.part")]
        return [*map(str, self.scratch.iterdir()), *half, *self.processes()]

    def leaves_nothing(self, within_s: float = GONE_S) -> bool:
        return eventually(lambda: not self.leftovers(), within_s)

    def processes(self) -> list[str]:
        """The processes of this run, as "pid command"."""
        marks = (str(self.scratch), str(self.outdir))
        return [f"{each.pid} {each.command}" for each in processes() if each.mentions(marks)]


def environment(**variables: str) -> dict[str, str]:
    """The caller's environment with this checkout on the path and without options of the site."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MH_HPC_")}
    ours = {"PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1", "MH_HPC_CACHE_DIR": str(CACHE)}
    return {**kept, **ours, **variables}


def finish(process: subprocess.Popen[str], limit_s: float = LIMIT_S) -> Ended:
    """Wait for the end; what is still running after `limit_s` is killed, and that is an error."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"not over after {limit_s:.0f} s:\n{out}\n{err}") from None
    return Ended(process.returncode, out, err)


def eventually(condition: Callable[[], object], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def payload(result: CaseResult) -> Mapping[str, Any]:
    """What must be the same in two runs over the same cases: everything but times, places and attempts."""
    outputs = [(o.name, o.type, o.shape, o.prediction, o.dtype) for o in result.outputs]
    kind = result.error.kind if result.error else None
    return {"case": result.case_id, "index": result.index, "status": result.status, "outputs": outputs, "kind": kind}
