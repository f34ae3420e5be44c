"""Seats in jobs of SLURM: started when they are needed, ended when they are not, with warm sessions in between.

Each model has workers of its own, over a folder that looks like a run's. It is a run's driver, worker and supervisor,
with cases that come one by one.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from concurrent.futures import Future, TimeoutError

from modelhub_hpc import executors, slurm
from modelhub_hpc.errors import ModelHubError, TryAgainError
from modelhub_hpc.executors import Pool
from modelhub_hpc.oncall import Answer, predict_case
from modelhub_hpc.plan import Case
from modelhub_hpc.record import RunPaths, publish_json
from modelhub_hpc.request import RunRequest
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.workplace import HandedBack

AGAIN_S = 30
_LOOK_S = 0.5
_LOSSES = 2  # workers that one case may lose
_OPENING = threading.Lock()  # of one pool at a time: this process works in its folder meanwhile


class SlurmSeats:
    """The jobs of one model; there is one for each seat that is taken, and none when none is."""

    def __init__(self, run: RunRequest, paths: RunPaths, queue_s: float, stopping: threading.Event) -> None:
        """queue_s: which a request waits for a job to start; stopping: the server is. For the main thread.

        Raises UsageError or UnfitError where SLURM can have no such jobs.
        """
        slurm.refuse(paths.root, "slurm")
        slurm.judge(run.site)
        executors.worker_script(run)  # refuses what a worker's job lacks
        self._run, self._paths = run, paths
        self.queue_s, self.stopping = queue_s, stopping
        paths.create()
        publish_json(paths.run_json, run.to_json())
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._context = contextvars.copy_context()  # one for all threads: dask closes what it opened in the same only
        self._pool: Pool | None = None
        self._seats = 0

    def take(self, _number: int) -> JobSeat:
        with self._lock:
            if self._pool is None:
                opening = executors.open_pool(self._run, self._paths)
                with _OPENING:
                    self._pool = self._context.run(self._stack.enter_context, opening)
            self._seats += 1
            self._pool.expect(self._seats)
            return JobSeat(self, self._pool, str(self._paths.root))

    def give_back(self) -> None:
        with self._lock:
            assert self._pool is not None
            self._seats -= 1
            self._pool.expect(self._seats)
            if not self._seats:
                self._pool = None
                self._context.run(self._stack.close)


class JobSeat:
    """A place in one of the jobs."""

    def __init__(self, seats: SlurmSeats, pool: Pool, root: str) -> None:
        self._seats, self._pool, self._root = seats, pool, root

    def predict(self, case: Case) -> Answer:
        """Raises Refused where no job has started in time, TryAgainError where workers were lost."""
        for _ in range(1 + _LOSSES):
            future = self._pool.executor.submit(predict_case, self._root, case)
            try:
                answer = self._wait(future)
                self._pool.delivered()
                return answer
            except HandedBack:
                continue
            except ModelHubError as error:
                self._pool.set_aside(error)
                raise
            except Exception as error:
                if not executors.is_worker_lost(error):
                    raise
        raise TryAgainError(f"The case has lost {1 + _LOSSES} workers.")

    def close(self) -> None:
        self._seats.give_back()

    def _wait(self, future: Future[Answer]) -> Answer:
        deadline = time.monotonic() + self._seats.queue_s
        while True:
            try:
                return future.result(_LOOK_S)
            except TimeoutError:
                trouble = self._pool.trouble()
                if trouble is not None:
                    raise trouble from None
                if self._seats.stopping.is_set() and not self._pool.ready():
                    future.cancel()
                    raise Refused(503, "The server is being stopped.", AGAIN_S) from None
                if not self._pool.ready() and time.monotonic() > deadline:
                    future.cancel()
                    # the job stays in the queue: the next request may find it running
                    raise Refused(503, "The model's job waits in the queue of SLURM.", AGAIN_S) from None
