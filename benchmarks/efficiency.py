"""Measure how runs scale over SLURM workers: `python benchmarks/efficiency.py --help`; README.md says what it means."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import inputs, models, ways
from bench.slurm import own_cluster
from bench.ways import Passage, Setting
from bench.words import describe, machine, say, spread, table, write_json

CASE_S = 0.05  # of the model `sleep`
GOAL = 0.95
NODES = 3


def main() -> int:
    options = parse()
    found = machine()
    say(describe(found))
    figures: dict[int, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mh-efficiency-") as name, own_cluster(nodes=NODES) as cluster:
        folder = Path(name)
        model, image = models.make("sleep", folder / "models"), ways.image(options.runtime)
        for workers in options.workers:
            place = folder / str(workers)
            cases = round(options.seconds * workers / CASE_S)
            inputs.digits(place / "inputs", cases)
            setting = Setting(model, place / "inputs", image, workers)
            options_of_run = ("--executor", "slurm", "--wait", "-t", "60", "--mem", "500")
            passages = []
            for number in range(options.repeats):
                run = place / f"run{number}"
                passages.append(ways.submit(setting, setting.inputs, run, options_of_run, cluster.environment()))
            figures[workers] = report(cases, workers, passages)
            shutil.rmtree(place)
    write_json(options, {"machine": found, "workers": figures})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A model that sleeps 50 ms, on a SLURM of one's own with three nodes on this machine: the time "
                    "that its workers would need if a run cost nothing, over the time it took.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 6], metavar="N", help="[1 2 6]")
    parser.add_argument("--seconds", type=float, default=60.0, help="work for each of the workers [%(default)s]")
    parser.add_argument("--repeats", type=int, default=1, help="medians of as many runs are given [%(default)s]")
    parser.add_argument("--runtime", choices=("apptainer", "host"), default="apptainer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def report(cases: int, workers: int, passages: list[Passage]) -> dict[str, Any]:
    steady = [each.rate * CASE_S / workers for each in passages]
    overall = [cases * CASE_S / workers / each.seconds for each in passages]
    each_worker = [each.per_case for each in passages]
    say()
    say(f"{cases:,} cases of {1e3 * CASE_S:.0f} ms, {workers} workers; medians of {len(passages)}")
    table([
        ("efficiency from when all workers are warm to the last result", f"{spread(steady, '.3f')}   wanted: {GOAL}"),
        ("efficiency from submit to the last result", spread(overall, ".3f")),
        ("from submit to the last result", f"{spread([each.seconds for each in passages])} s"),
        ("time of a warm worker per case", f"{spread([1e3 * each for each in each_worker])} ms"),
    ], width=64)
    return {"cases": cases, "steady": statistics.median(steady), "overall": statistics.median(overall),
            "seconds": [each.seconds for each in passages], "worker_s_per_case": each_worker}


if __name__ == "__main__":
    sys.exit(main())
