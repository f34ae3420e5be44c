"""Measure `mh-hpc export` beside a bare loop, and its memory: `python benchmarks/export.py --help`."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import REPO, cohort, words

import nibabel
import numpy as np

from modelhub_hpc import export
from modelhub_hpc.record import load_array
from modelhub_hpc.runs import reading

ADULT = 240, 240, 155  # x, y, z of a brain at 1 mm
WAYS = ("nifti", "png", "contours", "h5", "csv,parquet,json")


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="mh-export-", dir=options.scratch) as name:
        folder = Path(name)
        speed = measure_speed(options, folder)
        memory = [measure_memory(cases, folder / str(cases)) for cases in options.cases]
    found = words.machine()
    words.say(words.describe(found))
    report(speed, memory)
    words.write_json(options, {"machine": found, "speed": speed, "memory": memory})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure exports of phantom-brats' masks.")
    parser.add_argument("--volumes", type=int, default=8, help="masks of 240 x 240 x 155 voxels, for the speed")
    parser.add_argument("--cases", type=int, nargs="*", default=[500, 5000], help="of small volumes, for the memory")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taking turns; medians are given")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="default: where temporary files go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


# ---- speed --------------------------------------------------------------------------------------


def measure_speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of each way for the same masks, and of the bare loop, in turn, in this process, which is warm."""
    if not options.volumes:
        return {}
    run = cohort.brains(folder / "adults", options.volumes, ADULT).run
    took: dict[str, list[float]] = {way: [] for way in ("bare", *WAYS)}
    for _ in range(options.repeats):
        took["bare"].append(bare(run, fresh(folder / "bare")))
        for way in WAYS:
            began = time.perf_counter()
            export.export(reading.read(run), fresh(folder / "to"), export.Wanted(tuple(way.split(","))))
            took[way].append(time.perf_counter() - began)
    masks = [result.outputs[0] for result in reading.read(run).results() if result.error is None]
    return {"megabytes": sum(load_array(reading.read(run).paths, mask).nbytes for mask in masks) / 1e6, "seconds": took}


def bare(run: Path, target: Path) -> float:
    """What somebody would write: read an array, save it with the affine of the input."""
    began = time.perf_counter()
    given = reading.read(run)
    for number, (case, result) in enumerate(given.joined()):
        if result is not None and result.error is None:
            array = load_array(given.paths, result.outputs[0])
            affine = nibabel.load(case.inputs[0][1]).affine
            nibabel.save(nibabel.Nifti1Image(array.T.astype(np.uint8), affine), target / f"{number}.nii.gz")
    return time.perf_counter() - began


def exported(run: Path, target: Path, formats: str) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of the command."""
    command = ["-m", "modelhub_hpc.cli", "-q", "export", run, "--to", target, "--format", formats]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=REPO)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, high_water(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"export ended with {process.returncode}")
    return time.perf_counter() - began, peak


def high_water(pid: int) -> float:
    """The most memory that a process has had, in MiB; of a child's rusage its parent's would be part."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0  # it has ended meanwhile
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0.0)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


# ---- memory -------------------------------------------------------------------------------------


def measure_memory(cases: int, folder: Path) -> dict[str, Any]:
    """Peak memory and rate of exports of a run of so many cases, of which some have failed; and of going on."""
    folder.mkdir()
    run = cohort.brains(folder, cases).run
    figures: dict[str, Any] = {"cases": cases}
    for way in ("nifti,csv,parquet,json", "png"):
        target = fresh(folder / "to")
        for name in (way, f"{way}, again"):
            seconds, peak = exported(run, target, way)
            figures[name] = {"seconds": seconds, "peak_mb": peak, "cases_per_s": cases / seconds}
    return figures


def report(speed: dict[str, Any], memory: Sequence[dict[str, Any]]) -> None:
    if speed:
        words.say(f"\nMasks of {speed['megabytes']:.0f} MB")
        for way, took in speed["seconds"].items():
            rate = speed["megabytes"] / statistics.median(took)
            ratios = [one / other for one, other in zip(took, speed["seconds"]["bare"])]
            words.table([(way, f"{rate:6.0f} MB/s   {words.spread(ratios)} of the bare loop's time")])
    for each in memory:
        words.say(f"\n{each['cases']:,} cases")
        words.table(
            (name, f"{told['seconds']:7.1f} s  {told['cases_per_s']:7.0f} cases/s  {told['peak_mb']:6.0f} MiB")
            for name, told in each.items()
            if name != "cases"
        )


if __name__ == "__main__":
    sys.exit(main())
