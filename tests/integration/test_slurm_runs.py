"""Runs on SLURM from the first command to the last result: real images over all GPUs, --wait, arrays, a full disk."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driving import Site, environment, eventually, finish
from grounds import IMAGE, REPO
from slurm_cluster import Cluster, StartCluster, job
from slurm_driving import SlurmRun, kill, table, undisturbed

DIGITS = REPO / "registry/contributions/digits-cnn"
SIZE_MB, ROOM_MB = 120, 40


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, DIGITS / "make_images.py", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def accuracy(run: Site) -> float:
    truth = dict(line.split(",") for line in (run.inputs / "labels.csv").read_text().split()[1:])
    names = "zero one two three four five six seven eight nine".split()
    rows = [line.split(",") for line in table(run).decode().splitlines()[1:]]
    return sum(row[3] == names[int(truth[f"{row[0]}.png"])] for row in rows) / len(truth)


def test_digits_over_all_gpus(cluster: Cluster, image: object, digits: Path, tmp_path: Path) -> None:
    """899 images over three nodes with two GPUs each: right, on all six, and the same table from an array of jobs.

    The nodes are one machine with one scratch folder, so the image is copied there once.
    """
    runs = {}
    for executor in ("slurm", "slurm-array"):
        run = runs[executor] = SlurmRun(cluster, tmp_path / executor, executor, DIGITS)
        run.runtime, run.inputs = "apptainer", digits
        ended = run.submit("--image", IMAGE, "--chunk-size", "10", "--stage-image", "--wait")
        assert ended.code == 0 and "899 of 899" in ended.text or executor == "slurm-array", ended.text
        record = run.record()
        assert record["counts"] == {"cases": 899, "done": 899, "failed": 0, "pending": 0, "retried": 0}
        assert record["image"]["digest"] and record["nodes"] == ["node1", "node2", "node3"]
        places = {(worker["node"], *worker["gpus"]) for worker in record["workers"]}
        assert places == {(f"node{node}", str(gpu)) for node in (1, 2, 3) for gpu in (0, 1)}
        assert {j["id"] for j in record["jobs"]} >= {w["job"] for w in record["workers"]} or executor == "slurm-array"
        assert set(record["seconds_per_stage"]) == {"start", "read", "model", "write", "chunk"}
        (copy,) = run.scratch.glob("mh-hpc-images-*/*.sif")
        assert sum(f"to {copy}" in path.read_text() for path in run.outdir.glob("logs/slurm-*.out")) == 1
        shutil.rmtree(copy.parent)
        assert eventually(lambda: not run.leftovers(), 20), run.leftovers()
    assert table(runs["slurm"]) == table(runs["slurm-array"])
    assert accuracy(runs["slurm"]) > 0.98


def test_workers_that_share_a_job_have_a_gpu_each(cluster: Cluster, tmp_path: Path) -> None:
    run = SlurmRun(cluster, tmp_path)
    run.numbers(60, 0.1)
    ended = run.submit("--gres", "gpu:2", "--mem", "400M", "--chunk-size", "2")
    assert ended.code == 0, ended.text
    record = run.ends()
    run.right(60)
    by_job: dict[str, set[str]] = {}
    for worker in record["workers"]:
        by_job.setdefault(worker["job"], set()).update(worker["gpus"])
    assert len(by_job) == 3 and set(map(frozenset, by_job.values())) == {frozenset({"0", "1"})}


def test_workers_may_share_each_gpu_of_a_job(cluster: Cluster, tmp_path: Path) -> None:
    run = SlurmRun(cluster, tmp_path)
    run.numbers(24, 0.2)
    ended = run.submit("--sessions-per-gpu", "2", "--mem", "400M", "--chunk-size", "1", "--workers", "4")
    assert ended.code == 0, ended.text
    record = run.ends()
    run.right(24)
    by_job: dict[str, list[tuple[str, ...]]] = {}
    for worker in record["workers"]:
        by_job.setdefault(worker["job"], []).append(tuple(worker["gpus"]))
    assert len(by_job) == 2
    assert all(len(gpus) == 2 and len(set(gpus)) == 1 and len(gpus[0]) == 1 for gpus in by_job.values()), by_job


def test_failed_cases_are_data_and_can_be_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    for executor in ("slurm", "slurm-array"):
        run = SlurmRun(cluster, tmp_path / executor, executor)
        run.numbers(20, 0.02)
        run.order("n00003", "FAIL")
        run.order("n00007", "SEGV")
        ended = run.submit("--wait")
        assert ended.code == 3, ended.text
        kinds = {result.case_id: result.error.kind for result in run.results() if result.error}
        assert kinds == {"n00003": "model", "n00007": "crash"}
        run.until(lambda: not run.jobs(), "no job left", 20)
        again = run.submit("--retry-failed", "--wait")
        assert again.code == 3 and "2 to try again" in again.text, again.text
        assert len(run.results()) == 20 and len(list(run.outdir.glob("shards/*.g1.jsonl"))) in (1, 2)


def test_a_model_that_does_not_start_ends_the_run_at_once(cluster: Cluster, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", REPO / "tests/contributions/obedient", broken], check=True)
    (broken / "contrib_src/inference.py").write_text("raise ImportError('no module named torch')\n")
    for executor in ("slurm", "slurm-array"):
        run = SlurmRun(cluster, tmp_path / executor, executor, broken)
        run.numbers(40)
        ended = run.submit("--wait")
        assert ended.code == 4 and "no module named torch" in ended.text + run.record()["stopped"], ended.text
        run.until(lambda: not run.jobs(), "no job left", 20)
        assert run.record()["counts"]["pending"] == 40


# -- who waits, and who does not ----------------------------------------------------------------------------------


@pytest.fixture
def longer(cluster: Cluster, tmp_path: Path) -> SlurmRun:
    run = SlurmRun(cluster, tmp_path)
    run.numbers(60, 0.4)
    return run


def test_ctrl_c_leaves_the_run_alone(longer: SlurmRun) -> None:
    waiting = longer.start("--wait")
    longer.under_way(1)
    waiting.send_signal(signal.SIGINT)
    ended = finish(waiting)
    assert ended.code == 0 and "goes on without this command" in ended.err, ended.text
    longer.ends()
    longer.right(60)


def test_a_terminal_that_goes_away_leaves_the_run_alone(longer: SlurmRun) -> None:
    master, slave = pty.openpty()
    argv = longer.argv(*longer.flags, "--controller", "login", "--wait")
    os.set_inheritable(slave, True)
    code = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    waiting = subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(**longer.variables),
        start_new_session=True,
    )
    os.close(slave)
    longer.until(lambda: longer.shards() >= 1 or os.read(master, 4096) is None, "the first shard")
    os.close(master)  # the kernel sends SIGHUP to all who have this terminal
    assert waiting.wait(20) != 0
    longer.ends()
    longer.right(60)


def test_submitting_again_is_refused_while_the_run_goes_on(longer: SlurmRun) -> None:
    assert longer.submit().code == 0
    longer.under_way(1)
    again = longer.submit()
    assert again.code == 75 and re.search(r"driven by (job \d+|pid \d+)", again.err), again.text
    longer.ends()
    longer.right(60)
    over = longer.submit()
    assert over.code == 0 and "The run is complete" in over.text, over.text


def test_a_worker_cannot_be_requeued_beside_its_replacement(longer: SlurmRun, cluster: Cluster) -> None:
    assert longer.submit().code == 0
    longer.under_way(1)
    victim = longer.jobs("w", "RUNNING")[0]
    refused = subprocess.run(
        ["scontrol", "requeue", victim], env={**os.environ, **cluster.environment()}, capture_output=True, text=True
    )
    assert refused.returncode != 0 and "disabled" in refused.stderr, refused
    longer.ends()
    longer.right(60)
    assert job(cluster, victim).get("Restarts", "0") == "0"


def test_what_the_site_has_wrong_is_mended_for_runs_that_have_begun(cluster: Cluster, tmp_path: Path) -> None:
    """No flag says what begins a job, so a run takes it from the configuration of the day."""
    run = SlurmRun(cluster, tmp_path)
    run.numbers(6)
    assert run.submit(variables={"MH_HPC_JOB_PROLOGUE": "exit 3"}).code == 0
    run.until(lambda: not run.jobs(), "the driver's job fails")
    assert run.submit("--resume", variables={"MH_HPC_JOB_PROLOGUE": "true"}).code == 0
    run.ends()
    run.right(6)


def test_an_array_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    """The line that --plan-only prints, typed by hand; tasks that are lost are made up for by the same line."""
    run = SlurmRun(cluster, tmp_path, "slurm-array")
    run.numbers(40, 0.05)
    planned = run.submit("--plan-only")
    assert planned.code == 0 and not run.jobs(), planned.text
    line = next(each for each in planned.out.splitlines() if " sbatch " in each)
    held = line.replace("0-N%M", "0-3").replace("sbatch", "sbatch --hold", 1)
    subprocess.run(held, shell=True, env={**environment(), **cluster.environment()}, check=True, capture_output=True)
    assert run.jobs("a")
    assert run.mh("cancel", str(run.outdir)).code == 0 and not run.jobs()
    for tasks in ("1-2", "0-3%2"):  # the first is not all of it
        typed = line.replace("0-N%M", tasks).replace("sbatch", "sbatch --wait", 1)
        # the environment is exported by hand: it has to hold what the model's runtime needs
        done = subprocess.run(typed, shell=True, env={**environment(), **cluster.environment()}, capture_output=True)
        assert done.returncode == 0, done
    assert run.submit("--resume").code == 0
    run.right(40)
    assert table(run) == undisturbed(tmp_path / "calm", run)


# -- a full disk --------------------------------------------------------------------------------------------------

# what the root of a mount namespace has to do; the rest needs no root
STAGE = 'mount -t tmpfs -o "size=$1m,mode=0777" small "$2" || exit 77; shift 2; exec "$@"'

SCENE = """
import sys
sys.path[:0] = {places!r}
import json
from pathlib import Path
from slurm_driving import SlurmRun
from testcluster import Cluster
small, work = Path(sys.argv[1]), Path(sys.argv[2])
cluster = Cluster(work / "cl", nodes=1)
cluster.start()
try:
    run = SlurmRun(cluster, work)
    run.outdir = small / "run"
    (small / "ballast").write_bytes(bytes({ballast} * 2**20))
    for number in range(60):
        run.order(f"n{{number:05d}}", f"NOISE 1 {{number}}")
    ended = run.submit("--workers", "2", "--chunk-size", "2")
    assert ended.code == 0, ended.text
    run.until(run.is_over, "the end")
    first = run.record()["exit_code"], run.record()["counts"], run.record()["stopped"]
    run.until(lambda: not run.jobs(), "no job left", 30)
    (small / "ballast").unlink()
    again = run.submit("--resume", "--wait")
    counts = run.record()["counts"]
    half = [str(path) for path in run.outdir.rglob("*.part")]
    print(json.dumps([first, again.code, counts, half, again.text]))
finally:
    cluster.stop()
"""


def test_a_run_folder_that_is_full_stops_the_run_and_loses_nothing(start_cluster: StartCluster, tmp_path: Path) -> None:
    """The whole cluster lives in a mount namespace in which the run folder has little room."""
    start_cluster(nodes=1).stop()  # skips, or finds, SLURM
    small = tmp_path / "small"
    small.mkdir()
    places = [str(REPO / place) for place in ("tests", "tests/integration", "slurm/testcluster")]
    work = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    # the daemons of SLURM would drop groups if they were root in there, which that may not: they are this user again
    me = ["unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}"] if os.geteuid() else []
    scene = SCENE.format(places=places, ballast=SIZE_MB - ROOM_MB)
    apart = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() else []), "--mount"]
    stage = ["sh", "-c", STAGE, "sh", str(SIZE_MB), small]
    done = subprocess.run(
        [*apart, *stage, *me, sys.executable, "-c", scene, small, work],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 77:
        pytest.skip(f"this machine lets its users have no mount namespace: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    (code, counts, stopped), again, after, half, text = json.loads(done.stdout.splitlines()[-1])
    assert code == 75 and "No space left" in stopped, (code, stopped)
    assert 0 < counts["done"] < 60 and counts["failed"] == 0
    assert again == 0 and after["done"] == 60 and after["failed"] == 0 and not half, (again, after, half, text)


def test_the_session_of_a_killed_worker_is_gone_in_seconds(cluster: Cluster, tmp_path: Path) -> None:
    run = SlurmRun(cluster, tmp_path)
    run.numbers(12, 4.0)
    assert run.submit("--chunk-size", "1", "--workers", "1").code == 0
    run.until(lambda: run.workers() and run.sessions(), "a session")
    sessions = {each.pid for each in run.sessions()}
    kill(run.workers()[0])
    began = time.monotonic()
    run.until(lambda: not sessions & {each.pid for each in run.sessions()}, "the session gone", 10)
    assert time.monotonic() - began < 5
    run.mh("cancel", str(run.outdir))
    run.until(lambda: not run.leftovers(), "nothing left", 30)


@pytest.mark.parametrize("executor", ["slurm", "slurm-array"])
def test_the_name_of_a_model_reaches_no_shell(cluster: Cluster, tmp_path: Path, executor: str) -> None:
    hostile = tmp_path / "model"
    subprocess.run(["cp", "-r", REPO / "tests/contributions/obedient", hostile], check=True)
    config = hostile / "contrib_src/model/config.json"
    facts = json.loads(config.read_text())
    facts["meta"]["name"] = f"U-Net/v2 $(touch {tmp_path}/reached)\n;../x"
    config.write_text(json.dumps(facts))
    run = SlurmRun(cluster, tmp_path / "site", executor, hostile)
    run.numbers(6, 0.01)
    assert run.submit().code == 0
    record = run.ends()
    run.right(6)
    assert not (tmp_path / "reached").exists()
    assert record["model"]["name"] == facts["meta"]["name"]
    assert re.fullmatch(r"\d{8}-U-Net_v2[\w.-]*-\w{4}", record["run_id"], re.ASCII)


def test_a_folder_that_slurm_cannot_write_into_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    run = SlurmRun(cluster, tmp_path / "back\\slash")
    run.numbers(1)
    ended = run.submit()
    assert ended.code == 2 and "backslash" in ended.err and not run.outdir.exists(), ended.text
