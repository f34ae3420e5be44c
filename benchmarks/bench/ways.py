"""Two ways over the same cases: the bare loop, which is the limit, and `mh-hpc submit`."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import REPO
from modelhub_hpc import config, images
from modelhub_hpc.errors import ModelHubError

LOCAL = ("--executor", "local")
CACHE = "MH_HPC_CACHE_DIR"
IMAGE = "modelhub-hpc/onnxruntime:1"
LIMIT_S = 3600.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_INSIDE = REPO / "benchmarks/bench/inside"

Case = str | dict[str, dict[str, str]]  # what infer() takes: a path, or paths by key


@dataclass(frozen=True)
class Worker:
    """What one process with a loaded model did. starts: when it began each of its cases, in order; end: of the last.

    warm: how many of the first ones count as warming up. Times in seconds since 1970.
    """

    starts: tuple[float, ...]
    end: float
    warm: int = 1

    @property
    def rest(self) -> tuple[float, ...]:
        """The starts that count: those once it was warm, or all of them where there are no others."""
        return self.starts[self.warm :] or self.starts


@dataclass(frozen=True)
class Passage:
    """One passage over all cases. begun: when its command was started."""

    begun: float
    workers: tuple[Worker, ...]

    @property
    def cases(self) -> int:
        return sum(len(each.starts) for each in self.workers)

    @property
    def seconds(self) -> float:
        """From the start of the command to the last result."""
        return max(each.end for each in self.workers) - self.begun

    @property
    def rate(self) -> float:
        """Cases per second from when all workers were warm to the last result."""
        since = max(each.rest[0] for each in self.workers)
        count = sum(start >= since for each in self.workers for start in each.starts)
        return count / (max(each.end for each in self.workers) - since)

    @property
    def per_case(self) -> float:
        """Seconds of a warm worker per case, whatever it did in them."""
        spent = sum(each.end - each.rest[0] for each in self.workers)
        return spent / sum(len(each.rest) for each in self.workers)


@dataclass(frozen=True)
class Setting:
    """What all ways share: model (the contribution's folder), folder of the inputs, image (None: without container)."""

    model: Path
    inputs: Path
    image: Path | None
    workers: int
    threads: int = 1
    batch: int = 1
    gpu: bool = False

    @property
    def source(self) -> str:
        return "/contrib_src" if self.image else str(self.model / "contrib_src")

    @property
    def engine(self) -> str:
        return "/framework" if self.image else str(REPO / "engine")

    def inside(self, script: str, *arguments: str) -> list[str]:
        """The command that runs a script of bench/inside in the same image, by plain apptainer exec."""
        if self.image is None:
            return [sys.executable, str(_INSIDE / script), *arguments]
        shown = {self.model / "contrib_src": "/contrib_src", REPO / "engine": "/framework", _INSIDE: "/inside"}
        binds = [f"{source}:{target}:ro" for source, target in shown.items()]
        command = ["apptainer", "-q", "exec", *NO_PRIVILEGES, *(["--nv"] if self.gpu else [])]
        command += [word for bind in (*binds, f"{self.inputs}:{self.inputs}:ro") for word in ("--bind", bind)]
        return [*command, str(self.image), "python3", f"/inside/{script}", *arguments]

    def environment(self) -> dict[str, str]:
        """Of the caller's options only where images lie, and as many threads as a worker may use."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MH_HPC_", "APPTAINER"))}
        threads = {name: str(self.threads) for name in _THREADS}
        return {**kept, **threads, CACHE: cache(), "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}


NO_PRIVILEGES = ("--no-privs",)  # without it root starts no container on systems that keep a privilege from him


def cache() -> str:
    return os.environ.get(CACHE) or str(REPO / "build/cache")


def image(runtime: str, name: str | None = None) -> Path | None:
    """The image that the runtime needs. SystemExit where there is none."""
    if runtime == "host":
        return None
    os.environ.setdefault(CACHE, cache())
    try:
        return images.find(name or IMAGE, config.load()).path
    except ModelHubError as error:
        raise SystemExit(str(error)) from None


def bare(setting: Setting, cases: Sequence[Case]) -> Passage:
    """One process per worker, each with its share, until the last has ended."""
    begun = time.time()
    processes = []
    for number in range(setting.workers):
        share = list(cases[number :: setting.workers])
        asked = {"engine": setting.engine, "source": setting.source, "cases": share, "batch": setting.batch}
        processes.append(_start(setting.inside("bare.py"), setting.environment(), json.dumps(asked)))
    answers = [json.loads(_answer(each)) for each in processes]
    return Passage(begun, tuple(Worker(tuple(each["starts"]), each["end"], setting.batch) for each in answers))


def submit(
    setting: Setting, inputs: Path, outdir: Path, options: Sequence[str] = LOCAL, env: Mapping[str, str] = {}
) -> Passage:
    """`mh-hpc submit`, on this machine alone unless the options say otherwise; env: beside the setting's."""
    command = [sys.executable, "-m", "modelhub_hpc.cli", "-q", "submit", "--model", str(setting.model)]
    command += ["--inputs", str(inputs), "--outdir", str(outdir)]
    command += ["--runtime", "apptainer" if setting.image else "host", "--workers", str(setting.workers)]
    command += ["--image", str(setting.image)] if setting.image else []
    command += ["--gpu", "on" if setting.gpu else "off", "-c", str(setting.threads)]
    command += ["--batch-size", str(setting.batch)] if setting.batch > 1 else []
    begun = time.time()
    whole = {**setting.environment(), **env}
    done = subprocess.run([*command, *options], env=whole, timeout=LIMIT_S, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"mh-hpc submit: exit code {done.returncode}")
    return Passage(begun, workers_of(outdir, setting.batch))


def workers_of(outdir: Path, batch: int) -> tuple[Worker, ...]:
    """What each worker of a finished run did, by its shards; it warms up until it has published a batch of cases.

    A case's start is that of its way into the session, ahead of the model; with a shard's first they agree.
    """
    found: dict[str, list[tuple[list[float], float]]] = {}
    for path in (outdir / "shards").glob("c*.jsonl"):
        head, *lines = path.read_bytes().splitlines()[:-1]
        by = json.loads(head)["by"]
        starts = sorted(json.loads(line)["started"] for line in lines)
        found.setdefault(f"{by['job']} {by['worker']} {by['log']}", []).append((starts, path.stat().st_mtime))
    return tuple(_worker(sorted(shards), batch) for shards in found.values())


def _worker(shards: list[tuple[list[float], float]], batch: int) -> Worker:
    starts = tuple(itertools.chain.from_iterable(starts for starts, _ in shards))
    published = itertools.accumulate(len(starts) for starts, _ in shards)
    return Worker(starts, shards[-1][1], next((count for count in published if count >= batch), len(starts)))


def turn_about(ways: Mapping[str, Callable[[int], Any]], repeats: int) -> list[dict[str, Any]]:
    """What each way gives, in rounds in which every way has its turn, in every second one the last first.

    A way is given the number of the round.
    """
    rounds = []
    for number in range(repeats):
        names = list(ways)[:: -1 if number % 2 else 1]
        found = {name: ways[name](number) for name in names}
        rounds.append({name: found[name] for name in ways})
    return rounds


def _start(command: list[str], env: dict[str, str], given: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    return process


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.read()
    if process.wait(LIMIT_S):
        raise SystemExit(f"exit code {process.returncode} of the bare loop")
    return text
