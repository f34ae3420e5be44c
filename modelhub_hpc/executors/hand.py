"""A worker process of this machine: calls what its driver sends through a pipe, one call at a time."""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from modelhub_hpc import chunks
from modelhub_hpc.workplace import HERE

Call = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]


def serve(channel: int, slot: int) -> None:
    """Work until the driver closes the pipe. slot: which share of the machine is this process's own."""
    HERE.slot = slot
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the driver acts on it
    connection, calls, busy = Connection(channel), queue.SimpleQueue[Call | None](), threading.Lock()
    threading.Thread(target=_listen, args=(connection, calls, busy), daemon=True).start()
    while (call := calls.get()) is not None:
        connection.send(_answer(*call))
        busy.release()
    chunks.close()


def _listen(connection: Connection, calls: queue.SimpleQueue[Call | None], busy: threading.Lock) -> None:
    """Take calls; end this process when the driver has no use for it, or is gone: what is computed then is lost."""
    try:
        while True:
            call = connection.recv()
            busy.acquire()
            calls.put(call)
    except (EOFError, OSError):
        if not busy.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGKILL)  # its session ends with it
        calls.put(None)


def _answer(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any, str]:
    """What the call returned, or the error that it raised, and where."""
    try:
        return fn(*args, **kwargs), None, ""
    except Exception as error:  # the driver gets it from the future, as from any executor
        return None, error, traceback.format_exc()
