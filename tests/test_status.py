"""What `mh-hpc status` says of runs that wait, run, have stopped or are complete; on this machine and on SLURM."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runkit import Cluster, Here, SlurmRun, eventually, local_run, patient, rows, shut

from modelhub_hpc import owner
from modelhub_hpc.record import RunPaths, replace_json

NO_SLURM = str(Path(sys.executable).parent)  # as a PATH


@pytest.fixture
def mh(tmp_path: Path) -> Here:
    return Here(tmp_path)


def on(cluster: Cluster, folder: Path) -> Here:
    return Here(folder, cluster.environment())


# ---- which run


def test_a_run_is_named_by_its_folder_or_its_id(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path / "x", a="OK 1")
    site.outdir = tmp_path / "runs/a name of its own"
    assert site.submit().code == 0
    run_id = json.loads((site.outdir / "run.json").read_bytes())["run_id"]
    for named in (site.outdir, "runs/a name of its own", "a name of its own", run_id):
        assert mh.json("status", named)["run_id"] == run_id
        assert [each["case"] for each in mh.json("results", named)] == ["a"]
    elsewhere = Here(tmp_path / "x", {"PATH": NO_SLURM})("status", run_id)
    assert elsewhere.code == 2 and "no SLURM on this machine" in elsewhere.err
    assert f"{tmp_path}/x/runs holds none of that id" in elsewhere.err


# ---- what the files say


def test_a_complete_run(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1", b="NOSUCH", c="OK 3")
    assert site.submit().code == 3
    told = rows(mh("status", "run").out)
    assert told["state"] == "complete" and told["cases"] == "2 of 3 done, 1 failed, 0 to go"
    assert told["failure"].startswith("b: model: AttributeError")
    assert told["retry"] == f"mh-hpc retry {site.outdir} --failed"
    facts = mh.json("status", "run")
    assert (facts["state"], facts["done"], facts["failed"], facts["jobs"]) == ("complete", 2, 1, [])
    assert [failure["case"] for failure in facts["failures"]] == ["b"]


def test_a_run_that_stopped_says_why_and_how_to_go_on(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="NOSUCH", b="OK 1", c="OK 2")
    assert site.submit("--fail-fast", "--chunk-size", "1").code == 3
    told = rows(mh("status", "run").out)
    assert told["state"] == "not running: more than 0 cases failed"
    assert told["resume"] == f"mh-hpc resume {site.outdir}"
    assert mh("resume", "run", "--max-failures", "5").code == 3
    assert rows(mh("status", "run").out)["cases"] == "2 of 3 done, 1 failed, 0 to go"


def test_a_driver_that_was_killed_left_no_reason(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="NOSUCH", b="OK 1", **{f"c{number}": "SLEEP 3 1" for number in range(9)})
    assert site.submit("--fail-fast", "--chunk-size", "1").code == 3  # so that there is an older record
    driver = site.started("--max-failures", "5", "--chunk-size", "1", shards=3)
    seen = mh.json("status", "run")
    assert (seen["state"], seen["driver"]["pid"]) == ("running", driver.pid)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    done = site.shards() - 1
    told = rows(mh("status", "run").out)
    assert told["state"] == "not running: its driver ended without a word why"
    assert told["cases"] == f"{done} of 11 done, 1 failed, {10 - done} to go"
    driver.communicate()


def test_counts_of_a_living_driver_and_else_those_of_the_shards(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="NOSUCH", b="OK 1", c="OK 2")
    assert site.submit("--fail-fast", "--chunk-size", "1").code == 3
    paths, by_slurm = RunPaths(site.outdir), {"jobs": {"RUNNING": 2}, "waiting": "Resources (1)", "nodes": ["n7"]}
    said = {"done": 1, "failed": 1, "workers": 2, "rate": 0.5, "eta_s": 2.0, "updated": time.time()}
    said["slurm"] = {**by_slurm, "excluded": {"n3": "no\nroom"}}  # type: ignore[assignment]
    driver = owner.acquire(paths.private, "a test")
    replace_json(paths.progress_json, said)
    now = rows(mh("status", "run").out)
    replace_json(paths.progress_json, {**said, "updated": time.time() - 60.0})
    stale = mh.json("status", "run")
    driver.release()
    after = mh.json("status", "run")
    assert now["state"].startswith(f"running by pid {os.getpid()} ")
    assert now["cases"] == "1 of 3 done, 1 failed, 1 to go"
    assert now["speed"] == "0.5 cases/s, 2 s left"
    assert now["workers"] == "2 ready on n7 (jobs: 2 running)"
    assert (now["waiting"], now["excluded"]) == ("Resources (1)", "n3: no room")
    assert (stale["state"], stale["done"], stale["cases_per_second"]) == ("running", 0, None)
    assert (after["state"], after["done"], after["failed"], after["to_go"]) == ("not running", 0, 1, 2)


def test_a_shard_that_is_lost_is_missed_in_a_complete_run(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1", b="OK 2")
    assert site.submit("--chunk-size", "1").code == 0
    assert mh.json("status", "run")["state"] == "complete"
    (site.outdir / "shards/c000001.jsonl").unlink()
    facts = mh.json("status", "run")
    assert (facts["state"], facts["done"], facts["to_go"]) == ("not running", 1, 1)


# ---- all of them


def test_a_table_of_all_runs(tmp_path: Path) -> None:
    mh = Here(tmp_path, {"PATH": NO_SLURM})
    assert "No runs in" in mh("status").out
    for name in ("old", "new", "broken"):
        site = local_run(tmp_path / name, a="OK 1", b="NOSUCH")
        site.outdir = tmp_path / "runs" / name
        assert site.submit().code == 3
    older = json.loads((tmp_path / "runs/old/run.json").read_bytes())
    (tmp_path / "runs/old/run.json").write_text(json.dumps({**older, "created": "2020-01-01T00:00:00Z"}))
    (tmp_path / "runs/broken/run.json").write_text(json.dumps({**older, "format": 99}))
    (tmp_path / "runs/no run").mkdir()
    heads, first, second, broken = mh("status").out.splitlines()
    assert heads.split() == ["id", "model", "state", "done/failed/total", "rate", "left", "folder"]
    assert first.split()[1:] == ["obedient", "complete", "1/1/2", "runs/new"]
    assert second.split() == [older["run_id"], "obedient", "complete", "1/1/2", "runs/old"]
    assert "runs/broken cannot be read" in broken
    facts = mh.json("status", "--in", tmp_path / "runs")
    assert [each["run"] for each in facts["runs"]] == [str(tmp_path / "runs" / name) for name in ("new", "old")]
    assert [each["run"] for each in facts["unread"]] == [str(tmp_path / "runs/broken")]


# ---- again and again


def test_each_change_is_an_object_where_nobody_sees_it(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, **{f"c{number:02}": "SLEEP 0.6 1" for number in range(12)})
    with site.started("--chunk-size", "1") as driver:
        seen = [json.loads(line) for line in mh("status", "run", "--watch", "--json").out.splitlines()]
        assert driver.wait() == 0
        driver.communicate()
    assert [each["state"] for each in seen] == ["running"] * (len(seen) - 1) + ["complete"]
    done = [each["done"] for each in seen]
    assert done == sorted(done) and len(set(done)) > 2 and done[-1] == 12


def test_a_terminal_is_written_over(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, **{f"c{number:02}": "SLEEP 0.6 1" for number in range(12)})
    with site.started("--chunk-size", "1") as driver:
        screen = _screen(mh, "status", "run", "--watch")
        driver.wait()
        driver.communicate()
    assert "\x1b[1A" in screen and "running by pid" in screen
    assert screen.rstrip().endswith(f"mh-hpc results {site.outdir}\n\x1b[?25h")


def _screen(mh: Here, *words: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "modelhub_hpc.cli", *words]
    variables = {**mh.environment, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    done = subprocess.Popen(command, cwd=mh.folder, env=variables, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    text = b""
    with os.fdopen(ours, "rb", buffering=0) as stream, contextlib.suppress(OSError):  # EIO once nobody writes
        while data := stream.read(4096):
            text += data
    assert done.wait(30) == 0
    return text.decode().replace("\r", "")


# ---- on SLURM


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[SlurmRun]:
    made = SlurmRun(cluster, tmp_path)
    yield made
    if (made.outdir / "run.json").exists():
        on(cluster, tmp_path)("cancel", made.outdir)


def test_a_driver_that_waits(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(20)
    with shut(cluster, "main"):
        assert run.submit().code == 0
        (driver,) = run.jobs()
        far = tmp_path / "far away"
        far.mkdir()
        mh = on(cluster, far)
        told = rows(mh("status", run.run_id).out)
        facts, table = mh.json("status", run.run_id), mh("status").out
    assert told["state"].startswith(f"waiting: job {driver} (PartitionDown): the partition is closed")
    assert told["jobs"] == f"driver {driver}"
    assert (facts["reason"], facts["waits_for"], facts["to_go"]) == ("PartitionDown", [driver], 20)
    assert "waiting (PartitionDown)  0/0/20" in table and table.split()[-1] == str(run.outdir)


def test_workers_that_wait_and_workers_that_work(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(200, 0.5)
    run.flags = ("-t", "10", "--gres", "gpu:2", "--workers-per-job", "1", "--workers", "4", "--chunk-size", "2")
    assert run.submit().code == 0
    run.until(lambda: run.progress().get("workers") == 3 and run.progress().get("rate"), "three workers at work")
    mh = on(cluster, tmp_path)
    run.until(lambda: "waiting" in rows(mh("status", run.outdir).out), "a job that waits")
    told = rows(mh("status", run.outdir).out)
    assert told["waiting"] in ("Resources (1)", "Priority (1)")
    assert told["workers"] == "3 ready on node1, node2, node3 (jobs: 3 running, 1 pending)"
    assert " cases/s, " in told["speed"] and told["state"].startswith("running by pid")
    assert told["jobs"].startswith("driver ") and "; 4 workers " in told["jobs"]


def test_arrays(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = SlurmRun(cluster, tmp_path, "slurm-array")
    mh = on(cluster, tmp_path)
    request.addfinalizer(lambda: mh("cancel", run.outdir))
    patient(run, tmp_path, 40, ready=10)
    with shut(cluster, "main"):
        assert run.submit("--workers", "2").code == 0
        array, follower = sorted({each.split("_")[0] for each in run.jobs()}, key=int)
        waits = mh.json("status", run.outdir)
    run.under_way(2)
    # the first two tasks may still be leaving, and those that wait for the marker not be there yet
    run.until(lambda: mh.json("status", run.outdir)["worker_jobs"] == {"RUNNING": 2, "PENDING": 4}, "their turn")
    seen = mh.json("status", run.outdir)
    assert (waits["state"], waits["reason"]) == ("waiting", "PartitionDown")
    assert waits["waits_for"] == [f"{array}_[0-7%2]"]
    assert [each["id"] for each in waits["jobs"]] == [array, follower]
    assert (seen["state"], seen["done"]) == ("running", 10) and 0 < seen["cases_per_second"] < 10
    assert seen["workers"] == 2


def test_slurm_that_does_not_answer_is_no_error(run: SlurmRun, cluster: Cluster, tmp_path: Path) -> None:
    run.numbers(20)
    deaf = tmp_path / "slurm.conf"
    lines = cluster.conf.read_text().splitlines()
    deaf.write_text("\n".join("SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in lines))
    with shut(cluster, "main"):
        assert run.submit().code == 0
        done = Here(tmp_path, {"SLURM_CONF": str(deaf)})("status", run.outdir)
    told = rows(done.out)
    assert (done.code, told["cases"]) == (0, "0 of 20 done, 20 to go")
    assert told["state"].startswith("unknown: SLURM does not answer: Unable to contact slurm controller")


def test_slurm_is_asked_once_and_only_where_files_do_not_tell(
    run: SlurmRun, cluster: Cluster, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    wrapper = tmp_path / "bin/squeue"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\nexec {shutil.which("squeue")} "$@"\n')
    wrapper.chmod(0o700)
    variables = {**cluster.environment(), "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
    mh = Here(tmp_path, variables)

    def questions() -> int:
        count = len(asked.read_text().splitlines()) if asked.exists() else 0
        asked.unlink(missing_ok=True)
        return count

    local = local_run(tmp_path / "local", a="OK 1")
    assert local.submit().code == 0
    assert mh.json("status", local.outdir)["state"] == "complete" and not questions()

    run.numbers(20, 0.3)
    with shut(cluster, "main"):
        assert run.submit().code == 0
        assert mh.json("status", run.outdir)["state"] == "waiting" and questions() == 1
    run.under_way(1)
    assert mh.json("status", run.outdir)["state"] == "running" and not questions()
    run.ends()
    assert mh.json("status", run.outdir)["state"] == "complete" and not questions()
    assert eventually(lambda: not run.jobs(), 20)
