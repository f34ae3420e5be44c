"""One driver per run folder, and the ways in which a user ends it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driving import Site, environment, finish

CASES = 40
ON_HOST = pytest.mark.parametrize("runtime", ["host"], indirect=True)
IN_WORKERS = pytest.mark.parametrize("executor", ["local"])
IN_DRIVER = pytest.mark.parametrize("executor", ["inline"])


@pytest.fixture
def site(runtime: str, executor: str, tmp_path: Path) -> Site:
    made = Site(tmp_path, runtime, executor)
    for number in range(CASES):
        made.order(f"n{number:02d}", f"SLEEP 0.1 {number}")
    return made


def running(site: Site) -> subprocess.Popen[str]:
    """A driver that has published its first chunks and is far from its end."""
    return site.started("--chunk-size", "2", "--workers", "2", shards=2)


@IN_WORKERS
def test_a_second_driver_is_refused_and_takes_over_from_a_dead_one(site: Site) -> None:
    first = running(site)
    second = site.submit()
    assert second.code == 75, second.text
    assert f"pid {first.pid} on {socket.gethostname()}" in second.err
    assert first.poll() is None
    first.kill()
    finish(first)
    third = site.submit()
    assert third.code == 0, third.text
    assert f" of {CASES} done, " in third.out
    assert [r.outputs[0].prediction for r in site.results()] == [[float(n), 2.0 * n] for n in range(CASES)]
    assert site.leaves_nothing(), site.leftovers()


@ON_HOST
@IN_DRIVER
def test_of_many_drivers_started_at_once_one_wins(site: Site) -> None:
    first = running(site)
    first.kill()
    finish(first)
    drivers = [site.start() for _ in range(4)]
    codes = sorted(finish(driver).code for driver in drivers)
    assert codes[0] == 0 and set(codes[1:]) <= {0, 75}, codes
    assert len(site.results()) == CASES


@IN_WORKERS
def test_ctrl_c_in_a_terminal(site: Site) -> None:
    ctrl_c(site)


@ON_HOST
@IN_DRIVER
def test_ctrl_c_in_a_terminal_without_workers(site: Site) -> None:
    ctrl_c(site)


def ctrl_c(site: Site) -> None:
    """The chunks in flight are finished, and the words at the end say how to go on."""
    driver = running(site)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to all that share it
    ended = finish(driver)
    assert ended.code == 130, ended.text
    assert "in flight" in ended.err
    done = len(site.results())
    assert 2 <= done < CASES and all(r.status == "done" and r.attempts == 1 for r in site.results())
    assert site.record()["stopped"] == "interrupted"
    assert site.leaves_nothing(), site.leftovers()
    (line,) = [line.strip() for line in ended.err.splitlines() if line.strip().startswith("mh-hpc resume")]
    resumed = typed(line)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{done} of {CASES} done, {CASES - done} to go" in resumed.stdout
    assert len(site.results()) == CASES


def typed(line: str) -> subprocess.CompletedProcess[str]:
    """What happens when a user types this line."""
    name, *arguments = shlex.split(line)
    assert name == "mh-hpc"
    command = [sys.executable, "-m", "modelhub_hpc.cli", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_a_second_ctrl_c_ends_at_once(runtime: str, executor: str, tmp_path: Path) -> None:
    site = Site(tmp_path, runtime, executor)
    site.order("a", "OK 1")
    for name in "bcde":
        site.order(name, "SLEEP 600 1")
    driver = site.started("--chunk-size", "1", "--workers", "2")
    time.sleep(1.0)
    os.killpg(driver.pid, signal.SIGINT)
    time.sleep(1.0)
    assert driver.poll() is None, "the chunk in flight takes long: one Ctrl-C waits for it"
    began = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    ended = finish(driver, 20)
    assert time.monotonic() - began < 2.0
    assert ended.code == 130 and "mh-hpc resume" in ended.err
    assert site.leaves_nothing(), site.leftovers()
    assert [r.case_id for r in site.results()] == ["a"]


@ON_HOST
@pytest.mark.parametrize(
    ("number", "code", "executor"), [(signal.SIGTERM, 143, "local"), (signal.SIGHUP, 129, "inline")]
)
def test_a_signal_ends_it_and_the_run_goes_on_later(site: Site, number: signal.Signals, code: int) -> None:
    driver = running(site)
    os.killpg(driver.pid, number)
    ended = finish(driver, 20)
    assert ended.code == code, ended.text
    assert site.leaves_nothing(), site.leftovers()
    assert site.submit().code == 0
    assert len(site.results()) == CASES
