"""Time a whole conversion against plain `apptainer build`: `python benchmarks/conversion.py ARCHIVE.tar`.

README.md says what it means. Both start from the same archive in the same run, turn about, and write below --work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
LIMIT_S = 1800.0
NAME = "benchmark/conversion:1"


@dataclass(frozen=True)
class Round:
    """Seconds and bytes of one turn. again: the conversion of the same digest once more."""

    plain: float
    whole: float
    again: float
    plain_bytes: int
    whole_bytes: int


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="mh-conversion-", dir=options.work) as folder:
        rounds = [turn(options.archive.absolute(), Path(folder) / str(n)) for n in range(options.repeats)]
    report(options, rounds)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a whole conversion against plain `apptainer build`.")
    parser.add_argument("archive", type=Path, help="a `docker save` archive")
    parser.add_argument("--repeats", type=int, default=3, help="the medians of as many rounds are given")
    parser.add_argument("--work", type=Path, help="folder with room for five times the archive; default TMPDIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def turn(archive: Path, folder: Path) -> Round:
    """Plain build and our conversion, each with nothing cached of its own."""
    folder.mkdir()
    plain_sif = folder / "plain.sif"
    places = {"APPTAINER_CACHEDIR": folder / "cache", "TMPDIR": folder, "APPTAINER_TMPDIR": folder}
    plain = seconds(["apptainer", "-q", "build", plain_sif, f"docker-archive:{archive}"], **places)
    store = {"MH_HPC_CACHE_DIR": folder / "store"}
    convert = [sys.executable, "-m", "modelhub_hpc.cli", "-q", "convert", "--strict", "--name", NAME]
    whole = seconds([*convert, f"docker-archive:{archive}"], **store)
    again = seconds([*convert, f"docker-archive:{archive}"], **store)
    made = next((folder / "store/images").glob("*.sif"))
    figures = Round(plain, whole, again, plain_sif.stat().st_size, made.stat().st_size)
    shutil.rmtree(folder)
    return figures


def seconds(command: list[object], **variables: object) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MH_HPC_", "APPTAINER"))}
    env = {**kept, "PYTHONPATH": str(REPO), **{name: str(value) for name, value in variables.items()}}
    os.sync()  # the disk is not busy with what was written before
    began = time.monotonic()
    subprocess.run([str(word) for word in command], env=env, check=True, timeout=LIMIT_S, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def report(options: argparse.Namespace, rounds: list[Round]) -> None:
    middle = {name: statistics.median(getattr(each, name) for each in rounds) for name in asdict(rounds[0])}
    ratio = statistics.median(each.whole / each.plain for each in rounds)
    say(f"{options.archive.stat().st_size / 1e6:.0f} MB archive, {os.cpu_count()} cores, medians of {len(rounds)}")
    say(f"  apptainer build                        {middle['plain']:8.1f} s  {middle['plain_bytes'] / 1e6:8.1f} MB")
    say(f"  mh-hpc convert, audit and certificate  {middle['whole']:8.1f} s  {middle['whole_bytes'] / 1e6:8.1f} MB")
    say(f"  ratio of the times                     {ratio:8.2f}")
    say(f"  mh-hpc convert, the same digest again  {middle['again']:8.1f} s")
    if options.json:
        machine = {"cores": os.cpu_count(), "kernel": platform.release(), "machine": platform.machine()}
        figures = {"machine": machine, "ratio": ratio, **middle, "rounds": [asdict(each) for each in rounds]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
