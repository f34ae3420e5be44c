"""Warm sessions of one model: who asks waits for a free one, and nobody gets another's answer.

A session that dies is replaced by its Predictor, which tries the case once more, alone. Sessions start when they are
needed and end when they have not been for a while.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from modelhub_hpc import inputs
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.oncall import Answer, answer
from modelhub_hpc.plan import Case
from modelhub_hpc.predict import Predictor
from modelhub_hpc.record import CaseError, CaseResult
from modelhub_hpc.service.refused import Refused

log = logging.getLogger(__name__)

Inputs = tuple[tuple[str, str], ...]

BUSY_S = 2  # after which somebody who found everything taken may ask again
REST_S = 10.0  # of a model that could not be started
_LOOK_S = 1.0

_STATUS = {"input": 400, "model": 400, "output": 400, "memory": 400, "timeout": 504, "crash": 503}


class Seat(Protocol):
    """Where one case at a time is computed."""

    def predict(self, case: Case) -> Answer: ...

    def close(self) -> None: ...


class LocalSeat:
    """A warm session of this machine."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, case: Case) -> Answer:
        (found,) = [answer(predicted) for predicted in self._predictor.predict([(0, case)])]
        return found

    def close(self) -> None:
        self._predictor.close()


@dataclass
class Facts:
    """What became of the predictions of a model, counted since the server began."""

    predictions: int = 0
    failures: int = 0
    repeated: int = 0
    rejected: int = 0


@dataclass
class _Chair:
    """A seat, once somebody has needed it. number: among those of its model."""

    number: int
    seat: Seat | None = None
    used: float = field(default_factory=time.monotonic)


class Queue:
    """How many predictions may be under way or wait, over all models of a server."""

    def __init__(self, most: int) -> None:
        self._slots = threading.BoundedSemaphore(most)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Refused (429) where there is none."""
        if not self._slots.acquire(blocking=False):
            raise Refused(429, "Too many predictions are waiting. Ask again in a moment.", BUSY_S)
        try:
            yield
        finally:
            self._slots.release()


class SessionPool:
    """The sessions of one model. predict() may be called by any number of threads."""

    def __init__(self, make: Callable[[int], Seat], sessions: int, queue: Queue, idle_s: float) -> None:
        """make: a seat, by its number among the model's."""
        self.facts = Facts()
        self._make = make
        self._queue = queue
        self._idle_s = idle_s
        self._numbers = itertools.count()
        self._free = [_Chair(number) for number in range(sessions)]
        self._all = list(self._free)
        self._waiting = 0
        self._rests_until = 0.0
        self._change = threading.Condition()
        self._closed = False

    @property
    def warm(self) -> int:
        """Sessions that have started and not ended."""
        return sum(chair.seat is not None for chair in self._all)

    @property
    def busy(self) -> int:
        return len(self._all) - len(self._free)

    @property
    def waiting(self) -> int:
        return self._waiting

    def predict(self, given: Inputs) -> Answer:
        """Have the model predict one case; given: (input key, path) pairs, "single" where there is only one.

        Raises Refused: 429 where too many wait, 400 for what is the input's fault or the model's with it, 503 where
        the same request may do better in a while, 504 where the model took too long.
        """
        try:
            with self._queue.place():
                with self._chair() as chair:
                    answer = self._predict(chair, given)
        except Refused as error:
            self.facts.rejected += error.status == 429
            raise
        self._count(answer.result)
        if answer.result.error is not None:
            raise _refusal(answer.result.error, given)
        return answer

    def end_idle(self) -> None:
        """End the sessions that nobody has needed for a while."""
        with self._change:
            old = [c for c in self._free if c.seat is not None and time.monotonic() - c.used > self._idle_s]
            for chair in old:
                self._free.remove(chair)
        for chair in old:
            self._end(chair)
            self._give_back(chair)

    def close(self) -> None:
        """End all sessions; who waits for one is refused, who has one is answered first."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            self._change.wait_for(lambda: len(self._free) == len(self._all))
        for chair in self._all:
            self._end(chair)

    def _predict(self, chair: _Chair, given: Inputs) -> Answer:
        size, mtime_ns = _identity(given)
        case = Case(f"request-{next(self._numbers)}", given, (), size, mtime_ns)
        try:
            if chair.seat is None:
                self._rest()
                chair.seat = self._make(chair.number)
            return chair.seat.predict(case)
        except ModelHubError as error:
            self._end(chair)  # whatever it was, the next request begins anew
            log.error("%s: %s", type(error).__name__, error)
            self._rests_until = time.monotonic() + REST_S
            raise _tired(REST_S) from error

    def _rest(self) -> None:
        """A model that has not started is not started for each of those who ask for it."""
        left_s = self._rests_until - time.monotonic()
        if left_s > 0:
            raise _tired(left_s)

    def _count(self, result: CaseResult) -> None:
        self.facts.predictions += 1
        self.facts.failures += result.error is not None
        self.facts.repeated += result.attempts > 1

    @contextlib.contextmanager
    def _chair(self) -> Iterator[_Chair]:
        chair = self._take()
        try:
            yield chair
        finally:
            self._give_back(chair)

    def _take(self) -> _Chair:
        with self._change:
            self._waiting += 1
            self._change.wait_for(lambda: self._closed or self._free)
            self._waiting -= 1
            if self._closed:
                raise Refused(503, "The server is being stopped.", BUSY_S)
            # a warm one first, so that no other is started while it has nothing to do
            chair = max(self._free, key=lambda each: (each.seat is not None, each.used))
            self._free.remove(chair)
            return chair

    def _give_back(self, chair: _Chair) -> None:
        with self._change:
            chair.used = time.monotonic()
            self._free.append(chair)
            self._change.notify_all()

    def _end(self, chair: _Chair) -> None:
        seat, chair.seat = chair.seat, None
        if seat is not None:
            seat.close()


class Sweeper:
    """Calls a function every few seconds, from a thread of its own."""

    def __init__(self, sweep: Callable[[], None]) -> None:
        self._sweep = sweep
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            try:
                self._sweep()
            except Exception:  # a thread has nobody to raise to
                log.exception("sweeping")


def _identity(given: Inputs) -> tuple[int, int]:
    found = [inputs.identity_or_zero(path) for _, path in given]
    return sum(size for size, _ in found), max(mtime_ns for _, mtime_ns in found)


def _tired(seconds: float) -> Refused:
    return Refused(503, "The model cannot answer now; the server's log says why.", math.ceil(seconds))


def _refusal(error: CaseError, given: Inputs) -> Refused:
    """What the client is told of a case that failed; of a process that died the log tells more."""
    status = _STATUS[error.kind]
    if status >= 500:
        log.error("%s: %s\n%s", error.kind, error.message, error.evidence)
        return Refused(status, f"The model's process ended with this input ({error.kind}).", BUSY_S)
    text = error.message.splitlines()[0] if error.message else error.kind
    for key, path in given:  # whose place in this machine is no client's business
        text = text.replace(path, "the file" if key == "single" else key)
        text = text.replace(os.path.join(os.path.dirname(path), ""), "")  # of what a file says lies beside it
    return Refused(status, text)
