"""The test cluster is a real one: what tests of runs on SLURM rely on, and what it leaves behind, which is nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import StartCluster, begin_again, job, wait_for
from testcluster import Cluster, ClusterError, fits_sockets, is_running

PROGRAM = Path(__file__).resolve().parent.parent / "slurm" / "testcluster" / "testcluster.py"


def sbatch(cluster: Cluster, folder: Path, script: str, *options: str) -> str:
    """Submit a shell script; its number. Output goes to FOLDER/<number>.out."""
    path = folder / "script.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    answer = cluster.run("sbatch", "--parsable", f"--output={folder}/%j.out", f"--chdir={folder}", *options, str(path))
    return answer.strip()


def output(folder: Path, number: str) -> str:
    path = folder / f"{number}.out"
    return path.read_text() if path.exists() else ""


def state(cluster: Cluster, number: str) -> str:
    return job(cluster, number).get("JobState", "")


def mine(folder: Path) -> list[str]:
    """Command lines of all processes that work in this folder, whoever's children they are."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                place = Path(os.readlink(entry / "cwd"))
                if folder in (place, *place.parents) and is_running(int(entry.name)):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it is somebody else's, or has ended
                continue
    return found


@pytest.fixture(params=["c"])
def by_hand(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for a cluster that the test starts; a test that fails leaves nothing behind either."""
    yield tmp_path / request.param
    Cluster(tmp_path / request.param).stop()


def test_six_jobs_get_the_six_gpus_of_three_nodes(cluster: Cluster, tmp_path: Path) -> None:
    # each waits for all others, so that they run at the same time
    script = """
        touch "here.$SLURM_JOB_ID"
        while [ "$(ls here.* | wc -l)" -lt 6 ]; do sleep 0.1; done
        echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES" >> taken
    """
    for _ in range(6):
        sbatch(cluster, tmp_path, script, "--gres=gpu:1")
    taken = tmp_path / "taken"
    wait_for(lambda: taken.exists() and len(taken.read_text().splitlines()) == 6, "six jobs that ran together")
    assert sorted(taken.read_text().splitlines()) == [f"node{node} {gpu}" for node in (1, 2, 3) for gpu in (0, 1)]


def test_a_node_can_be_broken_for_its_jobs_alone(cluster: Cluster, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "apptainer"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho broken\n")
    broken.chmod(0o755)
    prolog = cluster.folder / "environment.node2"
    prolog.write_text(f"export PATH={broken.parent}:/usr/bin:/bin\nexport WHERE=here\n")
    try:
        numbers = [
            sbatch(cluster, tmp_path, 'echo "$WHERE-"; apptainer; echo end', f"--nodelist={node}")
            for node in ("node1", "node2")
        ]
        wait_for(lambda: all("end" in output(tmp_path, number) for number in numbers), "both jobs' output")
    finally:
        prolog.unlink()
    well, ill = (output(tmp_path, number) for number in numbers)
    assert well.startswith("-\n") and "broken" not in well
    assert ill == "here-\nbroken\nend\n"


def test_a_job_above_its_memory_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    eat = f"exec {sys.executable} -c 'import time; kept = b\"x\" * 500_000_000; time.sleep(60)'"
    number = sbatch(cluster, tmp_path, eat, "--mem=200")
    wait_for(lambda: state(cluster, number) not in ("PENDING", "RUNNING", "COMPLETING"), "the end of the job")
    assert state(cluster, number) == "FAILED"
    assert "exceeded memory limit" in output(tmp_path, number)


def test_a_better_partition_takes_nodes_from_jobs_which_are_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("scontrol", "update", "PartitionName=main", "GraceTime=0")
    try:
        poor = sbatch(cluster, tmp_path, "sleep 300", "--nodes=3", "--exclusive")
        wait_for(lambda: state(cluster, poor) == "RUNNING", "the first job")
        rich = sbatch(cluster, tmp_path, "echo served", "--nodes=3", "--exclusive", "--partition=hi")
        wait_for(lambda: "served" in output(tmp_path, rich), "the job of the better partition")
        wait_for(lambda: job(cluster, poor).get("Restarts") == "1", "the first job in the queue again")
        assert "DUE TO PREEMPTION" in output(tmp_path, poor)
    finally:
        cluster.run("scontrol", "update", "PartitionName=main", "GraceTime=6")
    begin_again(cluster, poor)
    cluster.run("scancel", poor)


def test_a_partition_can_be_closed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.set_partition("main", "DOWN")
    try:
        number = sbatch(cluster, tmp_path, "echo ran")
        wait_for(lambda: job(cluster, number)["Reason"] == "PartitionDown", "a job that waits for its partition")
    finally:
        cluster.set_partition("main", "UP")
    wait_for(lambda: "ran" in output(tmp_path, number), "the job, later")


def test_a_node_goes_down_and_comes_back(start_cluster: StartCluster, tmp_path: Path) -> None:
    two = start_cluster(nodes=2, gpus=0, settings={"SlurmdTimeout": "3"})
    two.kill_node("node2")
    assert "node2" not in two.pids()
    wait_for(lambda: two.node_states()["node2"].startswith("down"), "a node that is down")
    assert two.node_states()["node1"] == "idle"
    two.start_node("node2")
    number = sbatch(two, tmp_path, 'echo "on $SLURMD_NODENAME"', "--nodelist=node2")
    wait_for(lambda: output(tmp_path, number) == "on node2\n", "a job on the node that came back")


def test_the_queue_outlives_the_controller(start_cluster: StartCluster, tmp_path: Path) -> None:
    one = start_cluster(nodes=1)
    running = sbatch(one, tmp_path, "while [ ! -e go ]; do sleep 0.1; done; echo lasted")
    waiting = sbatch(one, tmp_path, "echo waited", "--hold")
    wait_for(lambda: state(one, running) == "RUNNING", "the first job")
    known, now = one.folder / "state" / "job_state", time.time()
    wait_for(lambda: known.exists() and known.stat().st_mtime > now, "what the controller knows, on disk")
    one.kill_controller()
    assert "slurmctld" not in one.pids() and "node1" in one.pids()
    one.start_controller()
    assert state(one, running) == "RUNNING"
    assert job(one, waiting)["Reason"] == "JobHeldUser"
    (tmp_path / "go").touch()
    wait_for(lambda: state(one, running) == "COMPLETED", "the end of the first job")
    assert output(tmp_path, running) == "lasted\n"


@pytest.mark.parametrize("by_hand", ["long" * 30], indirect=True, ids=["long"])
def test_start_and_stop_by_hand(cluster: Cluster, tmp_path: Path, by_hand: Path) -> None:
    """The command itself, in a folder whose name is too long for sockets, beside the cluster of the other tests."""
    assert not fits_sockets(by_hand)

    def call(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *arguments, "--folder", str(by_hand)], capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    said = call("start", "--nodes", "1", "--set", "MaxArraySize=7")
    assert "Started: 1 nodes" in said and f"export SLURM_CONF={by_hand}/slurm.conf\n" in said
    made = Cluster(by_hand)
    before = made.pids()
    # what a job leaves when it ends: a process with neither parent nor environment
    left = "(setsid env -i sleep 1234 &); (trap '' TERM; sleep 300)"
    number = sbatch(made, tmp_path, left)
    wait_for(lambda: any("1234" in line for line in mine(tmp_path)), "the job's process")
    assert "It runs already: 1 nodes" in call("start")
    assert made.pids() == before and state(made, number) == "RUNNING"
    assert "idle" in call("status") or "mixed" in call("status")
    assert "MaxArraySize            = 7" in made.run("scontrol", "show", "config")
    everything = made.processes()
    assert call("stop") == "Stopped.\n"
    assert mine(tmp_path) == []
    assert [pid for pid in everything if is_running(pid)] == []
    assert call("stop").startswith("Nothing runs")
    assert "not running" in call("status", code=1)
    assert cluster.is_up()


def test_a_start_cleans_up_after_a_crash(tmp_path: Path, start_cluster: StartCluster) -> None:
    one = start_cluster(nodes=1)
    (one.folder / "environment.node1").write_text("export BROKEN=yes\n")
    number = sbatch(one, tmp_path, "sleep 300")
    wait_for(lambda: state(one, number) == "RUNNING", "a job")
    one.kill_controller()
    assert not one.is_up()
    assert one.start()
    assert mine(tmp_path) == []
    assert job(one, number) == {}
    assert not (one.folder / "environment.node1").exists()


def test_a_cluster_that_can_not_start_says_why_and_leaves_nothing(cluster: Cluster, by_hand: Path) -> None:
    wrong = Cluster(by_hand, settings={"SelectType": "select/nonsense"})
    with pytest.raises(ClusterError, match=r"(?s)ended: .*slurmctld.*select/nonsense") as caught:
        wrong.start()
    assert caught.value.code == 1
    assert wrong.processes() == set()


def test_a_folder_of_something_else_is_left_alone(cluster: Cluster, by_hand: Path) -> None:
    by_hand.mkdir()
    (by_hand / "mine").touch()
    with pytest.raises(ClusterError, match="holds something else") as caught:
        Cluster(by_hand).start()
    assert caught.value.code == 2
    assert os.listdir(by_hand) == ["mine"]
    with pytest.raises(ClusterError, match="can't express"):
        Cluster(by_hand / "two words").start()


def test_without_slurm_the_packages_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "start", "--folder", str(tmp_path / "c")],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 5
    assert "slurmctld slurmd slurm-client munge" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "c").exists()
