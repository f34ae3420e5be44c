"""Measure one image from the command to its printed result: `python benchmarks/single.py --help`."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import inputs, models, ways
from bench.ways import Setting
from bench.words import describe, machine, say, spread, table, write_json

LIMIT_S = 120.0
MH_HPC = (sys.executable, "-m", "modelhub_hpc.cli", "-q")
GOAL = 1.5
TEXTS = {
    "bare": "apptainer exec IMAGE python3 predict.py PICTURE",
    "submit": "mh-hpc submit --json, with a run folder",
    "run": "mh-hpc run, which keeps nothing",
    "container": "apptainer exec IMAGE true: the container alone",
}


def main() -> int:
    options = parse()
    found = machine()
    say(describe(found))
    with tempfile.TemporaryDirectory(prefix="mh-single-") as name:
        folder = Path(name)
        picture = inputs.photos(folder / "inputs", 1)[0]
        model = models.make(options.model, folder / "models")
        setting = Setting(model, folder / "inputs", ways.image(options.runtime), workers=1)
        rounds = measure(setting, picture, folder, options.repeats)
    ratios = report(options, rounds)
    write_json(options, {"machine": found, "ratios": ratios, "rounds": rounds})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One image from the start of the command to its printed result.")
    parser.add_argument("--model", choices=models.NAMES, default="squeezenet", help="[%(default)s]")
    parser.add_argument("--repeats", type=int, default=7, help="of each way, taking turns; medians are given")
    parser.add_argument("--runtime", choices=("apptainer", "host"), default="apptainer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def measure(setting: Setting, picture: Path, folder: Path, repeats: int) -> list[dict[str, float]]:
    """Seconds of each way in every round; a round before the first warms the caches."""
    run = folder / "run"
    where = ["--runtime", "apptainer" if setting.image else "host", "--gpu", "off"]
    where += ["--image", str(setting.image)] if setting.image else []
    submitted = [*MH_HPC, "submit", "--model", str(setting.model), "--inputs", str(picture), "--outdir", str(run)]

    def bare() -> Any:
        said = output(setting, setting.inside("predict.py", setting.engine, setting.source, str(picture)))
        return json.loads(said)["prediction"]

    def submit() -> Any:
        said = output(setting, [*submitted, *where, "-c", "1", "--json"])
        shutil.rmtree(run)
        return json.loads(said)["results"][0]["outputs"][0]["prediction"]

    def here() -> Any:
        said = output(setting, [*MH_HPC, "run", str(setting.model), str(picture), *where])
        return json.loads(said)["output"][0]["prediction"]

    found: dict[str, Callable[[], Any]] = {"bare": bare, "submit": submit, "run": here}
    if setting.image:
        nothing = ["apptainer", "-q", "exec", *ways.NO_PRIVILEGES, str(setting.image), "true"]
        found["container"] = lambda: output(setting, nothing)
    if not found["bare"]() == found["submit"]() == found["run"]():
        raise SystemExit("They do not predict the same, so comparing their times means nothing.")
    return ways.turn_about({name: timed(way) for name, way in found.items()}, repeats)


def timed(way: Callable[[], Any]) -> Callable[[int], float]:
    def seconds(_: int) -> float:
        began = time.monotonic()
        way()
        return time.monotonic() - began

    return seconds


def output(setting: Setting, command: list[str]) -> str:
    done = subprocess.run(command, env=setting.environment(), stdout=subprocess.PIPE, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}: {' '.join(command)}")
    return done.stdout


def report(options: argparse.Namespace, rounds: list[dict[str, float]]) -> dict[str, float]:
    ratios = {name: statistics.median(each[name] / each["bare"] for each in rounds) for name in ("submit", "run")}
    say()
    say(f"{options.model}, one picture, runtime {options.runtime}; medians of {options.repeats}, taking turns")
    table((TEXTS[name], f"{spread([each[name] for each in rounds], '.3f')} s") for name in rounds[0])
    table([
        (f"{TEXTS['submit']}: times as long as bare", f"{ratios['submit']:10.2f}   wanted: {GOAL} or less"),
        (f"{TEXTS['run']}: times as long as bare", f"{ratios['run']:10.2f}"),
    ])
    return ratios


if __name__ == "__main__":
    sys.exit(main())
