"""The jobs that a run has on a real SLURM: as many as it can use, as few as it can get, and each of them once."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grounds import Process
from slurm_cluster import Cluster, StartCluster, wait_for
from slurm_driving import SlurmRun, kill

SOCKET = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> SlurmRun:
    return SlurmRun(cluster, tmp_path)


def begun(run: SlurmRun, *flags: str, **variables: str) -> SlurmRun:
    ended = run.submit(*flags, variables=variables)
    assert ended.code == 0, ended.text
    return run


def wrap(folder: Path, program: str, first: str) -> str:
    """A PATH with a program of SLURM that does something else first, and then what it does anyway."""
    folder.mkdir(exist_ok=True)
    path = folder / program
    path.write_text(f'#!/bin/sh\nreal={shutil.which(program)}\nhere="{folder}"\n{first}\nexec "$real" "$@"\n')
    path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def workers_over_time(run: SlurmRun) -> Iterator[list[str]]:
    """The worker jobs that there are, again and again until the run is over."""
    deadline = time.monotonic() + 120
    while not run.is_over():
        assert time.monotonic() < deadline, f"{run.progress()}\n{run.log()}"
        yield run.jobs("w")
        time.sleep(0.2)


def waiting(run: SlurmRun) -> str:
    """Why jobs wait, as the driver tells it."""
    told = run.progress().get("slurm")
    return str(told["waiting"]) if isinstance(told, dict) else ""


# -- as many as it can use --------------------------------------------------------------------------------------------


def test_with_a_minimum_jobs_go_when_the_work_goes(run: SlurmRun) -> None:
    run.numbers(30)
    run.order("n00000", "SLEEP 10 0")  # what the others do not wait for
    begun(run, "--chunk-size", "1", MH_HPC_MIN_WORKERS="1")
    run.until(lambda: len(run.jobs("w", "RUNNING")) == 6, "six workers")
    counts = [len(jobs) for jobs in workers_over_time(run)]
    assert max(counts) == 6 and counts[-1] <= 1, counts
    assert counts == sorted(counts, reverse=True), counts  # nobody came in the place of those who went
    run.ends()
    run.right(30)
    assert len(run.record()["workers"]) == 6  # all of them had worked
    assert "CANCELLED" not in run.log()


def test_a_worker_that_hangs_holds_nobody_up(run: SlurmRun) -> None:
    run.numbers(30)
    run.order("n00000", "SLEEP 25 0")
    begun(run, "--chunk-size", "1", MH_HPC_MIN_WORKERS="1", MH_HPC_POLL_S="4")
    run.until(lambda: run.shards() == 29, "all but the long one")
    done = "".join(path.read_text() for path in run.outdir.glob("shards/*.jsonl"))
    # who has the long one has published nothing, since it was the first to be sent
    idle = [each for each in run.workers() if f'"{worker_name(each)}"' in done]
    kill(idle[0], signal.SIGSTOP)
    try:
        run.until(lambda: len(run.jobs("w")) == 2, "all leave but the one that works and the one that hangs", 20)
        run.ends(within_s=45)
    finally:
        kill(idle[0])
    run.right(30)


def worker_name(worker: Process) -> str:
    words = shlex.split(worker.command)
    return words[words.index("--name") + 1]


# -- as few as it can get ---------------------------------------------------------------------------------------------


def test_the_run_goes_on_with_the_one_that_it_gets(
    run: SlurmRun, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    others = ["sbatch", "--parsable", "--output=/dev/null", "--time=10", "--wrap=sleep 600"]
    taken = [cluster.run(*others, f"--gres=gpu:{gpus}", "--job-name=other").strip() for gpus in (2, 2, 1)]
    request.addfinalizer(lambda: cluster.run("scancel", *taken))
    running = ["squeue", "--noheader", "--states=RUNNING", "--name=other", "--format=%i"]
    wait_for(lambda: len(cluster.run(*running).split()) == 3, "five GPUs in use")
    run.numbers(60, 0.1)
    begun(run)
    seen: set[str] = set()
    for jobs in workers_over_time(run):
        assert len(jobs) <= 6 and len(run.jobs("w", "RUNNING")) <= 1
        seen.add(waiting(run))
    assert any("Resources" in why or "Priority" in why for why in seen), seen
    run.ends()
    run.right(60)
    assert "is gone" not in run.log(), "jobs that waited have not begun in the end"
    assert len(run.record()["workers"]) == 1
    assert len(cluster.run(*running).split()) == 3  # and those of others are none of its business


def test_a_cluster_that_takes_no_more_jobs(start_cluster: StartCluster, tmp_path: Path) -> None:
    small = start_cluster(nodes=1, gpus=6, cpus=8, settings={"MaxJobCount": "4"})
    run = SlurmRun(small, tmp_path)
    run.numbers(40)
    begun(run)
    run.until(lambda: "takes no more jobs now" in waiting(run), "why there are no more")
    assert len(run.jobs("w")) == 2  # beside the driver
    run.ends()
    run.right(40)


# -- each of them once ------------------------------------------------------------------------------------------------


def test_jobs_that_sbatch_does_not_own_up_to(run: SlurmRun, tmp_path: Path) -> None:
    """It submits, and says that the connection broke."""
    lost = f'out=$("$real" "$@") && echo "$out" >> "$here/taken"; echo "{SOCKET}" >&2; exit 1'
    path = wrap(tmp_path / "bin", "sbatch", f'case "$*" in *--job-name=mh-*-w*) {lost};; esac')
    run.numbers(150)
    begun(run, PATH=path)
    most = max(len(jobs) for jobs in workers_over_time(run))
    assert most == 6
    run.ends()
    run.right(150)
    assert len((tmp_path / "bin/taken").read_text().split()) == 6
    assert len({worker["job"] for worker in run.record()["workers"]}) == 6


def test_such_jobs_are_in_the_record(run: SlurmRun, tmp_path: Path) -> None:
    lost = f'"$real" "$@"; echo "{SOCKET}" >&2; exit 1'
    path = wrap(tmp_path / "bin", "sbatch", f'case "$*" in *--job-name=mh-*-w*) {lost};; esac')
    run.numbers(10, 0.1)
    begun(run, "--workers", "1", PATH=path)
    record = run.ends()
    assert {worker["job"] for worker in record["workers"]} <= {job["id"] for job in record["jobs"]}


def test_jobs_that_are_cancelled_before_they_begin_are_replaced(run: SlurmRun, tmp_path: Path) -> None:
    """More of them than starts may fail."""
    cancel = '[ "$(ls "$here" | wc -l)" -lt 11 ] && out=$("$real" "$@") && scancel "$out" && : > "$here/$out"'
    path = wrap(tmp_path / "bin", "sbatch", f'case "$*" in *--job-name=mh-*-w*) {cancel} && echo "$out" && exit;; esac')
    run.numbers(40, 0.1)
    begun(run, PATH=path)
    run.ends()
    assert [result.index for result in run.results() if not result.error] == list(range(40))
    run.until(lambda: not run.jobs(), "no job left", 30)
    cancelled = [path.name for path in (tmp_path / "bin").iterdir() if path.name.isdecimal()]
    assert len(cancelled) == 10
    assert not {worker["job"] for worker in run.record()["workers"]} & set(cancelled)


def test_five_jobs_that_do_not_begin_end_the_run_with_their_words(run: SlurmRun, tmp_path: Path) -> None:
    broken = 'case "$SLURM_JOB_NAME" in *-w*) test -e ../mended || { echo no such module: apptainer; exit 3; };; esac'
    run.numbers(10)
    ended = run.submit("--wait", variables={"MH_HPC_JOB_PROLOGUE": broken})
    assert ended.code == 5, ended.text
    assert "5 jobs in a row ended before their workers were ready" in ended.text
    assert "no such module: apptainer" in ended.text
    run.until(lambda: not run.jobs(), "no job left", 20)
    (tmp_path / "mended").touch()
    assert run.submit("--resume").code == 0
    run.ends()
    run.right(10)


# -- what SLURM is asked ----------------------------------------------------------------------------------------------


def test_squeue_is_asked_no_more_often_than_the_site_wants(run: SlurmRun, tmp_path: Path) -> None:
    """Though with every chunk, and every worker that is lost, there is reason to."""
    wrap(tmp_path / "bin", "squeue", 'echo "$$ $*" >> "$here/calls"')
    run.numbers(120)
    variables = {"MH_HPC_POLL_S": "2", "MH_HPC_JOB_PROLOGUE": f'export PATH={tmp_path}/bin:"$PATH"'}
    began = time.monotonic()
    begun(run, "--workers", "1:6", "--chunk-size", "1", **variables)
    run.until(lambda: run.shards() >= 30, "all at work")
    for victim in run.jobs("w")[:2]:
        run.cluster.run("scancel", victim)
    run.ends()
    calls = (tmp_path / "bin/calls").read_text().splitlines()
    looks = [call for call in calls if "--jobs=" not in call]  # others ask what became of a lost worker
    assert 2 <= len(looks) <= (time.monotonic() - began) / 2 + 2, calls
    assert len(calls) - len(looks) <= 2 * 2, calls
    run.right(120)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executor", "flags", "words"),
    [
        ("slurm", ("-p", "nix"), "invalid partition specified: nix"),
        ("slurm", ("--gres", "gpu:7"), "Requested node configuration is not available"),
        ("slurm", ("-C", "nix"), "Invalid feature specification"),
        ("slurm", ("--mem", "99G"), "Requested node configuration is not available"),
        ("slurm", ("--sbatch-arg", "--nodelist=nix"), "Invalid node name specified"),
        ("slurm-array", ("-p", "nix"), "invalid partition specified: nix"),
        ("slurm-array", ("--gres", "gpu:7"), "Requested node configuration is not available"),
    ],
)
def test_what_slurm_will_never_give_is_refused_at_once(
    cluster: Cluster, tmp_path: Path, executor: str, flags: tuple[str, ...], words: str
) -> None:
    run = SlurmRun(cluster, tmp_path, executor)
    run.numbers(1)
    ended = run.submit(*flags)
    assert ended.code == 5 and words in ended.err, ended.text
    assert "mh-" not in cluster.run("squeue", "--noheader", "--format=%j")
    assert not list(run.outdir.rglob("slurm-*.out")) and not run.processes()


def test_what_was_refused_goes_on_once_it_is_mended(run: SlurmRun) -> None:
    run.numbers(6)
    assert run.submit("-p", "nix").code == 5
    assert run.submit("-p", "main").code == 0
    run.ends()
    run.right(6)
