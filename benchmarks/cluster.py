"""Measure a run on SLURM, on a test cluster of its own: `python benchmarks/cluster.py --help`; README.md says more."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import overhead
from bench import REPO
from bench.slurm import own_cluster
from bench.words import say
from modelhub_hpc.record import RunPaths
from testcluster import Cluster, find, until

WORKERS = 2
FEW = 20  # cases of the runs that only start
LIMIT_S = 4 * 3600.0
LOOK_S = 0.1
START_S = 300.0  # by which a driver has to come, and its workers have to leave
CACHE, CHUNK = "MH_HPC_CACHE_DIR", "MH_HPC_CHUNK_SIZE"
COUNTED = ("sbatch", "squeue", "scontrol", "sinfo", "scancel", "sacct")

# A program of SLURM that notes who calls it before it does its work.
COUNTING = """#!/bin/sh
case "$(tr '\\0' ' ' < /proc/$PPID/cmdline)" in
  *" drive "*) by=driver ;;
  *) by=submit ;;
esac
echo "$by {name}" >> {calls}
exec {program} "$@"
"""


@dataclasses.dataclass(frozen=True)
class Start:
    """Seconds at the start of a small run. submit: until the command returns; bare: until a bare sbatch does.

    queue: from then to the start of the driver's job; driver: from there to the start of the first worker's job;
    serves: from there to the worker's connection; shard: from there to the first shard.
    """

    submit: float
    bare: float
    queue: float
    driver: float
    serves: float
    shard: float

    @property
    def first(self) -> float:
        """From the start of the first worker's job to the first shard."""
        return self.serves + self.shard


@dataclasses.dataclass(frozen=True)
class Memory:
    """Megabytes of a driver: its peak by the first shard, by the last, and in all; and how much the loop added."""

    first: float
    last: float
    peak: float
    growth: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One run through SLURM. Times in seconds; memory in MiB.

    submit: the command; wall: from its start until the driver is gone; loop: from the first shard to the last; finish:
    from then on. local: the loop of the same cases and workers without SLURM; bare: of the same model in one plain
    process. calls: of SLURM's programs, by who called.
    """

    cases: int
    submit: float
    submit_mb: float
    wall: float
    loop: float
    finish: float
    driver: Memory
    driver_cpu: float
    local: float
    local_mb: float
    bare: float
    files: int
    chunks: int
    calls: dict[str, dict[str, int]]
    load: tuple[float, float, float]

    def overhead_ms(self, loop: float) -> float:
        """Milliseconds of a worker per case that are not the model's."""
        return 1e3 * (loop * WORKERS - self.bare) / (self.cases - 1)


def main() -> int:
    options = parse()
    overhead.LIMIT_S = LIMIT_S
    os.environ.setdefault(CACHE, str(REPO / "build/cache"))
    os.environ.pop(CHUNK, None)
    if options.chunk_size:
        os.environ[CHUNK] = str(options.chunk_size)  # of the runs without SLURM too
    with own_cluster() as cluster, tempfile.TemporaryDirectory(prefix="mh-bench-") as name:
        folder = Path(name)
        inputs = overhead.make_inputs(folder / "few", FEW)
        starts = [measure_start(options, cluster, inputs, folder / f"start{n}") for n in range(options.repeats)]
        report_starts(options, starts)
        runs = []
        for cases in options.cases:
            runs.append(measure_run(options, cluster, cases, folder / str(cases)))
            report_run(options, runs[-1])
            shutil.rmtree(folder / str(cases))
    report_growth(runs)
    if options.json:
        starting = [{**dataclasses.asdict(each), "first": each.first} for each in starts]
        figures = {"starts": starting, "runs": list(map(dataclasses.asdict, runs))}
        kept = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"options": kept, "cores": os.cpu_count(), **figures}, indent=2) + "\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure runs of a model that costs nothing on a SLURM of one's own.")
    parser.add_argument("--cases", type=int, nargs="+", default=[2_000, 20_000], metavar="N",
                        help="a run for each number of cases; memory is compared over them [2000 20000]")
    parser.add_argument("--chunk-size", type=int, metavar="N", help="default that of mh-hpc, 2,000 for such a model")
    parser.add_argument("--repeats", type=int, default=5, help="medians of as many starts are given [%(default)s]")
    parser.add_argument("--runtime", choices=("host", "apptainer"), default="host")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


# ---- a small run, again and again ---------------------------------------------------------------


def measure_start(options: argparse.Namespace, cluster: Cluster, inputs: Path, folder: Path) -> Start:
    began = time.monotonic()
    cluster.run("sbatch", "--parsable", "--output=/dev/null", "--time=1", "--wrap=true")
    bare = time.monotonic() - began
    driven = Driven(options, cluster, inputs, folder)
    driven.submit()
    driven.follow()
    returned, driver, worker = driven.began + driven.submit_s, *map(driven.first_job, ("driver", "worker"))
    serves, shard = min(driven.serving()), min(driven.shards())
    return Start(driven.submit_s, bare, driver - returned, worker - driver, serves - worker, shard - serves)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a driver had used at a time: MiB now and at most, seconds of processors."""

    at: float
    resident: float
    peak: float
    cpu: float


class Driven:
    """A run through SLURM, looked at from outside."""

    def __init__(self, options: argparse.Namespace, cluster: Cluster, inputs: Path, folder: Path) -> None:
        self.options = options
        self.cluster = cluster
        self.inputs = inputs
        self.paths = RunPaths(folder / "run")
        self.counting = folder / "bin"
        self.calls_file = folder / "calls"
        self.looks: list[Look] = []
        self.began = self.gone = self.submit_s = self.submit_mb = 0.0
        self.counting.mkdir(parents=True)
        for name in COUNTED:
            text = COUNTING.format(name=name, calls=shlex.quote(str(self.calls_file)), program=find(name))
            (self.counting / name).write_text(text)
            (self.counting / name).chmod(0o755)

    def submit(self) -> None:
        """Run `mh-hpc submit` to its end."""
        what = ["--model", overhead.NULL, "--inputs", self.inputs, "--outdir", self.paths.root]
        how = ["--runtime", self.options.runtime, "--executor", "slurm", "--workers", WORKERS, "-t", 600]
        command = [sys.executable, "-m", "modelhub_hpc.cli", "-q", "submit", *map(str, [*what, *how])]
        self.began = time.time()
        process = subprocess.Popen(command, env=self.environment(), stdin=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        self.submit_s = time.time() - self.began
        self.submit_mb = used.ru_maxrss / 1024
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"mh-hpc submit: exit code {process.returncode}")

    def environment(self) -> dict[str, str]:
        """Of the options of the caller only those that are meant here; and the counting programs first."""
        ours = (CACHE, CHUNK)
        kept = {name: value for name, value in os.environ.items() if name in ours or not name.startswith("MH_HPC_")}
        path = os.pathsep.join([str(self.counting), os.environ["PATH"]])
        return {**kept, **self.cluster.environment(), "PATH": path, "PYTHONPATH": str(REPO)}

    def follow(self) -> None:
        """Look at the driver until it has ended, and wait until its workers have."""
        if not until(lambda: self._driver() is not None, START_S):
            raise SystemExit(f"no driver came:\n{self.log()}")
        proc = Path(f"/proc/{self._driver()}")
        with contextlib.suppress(OSError):
            while found := dict(re.findall(r"^(VmHWM|VmRSS):\s+(\d+) kB", (proc / "status").read_text(), re.MULTILINE)):
                spent = (proc / "stat").read_bytes().rpartition(b")")[2].split()[11:13]
                cpu = sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")
                self.looks.append(Look(time.time(), int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024, cpu))
                time.sleep(LOOK_S)
        self.gone = time.time()
        record = json.loads(self.paths.record_json.read_bytes()) if self.paths.record_json.exists() else {}
        if record.get("exit_code") != 0:
            raise SystemExit(f"the run has failed: {record.get('stopped')}\n{self.log()}")
        until(lambda: not self.cluster.run("squeue", "--noheader").strip(), START_S)

    def _driver(self) -> int | None:
        """The driver's process. The first to own a run is the command that wrote its folder."""
        records = sorted(self.paths.private.glob("owner.??????"))[1:]
        return int(json.loads(records[0].read_bytes())["pid"]) if records else None

    def memory(self) -> Memory:
        first, last = map(self._look, (self.shards()[0], self.shards()[-1]))
        return Memory(first.peak, last.peak, self.looks[-1].peak, last.resident - first.resident)

    def _look(self, at: float) -> Look:
        return next((each for each in self.looks if each.at >= at), self.looks[-1])

    def shards(self) -> list[float]:
        """When each shard was published."""
        return sorted(path.stat().st_mtime for path in self.paths.shards.glob("c*.jsonl"))

    def serving(self) -> list[float]:
        """When each worker had connected, by its own words."""
        said = re.findall(r"^([\d-]+ [\d:]+),(\d+) INFO \S+ on \S+ serves", self.log(), re.MULTILINE)
        return [seconds(day, "%Y-%m-%d %H:%M:%S", ms) for day, ms in said]

    def first_job(self, kind: str) -> float:
        """When SLURM started the first job of a kind; by its controller's log, since commands only tell seconds."""
        jobs = [json.loads(path.read_bytes()) for path in self.paths.jobs.glob("*.json")]
        ids = {job["id"] for job in jobs if job["kind"] == kind}
        log = (self.cluster.folder / "log/slurmctld.dated.log").read_text()
        said = re.findall(r"^\[([^.\]]+)\.(\d+)\] .*(?:Allocate|Started) JobId=(\d+) ", log, re.MULTILINE)
        return min(seconds(day, "%Y-%m-%dT%H:%M:%S", ms) for day, ms, job in said if job in ids)

    def calls(self) -> dict[str, dict[str, int]]:
        found = Counter(self.calls_file.read_text().splitlines())
        return {by: {n: found[f"{by} {n}"] for n in COUNTED if found[f"{by} {n}"]} for by in ("submit", "driver")}

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self.paths.logs.glob("slurm-*.out"))


def seconds(day: str, form: str, ms: str) -> float:
    """A time of a log, in seconds since 1970."""
    return time.mktime(time.strptime(day, form)) + int(ms) / 1e3


# ---- a large run --------------------------------------------------------------------------------


def measure_run(options: argparse.Namespace, cluster: Cluster, cases: int, folder: Path) -> Run:
    """The same cases and workers through SLURM and on this machine alone, and the cases in a bare loop."""
    load = os.getloadavg()
    inputs = overhead.make_inputs(folder / "inputs", cases)
    driven = Driven(options, cluster, inputs, folder / "slurm")
    driven.submit()
    driven.follow()
    shards = driven.shards()
    how = argparse.Namespace(runtime=options.runtime, executor="local", workers=WORKERS, profile=False)
    local = overhead.measure_apart(how, inputs, folder / "local")
    return Run(
        cases=cases,
        submit=driven.submit_s,
        submit_mb=driven.submit_mb,
        wall=driven.gone - driven.began,
        loop=shards[-1] - shards[0],
        finish=driven.gone - shards[-1],
        driver=driven.memory(),
        driver_cpu=driven.looks[-1].cpu,
        local=local.loop,
        local_mb=local.rss_mb,
        bare=overhead.bare_loop(driven.paths, inputs, folder),
        files=sum(path.is_file() for path in driven.paths.root.rglob("*")),
        chunks=len(shards),
        calls=driven.calls(),
        load=load,
    )


# ---- words --------------------------------------------------------------------------------------


def report_starts(options: argparse.Namespace, starts: list[Start]) -> None:
    say(f"{FEW} cases, runtime {options.runtime}, {os.cpu_count()} cores; medians of {len(starts)}")
    for name, text in STARTS.items():
        every = [getattr(each, name) for each in starts]
        say(f"  {text:<58}{statistics.median(every):8.2f} s   ({min(every):.2f} to {max(every):.2f})")


def report_run(options: argparse.Namespace, of: Run) -> None:
    say("")
    say(f"{of.cases:,} cases in {of.chunks:,} chunks, {WORKERS} workers, runtime {options.runtime}; "
        f"load before {of.load[0]:.1f}")
    local, slurm = of.overhead_ms(of.local), of.overhead_ms(of.loop)
    calls = {by: ", ".join(f"{name} {count}" for name, count in found.items()) for by, found in of.calls.items()}
    rows = {
        "from submit to the end of the driver": f"{of.wall:10.1f} s",
        "  submit": f"{of.submit:10.1f} s, {of.submit_mb:.0f} MiB",
        "  from the first shard to the last": f"{of.loop:10.1f} s, {(of.cases - 1) / of.loop:.0f} cases/s",
        "  tables and record": f"{of.finish:10.1f} s",
        "the same loop without SLURM": f"{of.local:10.1f} s, {(of.cases - 1) / of.local:.0f} cases/s",
        "ratio": f"{of.loop / of.local:10.2f}",
        "bare loop over the model, per case": f"{1e3 * of.bare / of.cases:10.4f} ms",
        "overhead per case, SLURM": f"{slurm:10.3f} ms",
        "overhead per case, local": f"{local:10.3f} ms",
        "driver, peak memory": f"{of.driver.peak:10.0f} MiB",
        "  by the first shard": f"{of.driver.first:10.0f} MiB",
        "  by the last shard": f"{of.driver.last:10.0f} MiB, {of.driver.growth:+.1f} MiB in the loop",
        "driver, processor time": f"{of.driver_cpu:10.1f} s",
        "files in the run folder": f"{of.files:10d}",
        "calls by the submit command": f"{sum(of.calls['submit'].values()):10d} ({calls['submit']})",
        "calls by the driver": f"{sum(of.calls['driver'].values()):10d} ({calls['driver']})",
    }
    for name, text in rows.items():
        say(f"  {name:<44}{text}")


def report_growth(runs: list[Run]) -> None:
    few, many = min(runs, key=lambda each: each.cases), max(runs, key=lambda each: each.cases)
    if few.cases < many.cases:
        say("")
        per = 1e6 / (many.cases - few.cases)
        say(f"per million cases more: driver {per * (many.driver.peak - few.driver.peak):+.0f} MiB, "
            f"submit {per * (many.submit_mb - few.submit_mb):+.0f} MiB")


STARTS = {
    "bare": "a bare sbatch",
    "submit": "mh-hpc submit, until it returns",
    "queue": "from then to the start of the driver's job",
    "driver": "from there to the start of the first worker's job",
    "serves": "from there until it serves",
    "shard": "from there to the first shard",
    "first": "start of the first worker's job to the first shard",
}


if __name__ == "__main__":
    sys.exit(main())
