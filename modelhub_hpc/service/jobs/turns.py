"""Drivers on this machine: so many at a time, and the other jobs wait for their turn."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass

from modelhub_hpc import request
from modelhub_hpc.owner import OwnerRecord
from modelhub_hpc.processes import start_ticks
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import Order
from modelhub_hpc.runs.handover import hand_over

log = logging.getLogger(__name__)

_TICK_S = 0.2
_END_S = 3.0  # in which a driver that was told to end most often has


@dataclass(frozen=True)
class _Driver:
    """A process, started by this server or by one before it."""

    pid: int
    ticks: int | None

    def lives(self) -> bool:
        with contextlib.suppress(ChildProcessError):  # an earlier server's
            os.waitpid(self.pid, os.WNOHANG)
        return self.ticks is not None and start_ticks(self.pid) == self.ticks


class Turns:
    """At most `at_once` drivers; who came first goes first. Closing it leaves drivers alone: they go on."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._waiting: collections.deque[RunPaths] = collections.deque()
        self._drivers: dict[str, _Driver] = {}
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
        self._thread.start()

    def __contains__(self, job_id: str) -> bool:
        """Whether it waits here, or has a driver that was started here and lives."""
        with self._change:
            driver = self._drivers.get(job_id)
            waits = any(paths.root.name == job_id for paths in self._waiting)
        return waits or (driver is not None and driver.lives())

    def waiting(self) -> int:
        with self._change:
            return len(self._waiting)

    def add(self, paths: RunPaths) -> None:
        """A job to drive, once it is its turn."""
        with self._change:
            self._waiting.append(paths)
            self._change.notify()

    def adopt(self, job_id: str, record: OwnerRecord) -> None:
        """A job whose driver an earlier server has started."""
        with self._change:
            self._drivers[job_id] = _Driver(record.pid, record.start_ticks)
            self._change.notify()

    def end(self, job_id: str) -> bool:
        """End what was started here for a job, and wait a little for it; False if there is nothing of it here."""
        with self._change:
            for paths in self._waiting:
                if paths.root.name == job_id:
                    self._waiting.remove(paths)
                    return True
            driver = self._drivers.get(job_id)
        if driver is None or not driver.lives():
            return False
        for _ in range(2):  # told a second time it does not wait for what it computes itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver.pid, signal.SIGTERM)
            deadline = time.monotonic() + _END_S
            while driver.lives() and time.monotonic() < deadline:
                time.sleep(_TICK_S / 4)
        return True

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _serve(self) -> None:
        with self._change:
            while not self._closed:
                self._drivers = {job_id: driver for job_id, driver in self._drivers.items() if driver.lives()}
                while self._waiting and len(self._drivers) < self._at_once:
                    self._start(self._waiting.popleft())
                self._change.wait(_TICK_S if self._drivers else None)

    def _start(self, paths: RunPaths) -> None:
        try:
            run = request.read(paths)
            handed = hand_over(paths, run, Order(run.site, (), run.site.max_failures))
            assert handed.pid is not None
            self._drivers[paths.root.name] = _Driver(handed.pid, start_ticks(handed.pid))
        except Exception:  # of this job; the others go on
            log.exception("job %s was not started", paths.root.name)
