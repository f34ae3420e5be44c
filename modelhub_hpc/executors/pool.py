"""Workers, and the executor through which chunks reach them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import ParamSpec, TypeVar

from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.runfolder import Json
from modelhub_hpc.slurm import Ending

P = ParamSpec("P")
T = TypeVar("T")


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


class Pool:
    """Workers of this machine: as many from the first chunk to the last, and no other machine to turn to."""

    def __init__(self, executor: Executor, workers: int, hang_up: Callable[[], None] | None = None) -> None:
        """hang_up: has workers end, without waiting for them; None where they have to be waited for."""
        self.executor = executor
        self._workers = workers
        self._hang_up = hang_up

    def ready(self) -> int:
        """Workers that can take a chunk now."""
        return self._workers

    def expect(self, chunks: int) -> None:
        """So many chunks are not done yet."""

    def prepare_others(self, fn: Callable[..., object], *args: object) -> None:
        """Have fn called by all workers but one, which is about to get the only chunk that there is yet."""
        for _ in range(self._workers - 1):
            self.executor.submit(fn, *args)

    def let_go(self) -> bool:
        """Have workers end, now that nothing is left to do; False where that has to be waited for."""
        if self._hang_up is not None:
            self._hang_up()
        return self._hang_up is not None

    def delivered(self) -> None:
        """A worker has computed cases: the model starts, at least somewhere."""

    def trouble(self) -> ModelHubError | None:
        """Why there will be no more workers, if there will be none."""
        return None

    def set_aside(self, error: ModelHubError) -> bool:
        """Whether the run can go on without the machine on which this happened."""
        return False

    def ending(self, worker: str) -> Ending | None:
        """How the worker's job ended, where it had one and that is over."""
        return None

    def facts(self) -> dict[str, Json]:
        """What progress.json says of the workers."""
        return {}


class WorkerLost(Exception):
    """A worker process of this machine has died; its argument is the worker's name."""


def is_worker_lost(error: BaseException) -> bool:
    """Whether a future failed because its worker died: nobody's case is to blame."""
    if isinstance(error, (WorkerLost, CancelledError)):
        return True
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    return isinstance(error, (KilledWorker, FutureCancelledError))


def lost_worker(error: BaseException) -> str:
    """The name of the worker that died; "" where it is not known."""
    if isinstance(error, WorkerLost):
        return str(error)
    return str(getattr(getattr(error, "last_worker", None), "name", ""))
