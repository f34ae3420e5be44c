"""Measure what the report of a large run costs: `python benchmarks/report.py --help`; README.md says more."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import REPO, cohort, words

_TICK_S = 0.05
_KINDS = {"brains": cohort.brains, "digits": cohort.digits}


def main() -> int:
    options = parse()
    if options.run:
        show(str(options.run), measure(options.run))
        return 0
    found = words.machine()
    words.say(words.describe(found))
    figures = {}
    for kind in options.kinds:
        with tempfile.TemporaryDirectory(prefix="mh-report-") as folder:
            made = _KINDS[kind](Path(folder), options.cases)
            figures[kind] = measure(made.run)
        show(f"{kind}, {options.cases:,} cases", figures[kind])
    if options.json:
        words.write_json(options, {"machine": found, "reports": figures})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make cohorts, run the models over them, and report on the runs.")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--kinds", nargs="+", choices=tuple(_KINDS), default=tuple(_KINDS))
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="report on this run, and make none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def measure(run: Path) -> dict[str, float]:
    """Seconds of the command, the most memory of all its processes together (MiB), and the size of the page (MB)."""
    target = run.with_name("report.html")
    command = [sys.executable, "-m", "modelhub_hpc.cli", "report", str(run), "--to", str(target), "--json"]
    began, most = time.monotonic(), 0.0
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(map(_resident_mb, _family(process.pid))))
            time.sleep(_TICK_S)
        seconds = time.monotonic() - began
        answer = json.loads(process.stdout.read()) if process.stdout and not process.returncode else {}
    if not answer:
        raise RuntimeError(f"the report ended with {process.returncode}")
    counts = {name: answer[name] for name in ("cases", "failed", "quarantined", "pictures")}
    return {"seconds": seconds, "peak_mb": most, "page_mb": answer["bytes"] / 1e6, **counts}


def show(title: str, figures: dict[str, float]) -> None:
    words.say(f"{title}: {figures['failed']:,} failed, {figures['quarantined']:,} quarantined, "
              f"pictures of {figures['pictures']:,}")
    words.table([
        ("seconds", f"{figures['seconds']:10.1f}"),
        ("peak memory of all processes", f"{figures['peak_mb']:10.0f} MiB"),
        ("size of the page", f"{figures['page_mb']:10.2f} MB"),
    ])


def _family(root: int) -> Iterator[int]:
    """A process and all below it."""
    yield root
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    except OSError:
        return  # it ended meanwhile
    for child in children:
        yield from _family(int(child))


def _resident_mb(process: int) -> float:
    """Memory that several processes share is counted in parts."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


if __name__ == "__main__":
    sys.exit(main())
