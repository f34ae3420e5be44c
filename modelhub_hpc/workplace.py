"""This process as a place of work: its name, its share of the machine, and until when it may work.

A worker that has to leave, because its walltime nears or because SLURM says so, takes no further chunk and is not to
blame for what it hands back.
"""

from __future__ import annotations

import collections
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from modelhub_hpc import config

_RECENT = 8
_NEAR_S = 2.0


class HandedBack(Exception):
    """A chunk that this worker did not compute because it has to leave: nobody's fault, and not a loss.

    overran: it was begun, and its job's walltime was over before it was.
    """

    def __init__(self, message: str, overran: bool = False) -> None:
        super().__init__(message, overran)
        self.overran = overran

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Workplace:
    """What a worker process knows of itself.

    name: the worker's, as its driver knows it; slot: its number among the workers of its machine or job; ends: when
    SLURM ends its job, in seconds since 1970; drain_s: how long before that it takes no chunk; on_leave: what has its
    driver send no more.
    """

    name: str = ""
    slot: int = 0
    ends: float = math.inf
    drain_s: float = 0.0
    on_leave: Callable[[], None] = lambda: None
    leaving: threading.Event = field(default_factory=threading.Event)
    told_to_end: threading.Event = field(default_factory=threading.Event)
    busy: threading.Lock = field(default_factory=threading.Lock)
    _recent_s: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=_RECENT))

    def took(self, seconds: float) -> None:
        """Remember how long a chunk took."""
        self._recent_s.append(seconds)

    def must_leave(self) -> bool:
        """Whether the next chunk would be too much: told so, or too little time is left for one like the slowest."""
        if time.time() + max(self._recent_s, default=0.0) + self.drain_s > self.ends:
            self.leave()
        return self.leaving.is_set()

    def leave(self) -> None:
        """Take no more chunks."""
        if not self.leaving.is_set():
            self.leaving.set()
            self.on_leave()

    def end(self) -> None:
        """SLURM ends this job, and not every process of it may have heard of it yet."""
        self.told_to_end.set()
        self.leave()

    def ended(self) -> HandedBack:
        """Why a chunk that was begun is handed back."""
        overran = time.time() > self.ends - _NEAR_S
        why = "its walltime is over" if overran else "SLURM ends the job"
        return HandedBack(f"{why}: {self.name}", overran)

    def is_being_ended(self, wait_s: float) -> bool:
        """Whether SLURM is ending this job; its signal may reach the model a moment before it reaches us."""
        return bool(self.name) and self.told_to_end.wait(wait_s)


HERE = Workplace()


def log_name(number: int, pid: int) -> str:
    """A file name for the log of one of this process's sessions, which no other process of a run has."""
    caller = config.caller()
    job = f"-job{caller.slurm_job_id}" if caller.slurm_job_id else ""
    return f"session-{caller.node}{job}-{pid}-{number}.log"
