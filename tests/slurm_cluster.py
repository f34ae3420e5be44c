"""A real SLURM for tests: the fixtures `cluster`, one for all tests, and `start_cluster`, for settings of one's own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "slurm" / "testcluster"))

import testcluster  # noqa: E402  # a program of its own, in no package
from testcluster import Cluster, ClusterError, until  # noqa: E402

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


def begin_again(cluster: Cluster, number: str) -> None:
    """Let a requeued job begin. SLURM has it wait for two minutes, from when its last node is done with it."""
    wait_for(lambda: job(cluster, number).get("Reason") == "BeginTime", f"job {number} in the queue again")
    # a node takes a job's credential for revoked if it is from the second in which the job was ended there
    time.sleep(1)
    cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now")
    began = until(lambda: job(cluster, number).get("JobState") == "RUNNING", 60)
    assert began, f"{job(cluster, number)}\n{cluster.run('sinfo', '--long', '--Node')}"


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
    # a process of its own ends them: the one of the tests may be killed
    ending = 'cat > /dev/null; for each in "$1"/*/; do "$0" "$2" stop --folder "$each" || exit; done; rm -r "$1"'
    guard = subprocess.Popen(
        ["/bin/sh", "-c", ending, sys.executable, str(folder), str(Path(testcluster.__file__))],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    numbers = itertools.count()

    def start(**options: object) -> Cluster:
        made = Cluster(folder / str(next(numbers)), **options)  # type: ignore[arg-type]
        try:
            made.start()
        except ClusterError as error:
            if error.code != 5 or os.environ.get("MH_TEST_REQUIRE_SLURM"):
                raise
            pytest.skip("needs SLURM and munge: tests/tools.sh build/tools fetches them")
        return made

    yield start
    guard.communicate()
    assert guard.returncode == 0 and not folder.exists()


@pytest.fixture(scope="session")
def cluster(start_cluster: StartCluster) -> Cluster:
    """Three nodes with two GPUs each. Tests share it: who breaks something mends it."""
    return start_cluster()
