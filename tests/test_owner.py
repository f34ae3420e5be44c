"""One owner per folder, with real processes that are killed, stopped and raced."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modelhub_hpc.errors import TryAgainError, UnfitError
from modelhub_hpc.owner import Owner, OwnerRecord, acquire, holder
from modelhub_hpc.record import RunPaths

ROOT = Path(__file__).parents[1]

# Takes a run, says so, and keeps it until its standard input ends; an error is said instead.
DRIVER = """
import sys
from pathlib import Path
from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.owner import acquire
from modelhub_hpc.record import RunPaths
try:
    owner = acquire(RunPaths(Path(sys.argv[1])).private, "Run " + sys.argv[1], 0.1)
    print("mine", flush=True)
except TryAgainError as error:
    print(str(error).replace(chr(10), " "), flush=True)
sys.stdin.readline()
"""

# Twenty of these try to take one run after another, each as soon as it appears.
STARTER = """
import sys, time
from pathlib import Path
from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.owner import acquire
from modelhub_hpc.record import RunPaths
top, rounds = Path(sys.argv[1]), int(sys.argv[2])
owners = []
print("ready", flush=True)
for number in range(rounds):
    while not (top / f"go{number}").exists():
        time.sleep(0.001)
    try:
        owners.append(acquire(RunPaths(top / f"run{number}").private, "A run", 0.1))
        print("won", flush=True)
    except TryAgainError:
        print("refused", flush=True)
sys.stdin.readline()
print(sum(owner.is_current() for owner in owners), flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    made = RunPaths(tmp_path / "run")
    made.create()
    return made


def owner_file(paths: RunPaths, number: int = 1) -> Path:
    return paths.private / f"owner.{number:06d}"


def rewrite(paths: RunPaths, **changes: object) -> OwnerRecord:
    """Make owner record 1 say something else, as if it came from another machine."""
    record = OwnerRecord(**{**json.loads(owner_file(paths).read_bytes()), **changes})
    owner_file(paths).write_text(json.dumps(dataclasses.asdict(record)))
    return record


def test_a_living_driver_keeps_its_run_and_is_named(paths):
    driver = start(DRIVER, paths.root)
    assert line(driver) == "mine"
    began = time.monotonic()
    with pytest.raises(TryAgainError) as refused:
        acquire(paths.private, f"Run {paths.root}", job_id="77")
    assert time.monotonic() - began < 5 and refused.value.exit_code == 75
    user = json.loads(owner_file(paths).read_bytes())["user"]
    host = os.uname().nodename
    pattern = rf"Run .*run is driven by pid {driver.pid} on {host} \(user {user}, since 20.*\)\."
    assert re.match(pattern, str(refused.value)) and "Wait for it" in str(refused.value)
    end(driver)


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_a_killed_driver_is_followed_at_once(paths, reaped):
    driver = start(DRIVER, paths.root)
    assert line(driver) == "mine"
    driver.send_signal(signal.SIGKILL)
    if reaped:
        driver.wait()
    else:
        os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    owner = acquire(paths.private, "Run", interval_s=60)
    assert time.monotonic() - began < 5
    assert owner.is_current() and owner_file(paths, 2).exists()
    end(driver)


def test_who_holds_a_run_is_told_without_waiting(paths):
    assert holder(paths.private) is None
    driver = start(DRIVER, paths.root)
    assert line(driver) == "mine"
    found = holder(paths.private)
    assert found and found.alive is True and found.record.pid == driver.pid
    end(driver)
    found = holder(paths.private)
    assert found and found.alive is False
    rewrite(paths, host="node7")
    found = holder(paths.private)
    assert found and found.alive is None and "on node7" in found.record.describe()
    acquire(paths.private, "Run", 0.05).release()
    assert holder(paths.private) is None


def test_a_stopped_driver_is_not_dead(paths):
    driver = start(DRIVER, paths.root)
    assert line(driver) == "mine"
    driver.send_signal(signal.SIGSTOP)
    with pytest.raises(TryAgainError):
        acquire(paths.private, "Run", 0.1)
    end(driver)


def test_a_released_run_is_taken_at_once_by_a_living_process(paths):
    first = acquire(paths.private, "Run", 60)
    assert first.is_current()
    first.release()
    assert not first.is_current()
    second = acquire(paths.private, "Run", 60, job_id="4711")
    assert second.is_current() and json.loads(owner_file(paths, 2).read_bytes())["job_id"] == "4711"
    with pytest.raises(TryAgainError, match="SLURM job 4711"):
        acquire(paths.private, "Run", 60)
    assert [path.name for path in paths.private.glob("beat.*")] == [f"beat.{second.record.token}"]


def test_a_run_folder_that_went_away_can_be_released(paths, caplog):
    owner = acquire(paths.private, "Run", 60)
    paths.root.rename(paths.root.with_name("elsewhere"))
    owner.release()
    assert "No such file or directory" in caplog.text and not paths.root.exists()


def test_another_process_with_the_same_pid_is_another(paths):
    acquire(paths.private, "Run", 60)
    rewrite(paths, start_ticks=1)
    assert acquire(paths.private, "Run", 60).is_current()


def test_a_driver_of_an_earlier_boot_is_dead(paths):
    acquire(paths.private, "Run", 60)
    rewrite(paths, boot_id="another")
    assert acquire(paths.private, "Run", 60).is_current()


def keep_beating(owner: Owner, until: threading.Event) -> None:
    while not until.wait(0.01):
        owner.beat()


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"host": "node7", "boot_id": "another"},
        {"pid_namespace": "pid:[1]", "pid": 2**30},
        {"uid": 4242, "pid": 2**30},
    ],
    ids=["host", "container", "user"],
)
def test_a_driver_out_of_sight_lives_while_its_heart_beats(paths, elsewhere):
    first = acquire(paths.private, "Run", 0.2)
    rewrite(paths, **elsewhere)
    over = threading.Event()
    heart = threading.Thread(target=keep_beating, args=(first, over))
    heart.start()
    try:
        with pytest.raises(TryAgainError, match="driven by pid"):
            acquire(paths.private, "Run", 0.2)
    finally:
        over.set()
        heart.join()
    began = time.monotonic()
    assert acquire(paths.private, "Run", 0.2).is_current()
    assert 0.6 <= time.monotonic() - began < 5, "three intervals are watched"
    assert not first.is_current()


def test_the_heart_beats_once_per_interval(paths):
    owner = acquire(paths.private, "Run", 0.3)
    file = paths.private / f"beat.{owner.record.token}"
    before = file.read_bytes()
    owner.beat()
    assert file.read_bytes() == before
    time.sleep(0.31)
    owner.beat()
    assert int(file.read_bytes()) == int(before) + 1


def test_a_damaged_record_does_not_lock_the_run(paths, caplog):
    owner_file(paths).write_text('{"token": "abc')
    assert acquire(paths.private, "Run", 60).is_current()
    assert "owner.000001 is damaged" in caplog.text


def test_a_missing_run_folder_is_not_made(tmp_path):
    with pytest.raises(TryAgainError, match="No such file"):
        acquire(tmp_path / "gone", "Run")
    assert not (tmp_path / "gone").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_run_of_another_user_is_refused(paths):
    paths.private.chmod(0o500)
    with pytest.raises(UnfitError, match="cannot be written: Permission denied"):
        acquire(paths.private, "Run")
    paths.private.chmod(0o700)


def test_of_twenty_starters_one_wins_every_round(tmp_path):
    """Every other run had a driver before, which died: taking over is a race of its own."""
    rounds = 20
    starters = [start(STARTER, tmp_path, rounds) for _ in range(20)]
    assert [line(each) for each in starters] == ["ready"] * 20
    for number in range(rounds):
        paths = RunPaths(tmp_path / f"run{number}")
        paths.create()
        if number % 2:
            acquire(paths.private, "Run", 60)
            rewrite(paths, pid=2**30)
        (tmp_path / f"go{number}").touch()
        assert sorted(line(each) for each in starters) == ["refused"] * 19 + ["won"]
        assert len(list(paths.private.glob("owner.*"))) == 1 + number % 2
        assert len(list(paths.private.glob("beat.*"))) == 1 + number % 2
    current = sum(int(each.communicate("\n")[0]) for each in starters)
    assert current == rounds
