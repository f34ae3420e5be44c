"""Worker processes of this machine."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from concurrent.futures import Executor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from modelhub_hpc import workplace
from modelhub_hpc.executors.settings import DASK

START_S = 60.0


@contextlib.contextmanager
def local_executor(workers: int, folder: Path) -> Iterator[Executor]:
    """An executor over so many worker processes; folder: where they may keep files of their own."""
    import dask
    from distributed import Client, LocalCluster
    from distributed.security import Security

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it reaches the run loop
    with dask.config.set({**DASK, "temporary-directory": str(folder)}):
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
            yield client.get_executor(pure=False)


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


def _slot_plugin() -> Any:
    from distributed import Worker, WorkerPlugin

    class Slot(WorkerPlugin):
        """Tell a worker process, also one that replaces another, which share of the machine is its own."""

        def setup(self, worker: Worker) -> None:
            workplace.HERE.slot = int(worker.name)  # through its module: the object does not travel
            # Ctrl-C reaches the whole process group; only the driver acts on it
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Slot()
