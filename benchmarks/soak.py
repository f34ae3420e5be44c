"""Kill parts of a run on SLURM all the time, and see that nothing differs: `python benchmarks/soak.py --help`."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from bench import REPO
from bench.slurm import own_cluster
from bench.words import say

sys.path[:0] = [str(REPO / "tests"), str(REPO / "tests/integration")]

from grounds import IMAGE  # noqa: E402
from slurm_driving import SlurmRun, table  # noqa: E402
from soaking import KINDS, Soak, differences  # noqa: E402
from testcluster import Cluster  # noqa: E402

NODES = 3
LIMIT = 10  # times as long as the run takes when nobody disturbs it


def main() -> int:
    options = parse()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO if options.verbose else logging.WARNING)
    say(f"{options.cases:,} cases of {options.seconds:g} s, chunks of {options.chunk_size}, {options.workers} workers,"
        f" runtime {options.runtime}; load before {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    gpus = math.ceil(options.workers / NODES)
    with own_cluster(nodes=NODES, gpus=gpus) as cluster, tempfile.TemporaryDirectory(prefix="mh-soak-") as name:
        folder = options.folder or Path(name)
        calm = begin(options, cluster, folder / "calm")
        began = time.monotonic()
        calm.ends(within_s=100 + LIMIT * options.cases * options.seconds / options.workers)
        calm_s = time.monotonic() - began
        soak = Soak(begin(options, cluster, folder / "soak", calm), options.kinds, options.every, options.seed,
                    options.spare)
        try:
            soak.to_the_end(LIMIT * calm_s)
            found = differences(soak.run, options.cases, table(calm))
        except AssertionError as error:
            found = [str(error)]
        report(options, soak, calm_s, found)
    return 1 if found else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Kill parts of a run on a SLURM of one's own, and compare with a run that nobody disturbs.",
        epilog="exit codes: 0 nothing differs, 1 something does, 5 SLURM is missing")
    parser.add_argument("--cases", type=int, default=5_000, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=0.25, help="that a case takes [%(default)s]")
    parser.add_argument("--chunk-size", type=int, default=10, help="[%(default)s]")
    parser.add_argument("--workers", type=int, default=6, help="[%(default)s]")
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="seconds between kills [%(default)s]")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["worker", "session"], help="of what is killed; "
                        "a driver is resumed, a daemon started again [worker session]")
    parser.add_argument("--spare", action="store_true", help="spare what has not recovered since it was hit last")
    parser.add_argument("--seed", type=int, default=20261125, help="[%(default)s]")
    parser.add_argument("--runtime", choices=("host", "apptainer"), default="host")
    parser.add_argument("--folder", type=Path, help="for the runs, which are kept there; default a temporary one")
    parser.add_argument("--verbose", action="store_true", help="tell of each kill")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def begin(options: argparse.Namespace, cluster: Cluster, folder: Path, like: SlurmRun | None = None) -> SlurmRun:
    """A run over the cases that has published its first shard."""
    run = SlurmRun(cluster, folder)
    run.runtime = options.runtime
    run.flags = ("-t", "120", "--gres", "gpu:1", "--mem", "1G", "--workers", str(options.workers),
                 "--chunk-size", str(options.chunk_size))
    if options.runtime == "apptainer":
        run.flags += ("--image", IMAGE)
    if like:
        run.inputs = like.inputs
    else:
        run.numbers(options.cases, options.seconds)
    ended = run.submit()
    if ended.code:
        raise SystemExit(ended.text)
    run.under_way(1)
    return run


def report(options: argparse.Namespace, soak: Soak, calm_s: float, found: list[str]) -> None:
    say(f"seed {options.seed}: {sum(soak.killed.values())} kills, in {soak.seconds:.0f} s")
    for what, count in sorted(soak.killed.items()):
        say(f"  {what:<44}{count:8d}")
    facts = soak.facts()
    for name, count in {**facts, "drivers resumed": soak.resumed, "drivers that stopped": len(soak.stopped)}.items():
        say(f"  {name:<44}{count:8d}")
    for name, took in (("nobody disturbs", calm_s), ("with kills", soak.seconds)):
        say(f"  {name:<44}{took:8.0f} s   {options.cases / took:.1f} cases/s")
    say(f"  {'ratio':<44}{calm_s / soak.seconds:10.2f}")
    for each in found:
        say(f"DIFFERENT: {each}")
    if not found:
        say(f"  {options.cases:,} results, each once and right, the tables those of the run that nobody disturbed; "
            "nothing is left")
    if options.json:
        kept = {name: value for name, value in vars(options).items() if name not in ("json", "folder")}
        seconds = {"undisturbed_s": calm_s, "disturbed_s": soak.seconds}
        counts = {"killed": dict(soak.killed), **facts, "resumed": soak.resumed, "stopped": soak.stopped}
        figures = {"options": kept, "cores": os.cpu_count(), **seconds, **counts, "differences": found}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
