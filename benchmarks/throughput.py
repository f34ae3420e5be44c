"""Measure runs beside the bare loop over the same cases: `python benchmarks/throughput.py --help`."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import inputs, models, ways
from bench.ways import Case, Passage, Setting
from bench.words import describe, machine, say, spread, table, write_json


@dataclass(frozen=True)
class Task:
    """A model and how much of it is measured. make: write so many cases; returns what to submit, and the cases."""

    cases: int
    workers: int
    make: Callable[[Path, int], tuple[Path, list[Case]]]


def main() -> int:
    options = parse()
    found = machine()
    say(describe(found))
    figures: dict[str, Any] = {}
    image = ways.image(options.runtime)
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="mh-throughput-") as folder:
            figures[name] = measure(options, name, image, Path(folder))
    write_json(options, {"machine": found, "models": figures})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure steady throughput and the whole time of runs, turn about with the bare loop: the same "
                    "model code in the same image, decoding and inferring only, one process per worker.")
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS), help="[all]")
    parser.add_argument("--cases", type=int, help="default 2,000 for squeezenet, 500 for resnet50, 20,000 for "
                        "null-png, 8 for unet3d")
    parser.add_argument("--workers", type=int, help="default 2, and 1 for null-png")
    parser.add_argument("--repeats", type=int, default=3, help="medians of as many rounds are given [%(default)s]")
    parser.add_argument("--runtime", choices=("apptainer", "host"), default="apptainer")
    parser.add_argument("--batch-size", type=int, default=1, help="of squeezenet and resnet50 [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def photos(folder: Path, count: int) -> tuple[Path, list[Case]]:
    return folder, [str(path) for path in inputs.photos(folder, count)]


def digits(folder: Path, count: int) -> tuple[Path, list[Case]]:
    return folder, [str(path) for path in inputs.digits(folder, count)]


def brains(folder: Path, count: int) -> tuple[Path, list[Case]]:
    table = inputs.brains(folder, count)
    folders = sorted(table.parent.glob("case*/"))
    return table, [{name: {"fileurl": str(each / f"{name}.nii.gz")} for name in inputs.CONTRASTS} for each in folders]


TASKS = {
    "squeezenet": Task(2_000, 2, photos),
    "resnet50": Task(500, 2, photos),
    "null-png": Task(20_000, 1, digits),
    "unet3d": Task(8, 2, brains),
}


def measure(options: argparse.Namespace, name: str, image: Path | None, folder: Path) -> dict[str, Any]:
    task = TASKS[name]
    count, batch = options.cases or task.cases, options.batch_size if task.make is photos else 1
    submitted, cases = task.make(folder / "inputs", count)
    setting = Setting(models.make(name, folder / "models"), folder / "inputs", image, options.workers or task.workers,
                      batch=batch)

    def ours(number: int) -> Passage:
        passage = ways.submit(setting, submitted, folder / f"run{number}")
        if passage.cases != count:
            raise SystemExit(f"{passage.cases} of {count} cases have a result")
        shutil.rmtree(folder / f"run{number}")
        return passage

    rounds = ways.turn_about({"bare": lambda _: ways.bare(setting, cases), "ours": ours}, options.repeats)
    return report(options, name, setting, rounds)


def report(
    options: argparse.Namespace, name: str, setting: Setting, rounds: list[dict[str, Passage]]
) -> dict[str, Any]:
    bare, ours = ([each[way] for each in rounds] for way in ("bare", "ours"))
    steady = [each["ours"].rate / each["bare"].rate for each in rounds]
    whole = [each["bare"].seconds / each["ours"].seconds for each in rounds]
    worker = [each["ours"].per_case / each["bare"].per_case for each in rounds]
    say()
    say(f"{name}: {bare[0].cases:,} cases, {setting.workers} worker(s) of {setting.threads} thread(s), "
        f"batches of {setting.batch}, runtime {options.runtime}; medians of {len(rounds)} rounds")
    table([
        ("steady state, bare loop", f"{spread([each.rate for each in bare])} cases/s"),
        ("steady state, mh-hpc", f"{spread([each.rate for each in ours])} cases/s"),
        ("  ratio", spread(steady)),
        ("steady state, mh-hpc, per worker", f"{spread([each.rate / setting.workers for each in ours])} cases/s"),
        ("from start to the last result, bare loop", f"{spread([each.seconds for each in bare])} s"),
        ("from start to the last result, mh-hpc", f"{spread([each.seconds for each in ours])} s"),
        ("  ratio of the speeds", spread(whole)),
        ("time of a warm worker per case, bare loop", f"{spread([1e3 * each.per_case for each in bare])} ms"),
        ("time of a warm worker per case, mh-hpc", f"{spread([1e3 * each.per_case for each in ours])} ms"),
        ("  ratio", spread(worker, ".3f")),
    ])
    return {
        "cases": bare[0].cases,
        "workers": setting.workers,
        "ratios": {"steady": statistics.median(steady), "end_to_end": statistics.median(whole),
                   "worker_time_per_case": statistics.median(worker)},
        "rounds": [{way: facts(passage) for way, passage in each.items()} for each in rounds],
    }


def facts(passage: Passage) -> dict[str, float]:
    return {"seconds": passage.seconds, "steady_cases_per_s": passage.rate, "worker_s_per_case": passage.per_case}


if __name__ == "__main__":
    sys.exit(main())
