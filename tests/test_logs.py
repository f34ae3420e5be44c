"""`mh-hpc logs`: the words of drivers, jobs and models, and what is known of one case; here and on SLURM."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
from runkit import Cluster, Here, SlurmRun, eventually, local_run, patient, rows

from modelhub_hpc.cli.logfiles import SESSION, Growing, LogFile, last_lines


@pytest.fixture
def mh(tmp_path: Path) -> Here:
    return Here(tmp_path)


# ---- reading files


@pytest.mark.parametrize("seed", range(6))
def test_the_last_lines_of_any_file(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    words = ["", "ü", "x" * chance.choice([3, 70_000]), "\r", "\x1b[2J"]
    text = "\n".join(chance.choice(words) for _ in range(chance.choice([0, 1, 40])))
    path = tmp_path / "log"
    path.write_text(text, newline="")
    whole = text.split("\n")
    whole = whole if whole[-1] else whole[:-1]
    for count in (0, 1, 2, 7, 39, 40, 500):
        assert last_lines(path, count) == (whole[-count:] if count else [])
    assert last_lines(path, None) == whole


def test_a_log_that_grows_in_the_middle_of_letters(tmp_path: Path) -> None:
    path, text = tmp_path / "log", "eins\nzwölf\n\nletzte".encode()
    growing = Growing(LogFile(path, SESSION))
    seen = list(growing.lines())  # it is not there yet
    for byte in text:
        with open(path, "ab") as stream:
            stream.write(bytes([byte]))
        seen += growing.lines()
    assert (seen, list(growing.rest()), list(growing.lines())) == (["eins", "zwölf", ""], ["letzte"], [])


# ---- on this machine


def test_models_that_say_something(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1")
    assert site.submit().code == 0
    quiet = mh("logs", "run")
    (log,) = (site.outdir / "logs").glob("session-*.log")
    log.write_bytes(b"1\n2\n\x1b[2Jthree\xff\nfour\tand no end")
    told, last, facts = mh("logs", "run"), mh("logs", "run", "-n", 1), mh.json("logs", "run", "-n", 2)
    assert (quiet.code, quiet.out, "No log says anything so far" in quiet.err) == (0, "", True)
    assert told.out.splitlines() == [f"==> {log} <== (session)", "1", "2", "\\x1b[2Jthree\ufffd", "four\tand no end"]
    assert last.out.splitlines()[1:] == ["four\tand no end"]
    assert facts["logs"] == [
        {"path": str(log), "kind": "session", "job": None, "lines": ["\x1b[2Jthree\ufffd", "four\tand no end"]}
    ]


def test_what_is_known_of_a_case(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1", bad="NOSUCH", c="SEGV", d="OK 4")
    table = tmp_path / "table.csv"
    names = {"a": "a", "the bad/one": "bad", "c": "c", "d": "d"}
    lines = [f"{name},{site.inputs}/{file}.npy" for name, file in names.items()]
    table.write_text("\n".join(["case_id,input", *lines]) + "\n")
    site.inputs = table
    assert site.submit("--max-failures", "1", "--chunk-size", "1").code == 3
    failed = mh("logs", "run", "--case", "the bad/one")
    told = rows(failed.out)
    assert told["result"].startswith("failed: model: AttributeError") and told["attempts"] == "1"
    assert re.fullmatch(r"the_bad_one-[0-9a-f]{6} \(row 2 of manifest.csv\)", told["case"])
    assert (told["computed"], told["chunk"]) == (f"on {os.uname().nodename}", "1, rows 2 to 2")
    assert "Traceback (most recent call last):" in failed.out and "pipeservice.py" in failed.out
    crashed = mh.json("logs", "run", "--case", "c")
    assert crashed["result"]["error"]["kind"] == "crash" and crashed["result"]["attempts"] == 2
    named = re.findall("^log: (.*)$", crashed["result"]["error"]["evidence"], re.MULTILINE)
    assert named and [log["path"] for log in crashed["logs"]] == named
    pending = mh("logs", "run", "--case", "d")
    assert (pending.code, rows(pending.out)["result"]) == (0, "pending: its chunk has no results yet")
    (tmp_path / "run/.mh-hpc/careful/c000003").write_text('{"row": 3, "case": "d", "job": "77"}')
    assert "it was the last that was begun in job 77" in mh("logs", "run", "--case", "d").out
    (tmp_path / "run/shards/c000001.jsonl").write_bytes(b"{}")
    assert "c000001.jsonl is damaged" in mh("logs", "run", "--case", "the bad/one").out
    unknown = mh("logs", "run", "--case", "BAD")
    assert (unknown.code, "Did you mean the_bad_one-" in unknown.err) == (2, True)
    assert mh("logs", "run", "--case", "a", "-f").code == 2


def test_a_case_that_was_tried_again_has_its_last_result(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1", b="NOSUCH")
    assert site.submit().code == 3
    for _ in range(10):
        assert mh("retry", "run", "--failed").code == 3
    assert rows(mh("logs", "run", "--case", "b").out)["shard"] == "shards/c000001.g10.jsonl"
    assert rows(mh("logs", "run", "--case", "a").out)["shard"] == "shards/c000000.jsonl"


def test_following_ends_with_the_run(mh: Here, tmp_path: Path) -> None:
    site = local_run(tmp_path)
    marker = patient(site, tmp_path, 4, ready=1)
    site.order("a", "SHOUT 0")
    with site.started("--chunk-size", "1", shards=2) as driver:
        following, interrupted = mh.start("logs", "run", "-f", "--json"), mh.start("logs", "run", "-f")
        assert interrupted.stdout is not None
        interrupted.stdout.readline()
        interrupted.send_signal(signal.SIGINT)
        out, errors = interrupted.communicate()
        (log,) = (site.outdir / "logs").glob("session-*.log")
        with open(log, "a") as stream:
            stream.write("and something new\n")
        marker.touch()
        lines, _ = following.communicate()
        driver.communicate()
        assert (interrupted.returncode, errors, driver.returncode, following.returncode) == (130, "", 0, 0)
    assert json.loads(lines.splitlines()[-1]) == {
        "path": str(log), "kind": "session", "job": None, "line": "and something new"
    }  # fmt: skip


# ---- on SLURM


def test_a_run_on_slurm(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = SlurmRun(cluster, tmp_path)
    mh = Here(tmp_path, cluster.environment())
    request.addfinalizer(lambda: mh("cancel", run.outdir))
    run.numbers(20, 0.3)
    run.order("crash", "SEGV")
    assert run.submit("--workers", "2").code == 0
    following = mh.start("logs", run.outdir, "-f")
    run.ends(3)
    followed, errors = following.communicate(timeout=30)
    (driver,) = (path.stem for path in run.outdir.glob(".mh-hpc/jobs/*") if '"driver"' in path.read_text())
    assert (following.returncode, errors) == (0, "")
    assert f"==> {run.outdir}/logs/slurm-{driver}.out <== (driver, job {driver})" in followed
    assert "21 of 21 cases, 1 failed" in followed and followed.count(" is done") == 2

    facts = mh.json("logs", run.outdir, "--case", "crash")
    job = facts["job"]
    told = mh("logs", run.outdir, "--case", "crash").out
    where = f"by worker {facts['worker']} on {facts['node']}, job {job}, GPU {facts['gpus'][0]}"
    assert rows(told)["computed"] == where
    assert facts["worker"].startswith(f"mh-{run.run_id}-w") and facts["node"].startswith("node")
    assert "logs name it or its chunk:" in told and "trying it once more, alone" in told
    assert f"==> {run.outdir}/logs/slurm-{job}.out <== (worker, job {job})" in told

    overview = mh("logs", run.outdir).out
    assert overview.index(f"slurm-{driver}.out") < overview.index(f"slurm-{job}.out")
    (other,) = (each["id"] for each in mh.json("status", run.outdir)["jobs"] if each["id"] not in (driver, job))
    assert f"slurm-{other}.out" not in overview  # it has written nothing out of the ordinary
    assert "serves tls://" in mh("logs", run.outdir, "--job", other).out
    unknown = mh("logs", run.outdir, "--job", "424242")
    assert (unknown.code, f"The latest that have: {driver}, " in unknown.err) == (2, True)


def test_tasks_of_arrays(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = SlurmRun(cluster, tmp_path, "slurm-array")
    mh = Here(tmp_path, cluster.environment())
    request.addfinalizer(lambda: mh("cancel", run.outdir))
    run.numbers(20, 0.1)
    assert run.submit("--workers", "2").code == 0
    run.ends()
    (array,) = (path.stem for path in run.outdir.glob(".mh-hpc/jobs/*") if '"array"' in path.read_text())
    for task in range(4):
        (log,) = mh.json("logs", run.outdir, "--job", f"{array}_{task}")["logs"][-1:]
        assert log["kind"] == "array" and f"_{task} on node" in log["lines"][0]
    every = mh.json("logs", run.outdir, "--job", array)["logs"]
    assert len([log for log in every if log["kind"] == "array"]) == 4


def test_a_driver_that_never_began(cluster: Cluster, tmp_path: Path) -> None:
    run = SlurmRun(cluster, tmp_path)
    mh = Here(tmp_path, cluster.environment())
    run.numbers(3)
    cluster.set_partition("main", "DOWN")
    try:
        assert run.submit().code == 0
        shutil.rmtree(run.outdir / "logs")
    finally:
        cluster.set_partition("main", "UP")
    assert eventually(lambda: not run.jobs(), 30)
    done = mh("logs", run.outdir)
    assert done.code == 0 and "has no log. SLURM says: FAILED (JobLaunchFailure)" in done.err, done.text
    assert mh.json("status", run.outdir)["reason"] == "its driver ended without a word why"
