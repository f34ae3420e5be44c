"""Measure what a run costs around the model: `python benchmarks/overhead.py --help`; README.md says what it means."""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import json
import os
import pstats
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from modelhub_hpc import cli, finish, launch, request, run  # noqa: E402
from modelhub_hpc.record import RunPaths  # noqa: E402
from modelhub_hpc.request import RunRequest  # noqa: E402

NULL = REPO / "benchmarks/contributions/null"
LIMIT_S = 600.0
T = TypeVar("T")

BARE = """
import sys
sys.path[:0] = [{engine!r}, {source!r}]
import time, inference
model, paths = inference.Model(), sys.stdin.read().split(chr(0))
start = time.time()
for path in paths:
    model.infer(path)
print(repr(time.time() - start))
"""


@dataclasses.dataclass(frozen=True)
class Split:
    """Seconds of one submit. start: until the first answer; loop: from then to the last.

    cpu: processor seconds of the driver, its workers and the model together, which tell more on a busy machine.
    rss_mb: the driver's peak; growth_mb: by how much it grew between the first answer and the last.
    """

    cases: int
    wall: float
    cpu: float
    plan: float
    begin: float
    start: float
    loop: float
    finish: float
    rss_mb: float
    growth_mb: float

    def overhead_ms(self, workers: int, bare: float) -> float:
        """Milliseconds of a worker per case that are not the model's. bare: seconds of the bare loop."""
        return 1e3 * (self.loop * workers - bare) / (self.cases - 1)


def main() -> int:
    options = parse()
    if options.child:
        return measure_here(options)
    with tempfile.TemporaryDirectory(prefix="mh-overhead-") as folder:
        report(options, *measure(options, Path(folder)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the overhead per case on a model that costs nothing.")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3, help="the medians of as many runs are given")
    parser.add_argument("--runtime", choices=("host", "apptainer"), default="host")
    parser.add_argument("--executor", choices=("inline", "local"), default="local")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--memory", type=int, nargs="*", default=[1_000, 10_000, 50_000], metavar="CASES",
                        help="numbers of cases at which the driver's memory is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument("--profile", action="store_true", help="show where the driver spends its time")
    parser.add_argument("--child", type=Path, nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[Split], float, list[Split]]:
    """Every repetition, the seconds of the bare loop, and one run for each size of --memory."""
    inputs = make_inputs(folder / "inputs", options.cases)
    splits = [measure_apart(options, inputs, folder / f"run{n}") for n in range(options.repeats)]
    bare = statistics.median(bare_loop(RunPaths(folder / "run0"), inputs, folder) for _ in range(options.repeats))
    sizes = []
    for cases in options.memory:
        some = make_inputs(folder / f"inputs{cases}", cases)
        sizes.append(measure_apart(options, some, folder / f"memory{cases}"))
    return splits, bare, sizes


def make_inputs(folder: Path, cases: int) -> Path:
    """PNGs of 8 x 8 grey pixels, in folders of a thousand."""
    picture = png(8)
    for number in range(cases):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(picture)
    return folder


def png(size: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(size)) for _ in range(size))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def measure_apart(options: argparse.Namespace, inputs: Path, outdir: Path) -> Split:
    """One submit in a process of its own, so that its memory is its own."""
    figures = outdir.with_suffix(".json")
    same = ["--runtime", options.runtime, "--executor", options.executor, "--workers", str(options.workers)]
    child = [sys.executable, __file__, *same, "--child", str(inputs), str(outdir), str(figures)]
    began = time.monotonic()
    subprocess.run([*child, *(["--profile"] if options.profile else [])], check=True, timeout=LIMIT_S)
    wall = time.monotonic() - began
    return Split(wall=wall, **json.loads(figures.read_bytes()))


def measure_here(options: argparse.Namespace) -> int:
    """Run the command line in this process with a stopwatch at each phase."""
    inputs, outdir, figures = options.child
    watch = Stopwatch()
    watch.attach()
    how = ["--runtime", options.runtime, "--executor", options.executor, "--workers", str(options.workers)]
    arguments = ["-q", "submit", "--model", NULL, "--inputs", inputs, "--outdir", outdir, *how]
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    code = cli.main([str(each) for each in arguments])
    if options.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    figures.write_text(json.dumps(watch.figures()))
    return code


class Stopwatch:
    """Times the phases of a submit from outside, by standing between the command line and the run loop."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.first = self.last = self.executed = 0.0
        self.cases = 0
        self.rss_mb: list[float] = []

    def attach(self) -> None:
        run.plan = self.timed("plan", run.plan)
        run.begin = self.timed("begin", run.begin)
        finish.write = self.timed("finish", finish.write)
        execute = run.execute

        def watched(
            paths: RunPaths, run: RunRequest, options: run.Options, observe: run.Observer, stop: run.Stop
        ) -> run.Outcome:
            self.executed = time.monotonic()
            return execute(paths, run, options, self.observer(observe), stop)

        run.execute = watched

    def timed(self, name: str, function: Callable[..., T]) -> Callable[..., T]:
        def call(*given: Any, **named: Any) -> T:
            began = time.monotonic()
            try:
                return function(*given, **named)
            finally:
                self.seconds[name] = time.monotonic() - began

        return call

    def observer(self, observe: run.Observer) -> run.Observer:
        def look(progress: run.Progress) -> None:
            if progress.settled > self.cases:
                self.last = time.monotonic()
                self.first = self.first or self.last
                self.cases = progress.settled
                self.rss_mb.append(resident_mb())
            observe(progress)

        return look

    def figures(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        spent = {"start": self.first - self.executed, "loop": self.last - self.first}
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(each.ru_utime + each.ru_stime for each in used)
        memory = {"rss_mb": peak, "growth_mb": max(self.rss_mb) - self.rss_mb[0]}
        return {"cases": self.cases, **self.seconds, **spent, **memory, "cpu": cpu}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def bare_loop(paths: RunPaths, inputs: Path, folder: Path) -> float:
    """Seconds of the same model over the same files in one plain process of the same runtime."""
    of_run = request.read(paths)
    spec = dataclasses.replace(of_run.session_spec(None, ()), roots=(inputs,))
    scratch = launch.make_scratch(folder)
    command = launch.command(spec, scratch)
    engine = "/framework" if spec.image else str(REPO / "engine")
    source = "/contrib_src" if spec.image else str(spec.contrib_src)
    code = command.index("-c", command.index(spec.interpreter))
    command[code + 1 :] = [BARE.format(engine=engine, source=source)]
    files = "\0".join(str(path) for path in sorted(inputs.rglob("*.png")))
    env = launch.environment(spec, scratch)
    ran = subprocess.run(command, input=files, env=env, text=True, capture_output=True, check=True, timeout=LIMIT_S)
    shutil.rmtree(scratch)
    return float(ran.stdout)


def report(options: argparse.Namespace, splits: list[Split], bare: float, sizes: list[Split]) -> None:
    middle = {field: statistics.median(getattr(each, field) for each in splits) for field in fields()}
    workers = 1 if options.executor == "inline" else options.workers
    overhead = statistics.median(each.overhead_ms(workers, bare) for each in splits)
    say(f"{options.cases:,} cases, {options.executor} executor, {workers} worker(s), runtime {options.runtime}, "
        f"{os.cpu_count()} cores; medians of {len(splits)}")
    for name, text in PHASES.items():
        say(f"  {text:<44}{middle[name]:10.2f} s")
    say(f"  {'processor time of everything':<44}{middle['cpu']:10.2f} s")
    say(f"  {'bare loop over the model, per case':<44}{1e3 * bare / options.cases:10.4f} ms")
    say(f"  {'overhead per case in the loop':<44}{overhead:10.3f} ms")
    for each in sizes:
        text = f"peak memory of the driver at {each.cases:,} cases"
        say(f"  {text:<44}{each.rss_mb:10.0f} MiB, {each.growth_mb:+.1f} MiB in the loop")
    if options.json:
        facts = {"runs": list(map(dataclasses.asdict, splits)), "memory": list(map(dataclasses.asdict, sizes))}
        kept = {name: value for name, value in vars(options).items() if name not in ("json", "child")}
        figures = {"options": kept, "bare_s": bare, "overhead_ms_per_case": overhead, **facts}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


PHASES = {
    "wall": "submit, from start of process to exit",
    "plan": "  find and identify the cases",
    "begin": "  write the run folder",
    "start": "  start workers and model, first answer",
    "loop": "  all other cases",
    "finish": "  write tables and record",
}


def fields() -> list[str]:
    return [field.name for field in dataclasses.fields(Split)]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
