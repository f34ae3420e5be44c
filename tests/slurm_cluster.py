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

from testcluster import Cluster, ClusterError, until  # noqa: E402  # a program of its own, in no package

TOOLS = REPO / "build" / "tools" / "slurm" / "usr"  # by tests/tools.sh, where the system has no SLURM
StartCluster = Callable[..., Cluster]


def job(cluster: Cluster, number: str) -> dict[str, str]:
    """What SLURM knows of a job: JobState, Reason, NodeList, Restarts, ...; empty once it has forgotten the job."""
    try:
        words = cluster.run("scontrol", "--oneliner", "show", "job", number).split()
    except ClusterError as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    return dict(word.split("=", 1) for word in words if "=" in word)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for what a test cannot go on without."""
    assert until(lambda: bool(condition()), seconds), f"not within {seconds:g} s: {what}"


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[StartCluster]:
    """Start a further cluster: start_cluster(nodes=1, settings={"MaxJobCount": "5"}); it ends with the session."""
    # for all that is started here: the tested program looks for SLURM's commands as it would on a cluster
    if TOOLS.exists():
        os.environ["PATH"] = os.pathsep.join([f"{TOOLS}/bin", f"{TOOLS}/sbin", os.environ["PATH"]])
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
