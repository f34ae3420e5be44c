"""Runs of the obedient model, and the commands of mh-hpc that are about runs, as users type them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grounds import OBEDIENT, REPO

sys.path.insert(0, str(REPO / "tests" / "integration"))  # where those lie that do worse things to runs

from driving import Ended, Site, environment, eventually, finish  # noqa: E402
from slurm_cluster import Cluster  # noqa: E402
from slurm_driving import SlurmRun, table, undisturbed  # noqa: E402

__all__ = [
    "Cluster",
    "Ended",
    "Here",
    "Site",
    "SlurmRun",
    "eventually",
    "local_run",
    "patient",
    "rows",
    "shut",
    "table",
    "undisturbed",
]
LIMIT_S = 60.0
PATIENCE = """
    def until(self, marker, number):
        # a case that takes as long as a test wants
        while not os.path.exists(marker):
            time.sleep(0.05)
        return self.ok(number)
"""


class Here:
    """A folder from which commands are given."""

    def __init__(self, folder: Path, variables: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = environment(**{"MH_HPC_POLL_S": "1", **(variables or {})})

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "modelhub_hpc.cli", *map(str, words)],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="surrogateescape", start_new_session=True,
        )  # fmt: skip

    def __call__(self, *words: object) -> Ended:
        return finish(self.start(*words), LIMIT_S)

    def json(self, *words: object, code: int = 0) -> Any:
        """The answer of a command, in JSON."""
        done = self(*words, "--json")
        assert done.code == code, done.text
        return json.loads(done.out)


def local_run(folder: Path, executor: str = "inline", **orders: str) -> Site:
    """A run on this machine that has not begun; orders: what its cases tell the model, by their names."""
    made = Site(folder, "host", executor)
    for name, text in orders.items():
        made.order(name, text)
    return made


def patient(site: Site, folder: Path, count: int, ready: int) -> Path:
    """So many cases, of which the first are done at once, and the others once the marker is there that is returned."""
    site.model = folder / "patient"
    shutil.copytree(OBEDIENT, site.model)
    with open(site.model / "contrib_src/inference.py", "a") as stream:
        stream.write(PATIENCE)
    marker = folder / "marker"
    for number in range(count):
        site.order(f"n{number:05d}", f"OK {number}" if number < ready else f"UNTIL {marker} {number}")
    return marker


def rows(text: str) -> dict[str, str]:
    """The rows of a table of two columns; of several with one head the last."""
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if not line.startswith(" "))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


@contextmanager
def shut(cluster: Cluster, partition: str) -> Iterator[None]:
    """A partition that starts no jobs."""
    cluster.set_partition(partition, "DOWN")
    try:
        yield
    finally:
        cluster.set_partition(partition, "UP")
