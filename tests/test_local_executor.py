"""Worker processes of this machine: what comes back from them, and that they end."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Executor

import pytest

from modelhub_hpc.executors.local import local_executor
from modelhub_hpc.executors.pool import WorkerLost, is_worker_lost, lost_worker
from modelhub_hpc.processes import start_ticks

SLOT = "__import__('modelhub_hpc.workplace').workplace.HERE.slot"


def pid(executor: Executor) -> int:
    return executor.submit(os.getpid).result(60)


def test_answers_and_errors_come_back() -> None:
    with local_executor(1) as executor:
        assert executor.submit(int, "22", base=3).result(60) == 8
        with pytest.raises(ValueError, match="invalid literal") as caught:
            executor.submit(int, "x").result(60)
        assert "hand.py" in str(caught.value.__cause__)  # the bug is there, not here
        assert pid(executor) != os.getpid()


def test_the_worker_that_was_busy_last_gets_the_next_chunk() -> None:
    with local_executor(3) as executor:
        assert len({pid(executor) for _ in range(5)}) == 1


def test_workers_know_their_share() -> None:
    with local_executor(2) as executor:
        sleeping = executor.submit(time.sleep, 0.5)
        assert executor.submit(eval, SLOT).result(60) == 1
        sleeping.result(60)
        assert executor.submit(eval, SLOT).result(60) == 0


def test_a_worker_that_dies_is_named_and_replaced() -> None:
    with local_executor(1) as executor:
        first = pid(executor)
        with pytest.raises(WorkerLost) as caught:
            executor.submit(os.kill, first, signal.SIGKILL).result(60)
        assert is_worker_lost(caught.value) and lost_worker(caught.value) == "0"
        second = pid(executor)
        assert second != first
        os.kill(second, signal.SIGKILL)  # between two chunks, which costs none
        while start_ticks(second) is not None or len(os.listdir(f"/proc/{second}/task")) > 1:  # its threads, too
            time.sleep(0.01)
        assert pid(executor) not in (first, second)


def test_the_end_of_the_block_ends_idle_and_busy_workers() -> None:
    with local_executor(2) as executor:
        busy = executor.submit(time.sleep, 600)
        idle = pid(executor)
    with pytest.raises(WorkerLost):
        busy.result(0)
    assert start_ticks(idle) is None
