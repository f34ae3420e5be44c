"""Worker processes of this machine: each has a pipe to this process, and computes one chunk at a time.

The pipe is all that binds them. A worker that dies closes it, and is replaced when there is a chunk for it. When this
process closes it, or is killed, the worker ends: at once if it is busy, else after its session.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar, cast

from modelhub_hpc.executors.pool import WorkerLost
from modelhub_hpc.processes import start_python, wait_or_kill

P = ParamSpec("P")
T = TypeVar("T")

_SERVE = "from modelhub_hpc.executors.hand import serve; serve({channel}, {slot})"
_END_S = 30.0  # by which a worker has ended its session, or is killed


@contextlib.contextmanager
def local_executor(workers: int) -> Iterator[LocalExecutor]:
    """An executor over so many worker processes, which end with the block."""
    executor = LocalExecutor(workers)
    try:
        yield executor
    finally:
        executor.shutdown()


class LocalExecutor(Executor):
    """Worker processes, and a thread for each that waits for its answers."""

    def __init__(self, workers: int) -> None:
        self._workers = [_Worker(slot) for slot in range(workers)]
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        # the one that was busy last first: it has the model loaded
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in reversed(self._workers):
            self._free.put(worker)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return cast("Future[T]", self._threads.submit(self._have_done, fn, args, kwargs))

    def hang_up(self) -> None:
        """Have all workers end, without waiting for them; what is being computed is lost."""
        for worker in self._workers:
            worker.hang_up()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all workers; what is being computed is lost."""
        self.hang_up()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for worker in self._workers:
            worker.end()

    def _have_done(self, *call: object) -> object:
        worker = self._free.get()
        try:
            return worker.have_done(*call)
        finally:
            self._free.put(worker)


class _Worker:
    """A worker process, and another one in its place once it has died."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self._over = False
        self._start()

    def have_done(self, *call: object) -> object:
        """Have fn(*args, **kwargs) called there; what it returns, or raises. Raises WorkerLost."""
        if self._process.poll() is not None:
            self._close()
            self._start()
        try:
            self._connection.send(call)
            answer, error, trace = self._connection.recv()
        except (EOFError, OSError):
            self._close()
            raise WorkerLost(str(self.slot)) from None
        if error is not None:
            raise error from WorkersTrace(trace)
        return answer

    def hang_up(self) -> None:
        """Have it end, for good. A thread that waits for its answer gets to know at once."""
        self._over = True
        self._shut()

    def end(self) -> None:
        """Wait until it has ended."""
        self.hang_up()
        self._close()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._socket.fileno()))
        with theirs:
            call = _SERVE.format(channel=theirs.fileno(), slot=self.slot)
            self._process = start_python(call, theirs.fileno())
        if self._over:
            self._shut()  # who hung up meanwhile had only the one before

    def _shut(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        self._shut()
        wait_or_kill(self._process, _END_S)
        self._connection.close()
        self._socket.close()


class WorkersTrace(Exception):
    """Where in a worker an error was raised, as text."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"
