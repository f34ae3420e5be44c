"""Kill anything at any time: after resuming, every case is there once, as in a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from driving import Ended, Site, eventually, finish, payload
from grounds import Process, below

from modelhub_hpc.record import CaseResult

CASES = 899
CHUNK = 24
KILLS = 10
PATIENCE_S = 60.0
SEED = int(os.environ.get("MH_TEST_SEED", "20261123"))
LEAVES = (0, 75)  # how a driver that was not killed itself may end: well, or to be started again

# Which processes of a driver each kind of kill may hit.
TARGETS: Mapping[str, Callable[[Process, int], bool]] = {
    "worker": lambda each, driver: each.parent == driver and "executors.hand" in each.command,
    "keeper": lambda each, _: "keeper.py" in each.command,
    "model": lambda each, _: "pipeservice" in each.command and "keeper.py" not in each.command,
    "runtime": lambda each, _: "Apptainer runtime parent" in each.command,
    "squashfuse": lambda each, _: "squashfuse" in each.command,
}


def write_cases(site: Site, seconds: float = 0.007) -> Site:
    for number in range(CASES):
        site.order(f"n{number:03d}", f"SLEEP {seconds} {number}")
    return site


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[CaseResult]:
    site = write_cases(Site(tmp_path_factory.mktemp("undisturbed"), "host", "inline"), 0.0)
    ended = site.submit()
    assert ended.code == 0, ended.text
    return site.results()


class Chaos:
    """A driver that is started again whenever it is gone, and the dice."""

    def __init__(self, site: Site, workers: int) -> None:
        self.site = site
        self.flags = ("--chunk-size", str(CHUNK), "--workers", str(workers))
        self.dice = random.Random(SEED)
        self.killed: list[str] = []
        self.starts = 0
        self.driver = self.start()

    def __enter__(self) -> Chaos:
        return self

    def __exit__(self, *_: object) -> None:
        if self.driver.poll() is None:
            self.driver.kill()
            finish(self.driver)

    def start(self) -> subprocess.Popen[str]:
        self.starts += 1
        return self.site.start(*self.flags)

    def keep_driving(self) -> None:
        """Start the driver again if it has stopped for a reason that asks for it."""
        if self.driver.poll() is not None:
            ended = finish(self.driver)
            assert ended.code in (*LEAVES, -signal.SIGKILL), (self.killed, ended)
            self.driver = self.start()

    def wait_for(self, condition: Callable[[], object]) -> None:
        def met() -> object:
            self.keep_driving()
            return condition()

        assert eventually(met, PATIENCE_S), (self.killed, self.site.shards())

    def kill(self, kind: str) -> None:
        """Kill one process of this kind, waiting for one to be there."""
        self.wait_for(lambda: self.victims(kind))
        self.killed.append(kind)
        try:
            os.kill(self.dice.choice(self.victims(kind)), signal.SIGKILL)
        except IndexError:
            pass  # the only one ended meanwhile, as it also may in real life
        except ProcessLookupError:
            pass  # so did this one

    def victims(self, kind: str) -> list[int]:
        if kind == "driver":
            return [self.driver.pid]
        hit = TARGETS[kind]
        return [each.pid for each in below(self.driver.pid) if hit(each, self.driver.pid)]

    def end(self) -> Ended:
        """Let the run come to its end, starting the driver again where it stops short of it."""
        while (ended := finish(self.driver)).code in (75, -signal.SIGKILL) and self.starts < 4 * KILLS:
            self.driver = self.start()
        return ended


def kinds(dice: random.Random, runtime: str, executor: str) -> list[str]:
    """Ten kills in random order, those of sessions never twice in a row: a case may lose only one of its two tries."""
    within = ["model", "keeper"] if runtime == "host" else ["model", "keeper", "runtime", "squashfuse"]
    around = ["driver", "worker"] if executor == "local" else ["driver"]
    return [dice.choice(within) if number % 2 else dice.choice(around) for number in range(KILLS)]


def each_once(results: list[CaseResult]) -> None:
    assert [result.index for result in results] == list(range(CASES))
    assert len({result.case_id for result in results}) == CASES


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_ten_kills_change_nothing(
    runtime: str, executor: str, tmp_path: Path, undisturbed: list[CaseResult]
) -> None:
    print("seed", SEED)
    site = write_cases(Site(tmp_path, runtime, executor))
    with Chaos(site, workers=2) as chaos:
        for number, kind in enumerate(kinds(chaos.dice, runtime, executor)):
            goal = 1 + number * (CASES // CHUNK - 6) // KILLS
            if chaos.dice.random() < 0.7:
                chaos.wait_for(lambda: chaos.site.shards() >= goal)
            time.sleep(chaos.dice.uniform(0.0, 0.4))
            chaos.keep_driving()
            chaos.kill(kind)
        ended = chaos.end()
        assert ended.code == 0, (chaos.killed, ended)
    each_once(site.results())
    assert [payload(r) for r in site.results()] == [payload(r) for r in undisturbed]
    assert site.record()["counts"]["done"] == CASES and site.record()["stopped"] is None
    assert not list((site.outdir / "quarantine").iterdir())
    assert site.leaves_nothing(), (chaos.killed, site.leftovers())


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_a_killed_driver_leaves_nothing_and_the_next_says_where_it_goes_on(
    runtime: str, executor: str, tmp_path: Path, undisturbed: list[CaseResult]
) -> None:
    site = write_cases(Site(tmp_path, runtime, executor))
    driver = site.started("--chunk-size", "8", "--workers", "2", shards=5)
    driver.kill()
    finish(driver)
    assert eventually(lambda: not site.processes(), 5.0), site.processes()
    assert not list(site.scratch.iterdir())
    done = len(site.results())
    again = site.submit()
    assert again.code == 0, again.text
    assert re.search(rf"^{done} of {CASES} done, {CASES - done} to go$", again.text, re.MULTILINE), again.text
    assert [payload(r) for r in site.results()] == [payload(r) for r in undisturbed]
    assert site.leaves_nothing(), site.leftovers()
