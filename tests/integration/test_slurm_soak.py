"""Half a minute in which something is killed every second. `benchmarks/soak.py` does it for longer, and with more."""

from __future__ import annotations

import os
from pathlib import Path

from slurm_cluster import Cluster
from slurm_driving import SlurmRun, undisturbed
from soaking import Soak, differences

CASES = 300
SEED = int(os.environ.get("MH_TEST_SEED", "20261125"))


def test_a_kill_every_second_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Of workers and sessions, at random; drivers and daemons need seconds to come back, and have tests of their own.

    Those are spared that have not recovered since they were hit last: a session needs about a second to start, and
    longer on a busy machine. Two kills of it in a row would be charged to a case, or to a node, as they should be.
    """
    print("seed", SEED)
    run = SlurmRun(cluster, tmp_path)
    run.numbers(CASES, 0.5)
    ended = run.submit("--chunk-size", "2")
    assert ended.code == 0, ended.text
    run.under_way(1)
    soak = Soak(run, ("worker", "session"), every_s=1.0, seed=SEED, spare=True)
    soak.to_the_end(limit_s=300.0)
    assert differences(run, CASES, undisturbed(tmp_path / "calm", run)) == [], soak.killed
    assert sum(soak.killed.values()) >= 10, soak.killed
