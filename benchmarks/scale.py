"""Measure runs of a million cases, and the scheduler: `python benchmarks/scale.py --help`; README.md says more."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

import overhead

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from modelhub_hpc import chunks, cli, config, run  # noqa: E402
from modelhub_hpc.chunks import ChunkDone, ChunkTask  # noqa: E402
from modelhub_hpc.executors.local import local_executor  # noqa: E402
from modelhub_hpc.executors.settings import DASK  # noqa: E402
from modelhub_hpc.plan import Case  # noqa: E402
from modelhub_hpc.record import CaseResult, Output  # noqa: E402

NULL = REPO / "benchmarks/contributions/null"
WORKERS = (1, 2, 6, 24)
SLEEP = "MH_BENCH_SLEEP_S"  # of a simulated case
CASE_S, CASES_PER_CHUNK, CHUNKS_PER_WORKER = 0.05, 20, 10  # where scaling is measured: chunks of one second
RECORD = "record.json"


# ---- workers that do everything but run a model -------------------------------------------------


class Simulated:
    """Answers what the null model answers, after a sleep, and opens no input."""

    log_path, gpus, start_s = None, (), 0.0

    def __init__(self, *_: object) -> None:
        self.sleep_s = float(os.environ.get(SLEEP, "0"))

    def predict(self, rows: Iterable[tuple[int, Case]]) -> Iterator[tuple[CaseResult, dict[str, Any]]]:
        output = Output("prediction", "vector", "", (10,), [0.1] * 10)
        for row, case in rows:
            time.sleep(self.sleep_s)
            yield CaseResult(case.id, row, "done", (output,), self.sleep_s, 1, None, (), "here", time.time()), {}

    def close(self) -> None:
        pass


def predict_chunk(task: ChunkTask) -> ChunkDone:
    """What workers do, in a worker: reads the manifest, publishes a real shard."""
    chunks.Predictor = Simulated
    return chunks.predict_chunk(task)


def child(inputs: str, outdir: str, figures: str, workers: str, chunk_size: str) -> int:
    """One submit in a process of its own, whose memory is that of the plan, the loop, dask and the tables."""
    import scale  # by its name, so that workers find predict_chunk

    watch = overhead.Stopwatch()
    watch.attach()
    run.predict_chunk = scale.predict_chunk
    os.environ["MH_HPC_CHUNK_SIZE"] = chunk_size
    how = ["--runtime", "host", "--executor", "local", "--workers", workers]
    code = cli.main(["-q", "submit", "--model", str(NULL), "--inputs", inputs, "--outdir", outdir, *how])
    Path(figures).write_text(json.dumps(watch.figures()))
    return code


def measure_submit(inputs: Path, outdir: Path, workers: int, chunk_size: int, sleep_s: float = 0.0) -> dict[str, Any]:
    figures = outdir.with_suffix(".json")
    given = [str(each) for each in (inputs, outdir, figures, workers, chunk_size)]
    found = os.pathsep.join([str(REPO), str(REPO / "benchmarks")])
    command = [sys.executable, __file__, "--child", *given]
    subprocess.run(command, check=True, env={**os.environ, SLEEP: str(sleep_s), "PYTHONPATH": found})
    return dict(json.loads(figures.read_bytes()))


# ---- a million cases ----------------------------------------------------------------------------


def measure_run(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Plan, loop and tables of one large run, and what the commands that look at it take."""
    inputs = make_inputs(folder / "inputs", options.cases)
    root = folder / "run"
    split = measure_submit(inputs, root, options.workers, options.chunk_size or -(-options.cases // 10_000))
    shards = sum(1 for _ in (root / "shards").iterdir())
    looks = {
        "status": timed("status", root),
        "results": timed("results", root, "--limit", 20),
        "results_csv": timed("results", root, "--csv", "-"),
    }
    (root / RECORD).rename(folder / RECORD)  # as after a driver that was killed: the shards have to be read
    looks["status_of_shards"] = timed("status", root)
    looks["results_of_shards"] = timed("results", root, "--limit", 20)
    (folder / RECORD).rename(root / RECORD)
    return {
        "cases": options.cases,
        "chunks": shards,
        "files": sum(len(names) for _, _, names in os.walk(root)),
        **{name: split[name] for name in ("plan", "begin", "start", "loop", "finish", "rss_mb", "growth_mb")},
        "chunks_per_s": (shards - 1) / split["loop"],
        "cases_per_s": (options.cases - 1) / split["loop"],
        **looks,
    }


def make_inputs(folder: Path, cases: int) -> Path:
    """Empty files in folders of a thousand; nobody opens them."""
    for number in range(cases):
        path = folder / f"{number // 1000:04d}" / f"case-{number:07d}.png"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    return folder


def timed(*words: object) -> float:
    """Seconds of a command of mh-hpc, from the start of its process to its exit."""
    command = [sys.executable, "-m", "modelhub_hpc.cli", *map(str, words)]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(REPO)})
    return time.monotonic() - began


# ---- the scheduler ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """tasks_per_s: of tasks that do nothing; gap_ms: median from a task's end to the start of the worker's next one."""

    executor: str
    workers: int
    tasks_per_s: float
    gap_ms: float


def task(sleep_s: float) -> tuple[int, float, float]:
    """Which worker, and from when to when."""
    began = time.monotonic()
    time.sleep(sleep_s)
    return os.getpid(), began, time.monotonic()


@contextlib.contextmanager
def dask_executor(workers: int) -> Iterator[Executor]:
    """What runs on SLURM have, without SLURM: dask's scheduler and workers with the same options, and TLS."""
    import dask
    from distributed import Client, LocalCluster
    from distributed.security import Security

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(DASK):
        security = Security.temporary()
        shape = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(**shape, protocol="tls://", security=security) as cluster:
            with Client(cluster, security=security) as client:
                yield client.get_executor(pure=False)


def measure_dispatch(kind: str, workers: int) -> Dispatch:
    """One task in flight per worker, as in a run: first tasks that do nothing, then tasks of 0.2 s."""
    import scale

    with (dask_executor if kind == "dask" else local_executor)(workers) as executor:

        def spans(count: int, sleep_s: float) -> list[tuple[int, float, float]]:
            found, flying = list[tuple[int, float, float]](), set[Future[tuple[int, float, float]]]()
            while len(found) < count:
                while len(flying) < workers:
                    flying.add(executor.submit(scale.task, sleep_s))
                done, flying = wait(flying, return_when=FIRST_COMPLETED)
                found += [each.result() for each in done]
            wait(flying)
            return found

        spans(5 * workers, 0.0)
        began, count = time.monotonic(), 500
        spans(count, 0.0)
        rate = count / (time.monotonic() - began)
        return Dispatch(kind, workers, rate, 1e3 * statistics.median(gaps(spans(20 * workers, 0.2))))


def gaps(spans: Iterable[tuple[int, float, float]]) -> Iterator[float]:
    """Seconds in which workers waited for their next task."""
    last: dict[int, float] = {}
    for worker, began, ended in sorted(spans, key=lambda each: each[1]):
        if worker in last:
            yield began - last[worker]
        last[worker] = ended


# ---- scaling ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Cases per second of a loop over chunks of a second; predicted: by docs/scaling.md, from one worker's figures."""

    workers: int
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        return self.measured / self.predicted


def measure_scaling(dispatch: list[Dispatch], folder: Path) -> list[Scaling]:
    found = []
    for each in dispatch:
        cases = CASES_PER_CHUNK * CHUNKS_PER_WORKER * each.workers + 1  # and the first, which is a chunk of its own
        inputs = make_inputs(folder / f"inputs{each.workers}", cases)
        split = measure_submit(inputs, folder / f"run{each.workers}", each.workers, CASES_PER_CHUNK, CASE_S)
        chunk_s = CASES_PER_CHUNK * CASE_S + each.gap_ms / 1e3
        rate = min(each.workers / chunk_s, each.tasks_per_s) * CASES_PER_CHUNK
        found.append(Scaling(each.workers, (cases - 1) / split["loop"], rate))
    return found


# ---- words --------------------------------------------------------------------------------------

ROWS = {
    "plan": ("find and identify the cases", "s"),
    "begin": ("write the run folder", "s"),
    "start": ("start the workers, first answer", "s"),
    "loop": ("the loop, from the first answer to the last", "s"),
    "chunks_per_s": ("chunks per second", ""),
    "cases_per_s": ("cases per second", ""),
    "finish": ("tables and record", "s"),
    "rss_mb": ("peak memory of the driver, plan included", "MiB"),
    "growth_mb": ("its growth in the loop", "MiB"),
    "files": ("files in the run folder", ""),
    "status": ("mh-hpc status", "s"),
    "status_of_shards": ("mh-hpc status, by reading every shard", "s"),
    "results": ("mh-hpc results --limit 20", "s"),
    "results_of_shards": ("mh-hpc results --limit 20, without a record", "s"),
    "results_csv": ("mh-hpc results --csv -, whole", "s"),
}


def main() -> int:
    options = parse()
    if options.child:
        return child(*options.child)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mh-scale-") as name:
        folder = Path(name)
        if options.only != "scheduler":
            figures["run"] = measure_run(options, folder)
            report_run(options, figures["run"])
        if options.only != "run":
            dispatch = [measure_dispatch(kind, workers) for kind in ("dask", "local") for workers in WORKERS]
            scaling = measure_scaling([each for each in dispatch if each.executor == "local"], folder)
            report_scheduler(dispatch, scaling)
            figures["dispatch"] = [dataclasses.asdict(each) for each in dispatch]
            figures["scaling"] = [{**dataclasses.asdict(each), "ratio": each.ratio} for each in scaling]
    if options.json:
        kept = {name: value for name, value in vars(options).items() if name not in ("json", "child")}
        options.json.write_text(json.dumps({"options": kept, "cores": os.cpu_count(), **figures}, indent=2) + "\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure runs of very many cases whose model is only simulated.")
    parser.add_argument("--only", choices=("run", "scheduler"), help="default both")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--chunk-size", type=int, metavar="N", help="default as many as make 10,000 chunks")
    parser.add_argument("--workers", type=int, default=2, help="of the large run [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args()


def report_run(options: argparse.Namespace, figures: dict[str, float]) -> None:
    say(f"{options.cases:,} cases in {figures['chunks']:,} chunks, {options.workers} workers that run no model, "
        f"{config.cores()} cores, load before {os.getloadavg()[2]:.1f}")
    for name, (text, unit) in ROWS.items():
        value = figures[name]
        number = f"{value:10,.0f}" if unit in ("", "MiB") else f"{value:10.2f}"
        say(f"  {text:<46}{number} {unit}".rstrip())


def report_scheduler(dispatch: list[Dispatch], scaling: list[Scaling]) -> None:
    say("")
    say(f"{'executor':>8}  {'workers':>7}  {'tasks/s':>8}  {'between tasks':>13}")
    for one in dispatch:
        say(f"{one.executor:>8}  {one.workers:>7}  {one.tasks_per_s:>8.0f}  {one.gap_ms:>10.1f} ms")
    say("")
    say(f"chunks of {CASES_PER_CHUNK} cases of {CASE_S} s each, local executor")
    say(f"{'workers':>8}  {'cases/s':>8}  {'predicted':>9}  {'ratio':>6}")
    for each in scaling:
        say(f"{each.workers:>8}  {each.measured:>8.1f}  {each.predicted:>9.1f}  {each.ratio:>6.2f}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
