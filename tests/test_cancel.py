"""`mh-hpc cancel` and `resume`: what has ended has, what is done stays, and the rest goes on; here and on SLURM."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grounds import processes
from runkit import Cluster, Here, SlurmRun, eventually, local_run, patient, rows, shut, table, undisturbed

from modelhub_hpc import owner
from modelhub_hpc.record import RunPaths, publish_json, replace_json

HOSTILE = ["-it's a \"space\"", "new\nline; $(touch x) *|&ü", "100%j %%A"]


@pytest.fixture
def mh(tmp_path: Path) -> Here:
    return Here(tmp_path)


def on(cluster: Cluster, folder: Path) -> Here:
    return Here(folder, cluster.environment())


# ---- on this machine


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_run_here_finishes_what_it_has_begun_and_goes_on_later(mh: Here, tmp_path: Path, executor: str) -> None:
    site = local_run(tmp_path, executor)
    marker = patient(site, tmp_path, 9, ready=3)
    with site.started("--workers", "2", "--chunk-size", "1", shards=3) as driver:
        with mh.start("cancel", "run", "--json") as cancelling:
            assert driver.stderr is not None
            while "in flight; Ctrl-C again to stop now" not in driver.stderr.readline():
                pass
            marker.touch()
            out, _ = cancelling.communicate()
            driver.communicate()
    (told,) = json.loads(out)
    assert (driver.returncode, cancelling.returncode, told["told"]["pid"]) == (130, 0, driver.pid)
    begun = 1 if executor == "inline" else 2
    assert (told["done"], told["to_go"], told["left"], told["ended"]) == (3 + begun, 6 - begun, [], [])
    assert site.leaves_nothing()
    assert rows(mh("status", "run").out)["state"] == "not running: interrupted"
    assert mh(*shlex.split(told["resume"])[1:]).code == 0
    assert table(site) == undisturbed(tmp_path / "calm", site)


def test_told_a_second_time_it_ends_at_once(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path)
    patient(site, tmp_path, 2, ready=1)
    with site.started("--chunk-size", "1") as driver, mh.start("cancel", "run") as first:
        assert driver.stderr is not None
        while "in flight; Ctrl-C again to stop now" not in driver.stderr.readline():
            pass
        second = mh("cancel", "run")
        driver.communicate()
        first.communicate()
        assert (driver.returncode, first.returncode, second.code) == (130, 0, 0)
    assert site.leaves_nothing()


def test_a_background_job_that_does_not_hear_ctrl_c_is_ended_all_the_same(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path)
    patient(site, tmp_path, 2, ready=1)
    command = shlex.join(site.argv("--chunk-size", "1"))
    script = subprocess.Popen(
        ["/bin/sh", "-c", f"{command} > /dev/null & echo $!; wait $!; echo $?"],
        env=mh.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert eventually(lambda: site.shards() > 0, 60)
    (told,) = mh.json("cancel", "run")
    said = script.communicate()[0].split()
    assert said == [str(told["told"]["pid"]), "143"]
    assert told["left"] == [] and site.leaves_nothing()


def test_a_driver_that_no_signal_reaches(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1", b="OK 2", c="OK 3")
    assert site.submit().code == 0
    paths = RunPaths(site.outdir)
    driver = owner.acquire(paths.private, "a test")
    (record,) = (path for path in paths.private.glob("owner.??????") if str(os.getpid()) in path.read_text())
    elsewhere = {**json.loads(record.read_bytes()), "host": "node77"}
    record.unlink()
    publish_json(record, elsewhere)
    replace_json(paths.progress_json, {"updated": time.time(), "done": 3, "failed": 0})
    hidden = mh("cancel", "run")
    replace_json(paths.progress_json, {"updated": time.time() - 60, "done": 3, "failed": 0})
    dead = mh("cancel", "run")
    driver.release()
    assert hidden.code == 5 and f"is driven by pid {os.getpid()} on node77" in hidden.err
    assert f"On node77:  mh-hpc cancel {site.outdir}" in hidden.err
    assert dead.code == 0 and "nothing to cancel" in dead.out


def test_nothing_to_cancel_changes_nothing(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1", b="OK 2")
    assert site.submit().code == 0

    def everything() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in site.outdir.rglob("*"))

    before = everything()
    done = mh("cancel", "run")
    assert done.code == 0 and "nothing to cancel" in done.out and "2 of 2 done, 0 to go" in done.out
    assert everything() == before
    assert mh("cancel", "run", "nowhere").code == 2


# ---- on SLURM


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[SlurmRun]:
    made = SlurmRun(cluster, tmp_path)
    yield made
    if (made.outdir / "run.json").exists():
        on(cluster, tmp_path)("cancel", made.outdir)


@pytest.mark.parametrize("how", ["job", "login", "array"])
def test_a_run_that_is_cancelled_and_goes_on(cluster: Cluster, tmp_path: Path, how: str) -> None:
    run = SlurmRun(cluster, tmp_path, "slurm-array" if how == "array" else "slurm")
    mh = on(cluster, tmp_path)
    marker = patient(run, tmp_path, 30, ready=11)
    controller = ("--controller", "login") if how == "login" else ()
    assert run.submit(*controller, "--workers", "3").code == 0
    done = 10 if how == "array" else 11  # an array begins with no case alone
    run.until(lambda: mh.json("status", run.outdir)["done"] == done, "all cases that do not wait")
    run.until(lambda: run.sessions(), "the models")
    kinds = {"job": {"driver", "worker"}, "login": {"worker"}, "array": {"driver", "array"}}[how]
    (told,) = mh.json("cancel", run.run_id)
    assert {each["kind"] for each in told["ended"]} == kinds
    assert (told["told"] is not None) == (how == "login") and told["left"] == []
    assert (told["done"], told["resume"]) == (done, f"mh-hpc resume {run.outdir}")
    assert not run.jobs() and run.leaves_nothing()
    assert mh.json("status", run.outdir)["state"] == "not running"
    marker.touch()
    going_on = mh("resume", run.outdir, "--workers", "6", "--wait")
    assert going_on.code == 0, going_on.text
    assert table(run) == undisturbed(tmp_path / "calm", run)


def test_a_driver_that_waits_is_cancelled(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(10)
    mh = on(cluster, tmp_path)
    with shut(cluster, "main"):
        assert run.submit().code == 0
        (driver,) = run.jobs()
        done = mh("cancel", run.outdir)
        assert not run.jobs()
        again = mh("cancel", run.outdir)
    assert (done.code, again.code) == (0, 0)
    assert f"ended 1 driver: job {driver}." in done.out and f"mh-hpc resume {run.outdir}" in done.out
    assert "nothing to cancel" in again.out


def test_hostile_names_of_folders(cluster: Cluster, tmp_path: Path) -> None:
    mh = on(cluster, tmp_path)
    folder = tmp_path / "runs; $(touch y)"
    made = []
    for number, name in enumerate(HOSTILE):
        run = SlurmRun(cluster, tmp_path / str(number))
        run.outdir = folder / name
        patient(run, tmp_path / str(number), 5, ready=2)
        run.flags = ("-t", "10", "--mem", "300M", "--workers", "1", "--chunk-size", "1")
        ended = run.submit()
        assert ended.code == 0, (name, ended.text)
        made.append(run)
    for run in made:
        name = run.outdir.name
        run.under_way(1)
        assert mh.json("status", run.outdir)["state"] == "running", name
        assert "serves" in mh("logs", run.outdir, "--job", run.jobs("w")[0]).out, name
        (told,) = mh.json("cancel", run.outdir)
        assert told["left"] == [] and told["done"] in (1, 2) and not run.jobs(), name
        going_on = mh(*shlex.split(told["resume"])[1:])
        assert going_on.code == 0, (name, going_on.text)
        assert f"{told['done']} of 5 done, {told['to_go']} to go" in going_on.out, name
    for run in made:
        run.until(lambda: run.jobs("w", "RUNNING"), "a worker that goes on")
    assert len(mh.json("cancel", *(run.outdir for run in made))) == len(HOSTILE)
    assert not any(run.jobs() for run in made)
    assert sorted(path.name for path in folder.iterdir()) == sorted(HOSTILE)
    assert not [path for path in tmp_path.rglob("*") if path.name in "xy"]
    assert eventually(lambda: not [each for each in processes() if each.mentions([str(folder)])], 10)


def test_resume_and_retry_are_for_runs_that_have_begun(mh: Here, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    site = local_run(tmp_path, a="OK 1", b=f"BUS {marker}", c="NOSUCH")
    assert site.submit("--chunk-size", "1").code == 3
    assert "2 of 3 done, 1 failed, 0 to go" in mh("resume", "run").out
    assert mh("retry", "run").code == 2
    again = mh.json("retry", "run", "--failed", code=3)
    assert (again["done"], again["failed"]) == (2, 1)
    assert len(list(site.outdir.glob("shards/*.g1.jsonl"))) == 1
