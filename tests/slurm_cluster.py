"""A real SLURM for tests: the fixtures `cluster`, one for all tests, and `start_cluster`, for settings of one's own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "slurm" / "testcluster"))

from testcluster import Cluster, ClusterError  # noqa: E402  # a program of its own, in no package

StartCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[StartCluster]:
    """Start a further cluster: start_cluster(nodes=1, settings={"MaxJobCount": "5"}); it ends with the session."""
    # not tmp_path: the name of a socket must be short
    folder = Path(tempfile.mkdtemp(prefix="mh-slurm-"))
    clusters: list[Cluster] = []

    def start(**options: object) -> Cluster:
        made = Cluster(folder / str(len(clusters)), **options)  # type: ignore[arg-type]
        clusters.append(made)
        try:
            made.start()
        except ClusterError as error:
            if error.code != 5 or os.environ.get("MH_TEST_REQUIRE_SLURM"):
                raise
            pytest.skip(f"needs SLURM: {error}")
        return made

    yield start
    for made in clusters:
        made.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster(start_cluster: StartCluster) -> Cluster:
    """Three nodes with two GPUs each. Tests share it: who breaks something mends it."""
    return start_cluster()
