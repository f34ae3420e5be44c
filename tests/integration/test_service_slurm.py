"""Models in jobs of a real SLURM: begun by the first request, ended when nobody asks, replaced when they are lost."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from grounds import OBEDIENT, REPO
from servekit import Endpoint, serving
from slurm_cluster import Cluster, wait_for

PAIR = REPO / "tests/contributions/pair"


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path) -> Iterator[Endpoint]:
    words = (OBEDIENT, PAIR, "--backend", "slurm", "--idle", "8", "--sessions", "2", "--time", "10")
    variables = {**cluster.environment(), "MH_HPC_POLL_S": "1", "MH_HPC_DRAIN_S": "2"}
    with serving(tmp_path, *words, **variables) as found:
        yield found


def order(server: Endpoint, text: str, path: str = "/models/obedient/api/predict") -> requests.Response:
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(text.encode("ascii"), np.uint8))
    upload = {"file": ("a.npy", stream.getvalue())}
    return server.post(path, files=upload, timeout=150)


def value(response: requests.Response) -> float:
    assert response.status_code == 200, response.text
    return float(response.json()["output"][0]["prediction"][0])


def jobs(cluster: Cluster) -> list[str]:
    """Those of the servers' models, which are in the queue or run."""
    lines = cluster.run("squeue", "--noheader", "--format=%i %j %T").splitlines()
    return [line.split()[0] for line in lines if "mh-serve-" in line and "COMPLETING" not in line]


def test_a_request_waits_for_its_job_no_longer_than_people_do(cluster: Cluster, tmp_path: Path) -> None:
    """The job stays in the queue meanwhile."""
    variables = {**cluster.environment(), "MH_HPC_POLL_S": "1"}
    words = (OBEDIENT, "--backend", "slurm", "--time", "10", "--sbatch-arg=--begin=now+1hour", "--job-wait", "2")
    with serving(tmp_path, *words, **variables) as server:
        refused = order(server, "OK 1", "/api/predict")
        assert refused.status_code == 503 and "queue" in refused.json()["error"] and "Retry-After" in refused.headers
        (waiting,) = jobs(cluster)
        assert order(server, "OK 1", "/api/predict").status_code == 503
        assert jobs(cluster) == [waiting]
        assert server.stop() == 0
    wait_for(lambda: not jobs(cluster), "the end of a job that nobody waits for")


def test_jobs_come_and_go_with_the_requests(cluster: Cluster, server: Endpoint) -> None:
    assert not jobs(cluster)
    assert value(order(server, "OK 1")) == 1
    assert len(jobs(cluster)) == 1
    assert not server.models()  # nothing of it runs on this node's server

    first, second = np.full((2, 2), 1.0), np.full((2, 2), 2.0)
    files = {"first": ("a.npy", npy(first)), "second": ("b.npy", npy(second))}
    answer = server.post("/models/pair/api/predict", files=files, timeout=150)
    assert answer.json()["output"][0]["prediction"] == [4.0, 8.0]
    assert answer.json()["output"][1]["shape"] == [2, 2, 2]

    assert order(server, "NONSENSE").status_code == 400
    assert order(server, "SEGV").status_code == 503
    assert value(order(server, "OK 2")) == 2

    cluster.run("scancel", *jobs(cluster))
    assert value(order(server, "OK 3")) == 3  # in a job that was submitted since

    wait_for(lambda: not jobs(cluster), "the end of jobs that nobody needs")
    assert value(order(server, "OK 4")) == 4
    assert server.stop() == 0
    wait_for(lambda: not jobs(cluster), "the end of the jobs of a server that has ended")
    assert not list(server.log.parent.glob("mh-hpc-serve*"))
    assert "Traceback" not in server.log.read_text()


def npy(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
