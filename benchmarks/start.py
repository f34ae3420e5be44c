"""Measure `apptainer run MODEL.sif INPUT` beside the same by hand: `python benchmarks/start.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import REPO
from bench.ways import NO_PRIVILEGES
from modelhub_hpc import config, deployment

DIGITS = REPO / "registry/contributions/digits-cnn"
PICTURE = DIGITS / "contrib_src/sample_data/digit-0898.png"
LIMIT_S = 120.0

# What somebody would write who knows this one model: no engine, no checks, no metadata.
BY_HAND = """
import json, sys
import numpy, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("/contrib_src/model/model.onnx", providers=["CPUExecutionProvider"])
labels = json.load(open("/contrib_src/model/labels.json"))
grey = Image.open(sys.argv[1]).convert("L").resize((8, 8), Image.BOX)
array = numpy.asarray(grey, numpy.float32).reshape(1, 1, 8, 8) / numpy.float32(255)
found = session.run(["probabilities"], {"image": array})[0][0]
print(json.dumps([{"label": labels[str(i)], "probability": float(p)} for i, p in enumerate(found)]))
"""


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="mh-start-") as name:
        folder = Path(name)
        sif = options.sif or build(folder)
        picture = Path(shutil.copy(PICTURE, folder))
        report(options, measure(sif, picture, options.repeats))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the start of a deployment image of digits-cnn.")
    parser.add_argument("--sif", type=Path, help="one that `mh-hpc build digits-cnn` made; default: it is built")
    parser.add_argument("--repeats", type=int, default=7, help="of each way, taking turns; medians are given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def build(folder: Path) -> Path:
    site = config.load()
    planned = deployment.plan(str(DIGITS), None, folder / "digits.sif", False, site)
    return deployment.build(planned, site).path


def measure(sif: Path, picture: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds from the start of the process to its end, JSON printed, of every repetition."""
    ways = {
        "run": ["apptainer", "-q", "run", *NO_PRIVILEGES, str(sif), str(picture)],
        "by hand": ["apptainer", "-q", "exec", *NO_PRIVILEGES, str(sif), "python3", "-c", BY_HAND, str(picture)],
        "container": ["apptainer", "-q", "exec", *NO_PRIVILEGES, str(sif), "true"],
    }
    answers = {name: answer(ways[name], picture.parent) for name in ("run", "by hand")}  # which also warms the caches
    if answers["run"]["output"][0]["prediction"] != answers["by hand"]:
        raise SystemExit("The two do not predict the same, so comparing their times means nothing.")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, command in ways.items():
            began = time.monotonic()
            run(command, picture.parent)
            seconds[name].append(time.monotonic() - began)
    return seconds


def answer(command: Sequence[str], folder: Path) -> dict:
    return json.loads(run(command, folder))


def run(command: Sequence[str], folder: Path) -> bytes:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=LIMIT_S).stdout


def report(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    ratio = middle["run"] / middle["by hand"]
    say(f"digits-cnn, one picture, {os.cpu_count()} cores; medians of {options.repeats}, taking turns")
    for name, text in WAYS.items():
        say(f"  {text:<58}{middle[name]:8.3f} s   ({min(seconds[name]):.3f} to {max(seconds[name]):.3f})")
    say(f"  {'apptainer run against by hand':<58}{ratio:8.2f}")
    if options.json:
        figures = {"seconds": seconds, "medians": middle, "ratio": ratio, "cores": os.cpu_count()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


WAYS = {
    "run": "apptainer run digits.sif X.png, to printed JSON",
    "by hand": "apptainer exec digits.sif python3 -c ... doing the same",
    "container": "apptainer exec digits.sif true: the container alone",
}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
