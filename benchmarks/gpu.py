"""Measure ResNet-50 on a GPU by runs and by the bare loop: `python benchmarks/gpu.py --help`; README.md says more."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import inputs, models, ways
from bench.ways import Passage, Setting
from bench.words import describe, machine, say, spread, table, write_json

NETWORKS = {"fp32": "resnet50", "fp16": "resnet50-fp16"}
SAMPLE_MS = 100
WITH_CUDA = "import onnxruntime, sys; sys.exit('CUDAExecutionProvider' not in onnxruntime.get_available_providers())"


@dataclass
class Gauge:
    """How busy the first GPU was, in percent, by time."""

    samples: list[tuple[float, float]] = field(default_factory=list)

    def mean(self, passage: Passage) -> float | None:
        """While all workers of the passage were warm; None where nothing was sampled."""
        begun = max(each.rest[0] for each in passage.workers)
        ended = max(each.end for each in passage.workers)
        seen = [percent for at, percent in self.samples if begun <= at <= ended]
        return statistics.mean(seen) if seen else None


@dataclass(frozen=True)
class Measured:
    """cost: what the run's record says of it, {} for the bare loop."""

    passage: Passage
    busy: float | None
    cost: dict[str, Any] = field(default_factory=dict)


def main() -> int:
    options = parse()
    name = gpu_name()
    if options.device == "gpu" and name is None:
        say("no GPU: nothing is measured (nvidia-smi finds none)")
        return 0
    found = {**machine(), "gpu": name if options.device == "gpu" else None}
    say(f"{describe(found)}; GPU: {found['gpu']}")
    image = ways.image(options.runtime, options.image)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="mh-gpu-") as folder:
        place = Path(folder)
        cases: list[ways.Case] = [str(path) for path in inputs.photos(place / "inputs", options.cases)]
        for precision in options.precisions:
            model = models.make(NETWORKS[precision], place / "models")
            setting = Setting(model, place / "inputs", image, 1, options.threads, gpu=options.device == "gpu")
            demand_cuda(setting)
            for batch in options.batches:
                rounds = measure(options, replace(setting, batch=batch), cases, place)
                figures[f"{precision}, {batch}"] = report(precision, batch, rounds)
    write_json(options, {"machine": found, "figures": figures})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="ResNet-50 over JPEGs by onnxruntime, one session on one GPU, turn about with the bare loop in the "
                    "same image; decoding included. Without a GPU it says so and ends with 0.")
    parser.add_argument("--image", help=f"a SIF file or a name in the store, with onnxruntime-gpu [{ways.IMAGE}]")
    parser.add_argument("--cases", type=int, default=2_000, help="images [%(default)s]")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], metavar="N", help="[1 64]")
    parser.add_argument("--precisions", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="[all]")
    parser.add_argument("--threads", type=int, default=4, help="of processors that the model may use [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="medians of as many rounds are given [%(default)s]")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: the same without any GPU")
    parser.add_argument("--runtime", choices=("apptainer", "host"), default="apptainer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def gpu_name() -> str | None:
    """The first GPU of this machine."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return said[0].strip() if said and "," in said[0] else None


def demand_cuda(setting: Setting) -> None:
    """SystemExit where the image cannot use the GPU: the figures would be those of the processor."""
    if not setting.gpu:
        return
    command = setting.inside("bare.py")
    command[-2:] = [command[-2], "-c", WITH_CUDA]
    if subprocess.run(command, env=setting.environment()).returncode:
        raise SystemExit("The image's onnxruntime has no CUDA. Name one that has: --image FILE.sif")


def measure(
    options: argparse.Namespace, setting: Setting, cases: list[ways.Case], folder: Path
) -> list[dict[str, Measured]]:
    def ours(number: int) -> tuple[Passage, dict[str, Any]]:
        run = folder / f"run{number}"
        passage = ways.submit(setting, setting.inputs, run)
        cost = json.loads((run / "record.json").read_bytes())["cost"]
        shutil.rmtree(run)
        return passage, cost

    def watched(way: Callable[[int], tuple[Passage, dict[str, Any]]]) -> Callable[[int], Measured]:
        def run(number: int) -> Measured:
            with gauge(setting.gpu) as seen:
                passage, cost = way(number)
            return Measured(passage, seen.mean(passage), cost)

        return run

    both = {"bare": watched(lambda _: (ways.bare(setting, cases), {})), "ours": watched(ours)}
    return ways.turn_about(both, options.repeats)


@contextlib.contextmanager
def gauge(gpu: bool) -> Iterator[Gauge]:
    """Samples how busy the GPU is within the block."""
    seen = Gauge()
    if not gpu:
        yield seen
        return
    query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits",
             f"--loop-ms={SAMPLE_MS}"]
    process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=_read, args=(process, seen))
    reader.start()
    try:
        yield seen
    finally:
        process.terminate()
        reader.join()
        process.wait()


def _read(process: subprocess.Popen[str], seen: Gauge) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit():  # else "[N/A]", of GPUs that are shared out
            seen.samples.append((time.time(), float(line)))


def report(precision: str, batch: int, rounds: list[dict[str, Measured]]) -> dict[str, Any]:
    bare, ours = ([each[way] for each in rounds] for way in ("bare", "ours"))
    ratio = [each["ours"].passage.rate / each["bare"].passage.rate for each in rounds]
    say()
    say(f"{precision}, batches of {batch}: {bare[0].passage.cases:,} images; medians of {len(rounds)} rounds")
    table([
        ("bare loop", f"{spread([each.passage.rate for each in bare])} images/s"),
        ("mh-hpc", f"{spread([each.passage.rate for each in ours])} images/s"),
        ("  ratio", spread(ratio)),
        ("GPU busy, bare loop", _percent(bare)),
        ("GPU busy, mh-hpc", _percent(ours)),
        *((f"most {name} of a case", _cost(ours, name, "max")) for name in ("peak_mb", "gpu_peak_mb")),
        ("gpu_energy_j per case", _cost(ours, "gpu_energy_j", "mean")),
    ])
    facts = {way: [{"images_per_s": each[way].passage.rate, "gpu_busy_percent": each[way].busy,
                    "cost": each[way].cost} for each in rounds] for way in ("bare", "ours")}
    return {"ratio": statistics.median(ratio), **facts}


def _cost(measured: list[Measured], name: str, figure: str) -> str:
    seen = [each.cost[name][figure] for each in measured if each.cost[name]]
    return spread(seen, ".1f") if seen else f"      {measured[0].cost['missing'][name]}"


def _percent(measured: list[Measured]) -> str:
    seen = [each.busy for each in measured if each.busy is not None]
    return f"{spread(seen, '.0f')} %" if seen else "      not sampled"


if __name__ == "__main__":
    sys.exit(main())
