"""Where chunks run: in this process, or in worker processes of this machine. The only module that knows dask.

Both kinds are concurrent.futures executors. Dask dispatches and does not remember: it never retries, blames or keeps
results; a worker's death is raised to the run loop as WorkerLost, and the loop decides.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from modelhub_hpc import predict

P = ParamSpec("P")
T = TypeVar("T")

START_S = 60.0


class InlineExecutor(Executor):
    """Runs what is submitted at once, in this process: for debugging, and for one-off predictions."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # the caller gets it from the future, as from any executor
            future.set_exception(error)
        return future


@contextlib.contextmanager
def open_executor(kind: str, workers: int, folder: Path) -> Iterator[Executor]:
    """An executor of the given kind; leaving the block ends its workers and their sessions.

    folder: where workers may keep files of their own; emptied before and after.
    """
    if kind == "inline":
        try:
            yield InlineExecutor()
        finally:
            predict.close()
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with _local(workers, folder) as executor:
            yield executor
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_worker_lost(error: BaseException) -> bool:
    """Whether a future failed because its worker died: nobody's case is to blame."""
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    return isinstance(error, (KilledWorker, FutureCancelledError, CancelledError))


@contextlib.contextmanager
def _local(workers: int, folder: Path) -> Iterator[Executor]:
    import dask
    from distributed import Client, LocalCluster
    from distributed.security import Security

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it reaches the run loop
    with dask.config.set({**_SETTINGS, "temporary-directory": str(folder)}):
        # TLS on loopback too: without it any user of this machine could run code as this one
        security = Security.temporary()  # type: ignore[no-untyped-call]
        with contextlib.ExitStack() as stack:
            with _deaf_to_ctrl_c():
                cluster = stack.enter_context(
                    LocalCluster(  # type: ignore[no-untyped-call]
                        n_workers=workers,
                        threads_per_worker=1,
                        memory_limit=0,  # the model is another process; its memory is the session's business
                        dashboard_address="127.0.0.1:0",
                        host="127.0.0.1",
                        protocol="tls://",
                        security=security,
                        silence_logs=logging.CRITICAL,
                    )
                )
            client = stack.enter_context(
                Client(cluster, security=security, timeout=START_S)  # type: ignore[no-untyped-call]
            )
            client.register_plugin(_slot_plugin(), name="slot")
            yield client.get_executor()


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Threads and processes started within never see SIGINT, which a terminal sends to all of a process group.

    This thread gets one that came meanwhile when the block ends. The workers' plugin is too late for the second
    in which they start, and a worker that dies then takes the whole cluster along.
    """
    resource_tracker.ensure_running()  # starting it would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# http routes closed: even with TLS they would show task keys in clear
_SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.daemon": True,
    "distributed.nanny.pre-spawn-environ": {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"},
    "distributed.admin.system-monitor.gil.enabled": False,
}


def _slot_plugin() -> Any:
    from distributed import Worker, WorkerPlugin

    class Slot(WorkerPlugin):
        """Tell a worker process, also one that replaces another, which share of the machine is its own."""

        def setup(self, worker: Worker) -> None:
            predict.WorkerRun.slot = int(worker.name)
            # Ctrl-C reaches the whole process group; only the driver acts on it
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Slot()
