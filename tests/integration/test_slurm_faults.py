"""What clusters do to runs: afterwards every case is done exactly once, with the results of an undisturbed run."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster, StartCluster, begin_again, job
from slurm_driving import SlurmRun, kill, table, undisturbed

CASES = 120


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> SlurmRun:
    """A run of some seconds, begun, with all six workers at work."""
    made = SlurmRun(cluster, tmp_path)
    made.numbers(CASES)
    return made


def begun(run: SlurmRun, *flags: str, shards: int = 3) -> SlurmRun:
    ended = run.submit(*flags)
    assert ended.code == 0, ended.text
    run.under_way(shards)
    return run


def as_if_nothing_had_happened(run: SlurmRun, tmp_path: Path) -> None:
    run.ends()
    run.right(CASES)
    assert table(run) == undisturbed(tmp_path / "calm", run)


def test_one_worker_cancelled(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    victim = begun(run).jobs("w", "RUNNING")[0]
    cluster.run("scancel", victim)
    run.until(lambda: victim not in run.jobs("w") and len(run.jobs("w")) == 6, "another in its place", 20)
    as_if_nothing_had_happened(run, tmp_path)


def test_all_workers_cancelled_again_and_again(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    begun(run)
    for _ in range(3):
        run.until(lambda: run.jobs("w"), "workers to cancel")
        cluster.run("scancel", *run.jobs("w"))
        before = run.shards()
        run.until(lambda: run.shards() > before, "work goes on")
    as_if_nothing_had_happened(run, tmp_path)


def test_workers_and_sessions_killed(run: SlurmRun, tmp_path: Path) -> None:
    begun(run)
    kill(run.workers()[0])
    kill(run.sessions()[0])
    time.sleep(1)
    kill(run.sessions()[-1])
    as_if_nothing_had_happened(run, tmp_path)
    assert run.record()["counts"]["retried"] >= 1


def test_a_node_goes_down_and_comes_back(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(CASES, 0.5)
    begun(run)
    cluster.kill_node("node2")
    run.until(lambda: cluster.node_states()["node2"].startswith("down"), "node2 down", 60)
    cluster.start_node("node2")
    as_if_nothing_had_happened(run, tmp_path)


def test_workers_preempted(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(CASES, 1.0)
    begun(run, "--workers", "4", "--sbatch-arg", "--exclude=node1")  # where the driver is
    urgent = ["--partition=hi", "--nodelist=node2,node3", "--nodes=2", "--gres=gpu:2", "--time=1", "--output=/dev/null"]
    number = cluster.run("sbatch", "--parsable", *urgent, "--wrap=sleep 3").strip()
    run.until(lambda: job(cluster, number).get("JobState") == "COMPLETED", "the urgent job ran", 60)
    as_if_nothing_had_happened(run, tmp_path)


def test_the_driver_requeued(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    number = begun(run).jobs("driver")[0]
    cluster.run("scontrol", "requeue", number)
    begin_again(cluster, number)
    assert job(cluster, number)["Restarts"] == "1"
    as_if_nothing_had_happened(run, tmp_path)


def test_the_driver_preempted(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(CASES, 1.5)
    number = begun(run).jobs("driver")[0]
    where = job(cluster, number)["NodeList"]
    urgent = ["--partition=hi", f"--nodelist={where}", "--exclusive", "--time=1", "--output=/dev/null"]
    other = cluster.run("sbatch", "--parsable", *urgent, "--wrap=true").strip()
    run.until(lambda: job(cluster, other).get("JobState") == "COMPLETED", "the urgent job ran", 60)
    begin_again(cluster, number)
    as_if_nothing_had_happened(run, tmp_path)


def test_the_driver_killed_then_resumed(run: SlurmRun, tmp_path: Path) -> None:
    driver = begun(run).driver()
    assert driver is not None
    kill(driver)
    run.until(lambda: not run.jobs(), "workers leave a dead driver", 20)
    again = run.submit("--resume")
    assert again.code == 0, again.text
    as_if_nothing_had_happened(run, tmp_path)


def test_walltimes_shorter_than_the_run(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(CASES, 3.0)  # 60 s for six workers, and jobs of a minute
    run.variables |= {"MH_HPC_CONTROLLER_TIME": "10"}
    begun(run, "-t", "1")
    first = set(run.jobs("w"))
    run.ends(within_s=240)
    run.right(CASES)
    workers = run.record()["workers"]
    assert {worker["job"] for worker in workers} > first
    assert not [job["id"] for job in run.record()["jobs"] if "TIMEOUT" in run.log()]
    assert "slurmstepd" not in run.log(), run.log()  # all left in time, and none was cancelled
    assert table(run) == undisturbed(tmp_path / "calm", run)


def test_the_controller_restarted(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(CASES, 0.5)
    begun(run)
    cluster.kill_controller()
    kill(run.workers()[0])
    time.sleep(5)
    cluster.start_controller()
    as_if_nothing_had_happened(run, tmp_path)


def test_a_node_whose_apptainer_is_broken(
    cluster: Cluster, image: object, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = SlurmRun(cluster, tmp_path)
    run.runtime = "apptainer"
    run.numbers(CASES, 0.1)
    fake = tmp_path / "bin/apptainer"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho FATAL: could not open image >&2\nexit 255\n")
    fake.chmod(0o755)
    broken = Path(cluster.folder) / "environment.node2"
    request.addfinalizer(lambda: broken.unlink(missing_ok=True))
    broken.write_text(f"export PATH={fake.parent}:/usr/local/bin:/usr/bin:/bin\n")
    # workers get the PATH of their driver
    run.variables |= {"MH_HPC_CONTROLLER_SBATCH_ARGS": "--nodelist=node1"}
    begun(run, "--image", "modelhub-hpc/onnxruntime:1")
    record = run.ends()
    run.right(CASES)
    assert record["nodes"] == ["node1", "node3"]
    assert "node node2 is excluded from now on" in run.log()
    excluded = run.progress()["slurm"]
    assert isinstance(excluded, dict) and list(excluded["excluded"]) == ["node2"]  # type: ignore[arg-type]


@pytest.mark.parametrize("executor", ["slurm", "slurm-array"])
def test_a_case_that_outgrows_its_job(cluster: Cluster, tmp_path: Path, executor: str) -> None:
    run = SlurmRun(cluster, tmp_path, executor)
    run.numbers(30, 0.1)
    run.order("n00012", "LEAK")
    # with --mem the session would be ended in time: here the whole job has to go
    run.flags = ("-t", "10", "--workers", "2", "--chunk-size", "5", "--sbatch-arg", "--mem-per-cpu=300M")
    begun(run, shards=1)
    run.ends(code=3)
    failed = [result for result in run.results() if result.error]
    assert [result.case_id for result in failed] == ["n00012"] and failed[0].error
    assert failed[0].error.kind == "memory" and "memory limit" in failed[0].error.evidence, failed[0].error


def test_a_case_that_needs_more_time_than_a_job_has(cluster: Cluster, tmp_path: Path) -> None:
    """No endless loop of jobs: the run stops, names the case, and keeps what is done."""
    run = SlurmRun(cluster, tmp_path)
    run.numbers(6, 0.1)
    run.order("n00003", "SLEEP 600 3")
    run.variables |= {"MH_HPC_CONTROLLER_TIME": "10"}
    run.flags = ("-t", "1", "--workers", "2", "--chunk-size", "1", "--gres", "gpu:1", "--mem", "1G")
    assert run.submit().code == 0
    record = run.ends(code=75, within_s=240)
    assert "case n00003 needs more time than a job has" in record["stopped"], record["stopped"]
    assert record["counts"]["done"] == 5 and record["counts"]["failed"] == 0


def test_a_partition_that_is_down(
    run: SlurmRun, cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: cluster.set_partition("main", "UP"))
    cluster.set_partition("main", "DOWN")
    ended = run.submit()
    assert ended.code == 0, ended.text
    status = run.mh("status", str(run.outdir))
    assert "PartitionDown" in status.out, status.text
    cluster.set_partition("main", "UP")
    as_if_nothing_had_happened(run, tmp_path)


def test_the_login_shell_is_gone(run: SlurmRun, tmp_path: Path) -> None:
    """A driver on the login node outlives what started it, and its terminal's hangup."""
    begun(run, "--controller", "login")
    driver = run.driver()
    assert driver is not None and driver.sid == driver.pid and driver.parent == 1
    kill(driver, signal.SIGKILL)
    run.until(lambda: not run.jobs(), "workers leave a dead driver", 20)
    assert run.submit("--resume").code == 0
    as_if_nothing_had_happened(run, tmp_path)


@pytest.mark.parametrize("victim", ["one", "all"])
def test_arrays_survive_too(cluster: Cluster, tmp_path: Path, victim: str) -> None:
    run = SlurmRun(cluster, tmp_path, "slurm-array")
    run.numbers(CASES)
    begun(run, shards=2)
    running = run.jobs("a", "RUNNING")
    cluster.run("scancel", *(running[:1] if victim == "one" else {number.split("_")[0] for number in running}))
    as_if_nothing_had_happened(run, tmp_path)


@pytest.mark.parametrize(
    ("executor", "setting"),
    [
        ("slurm", {"MaxJobCount": "6"}),
        ("slurm-array", {"MaxArraySize": "5"}),
        ("slurm-array", {"MaxArraySize": "50", "MaxJobCount": "20"}),
    ],
)
def test_limits_of_the_cluster_make_fewer_jobs_not_fewer_cases(
    start_cluster: StartCluster, tmp_path: Path, executor: str, setting: dict[str, str]
) -> None:
    small = start_cluster(nodes=1, settings=setting)
    run = SlurmRun(small, tmp_path, executor)
    run.numbers(60, 0.05)
    ended = run.submit("--workers", "20", "--chunk-size", "2")
    assert ended.code == 0, ended.text
    run.ends()
    run.right(60)
