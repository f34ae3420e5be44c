"""Show how a run goes on, and turn signals into a wish to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from modelhub_hpc.cli.output import Voice, duration
from modelhub_hpc.run import Observer, Progress, Stop

PLAIN_S = 10.0
_SHOW_CURSOR = "\x1b[?25h"
_CLEAR_LINE = "\r\x1b[2K"


@contextlib.contextmanager
def reporter(voice: Voice) -> Iterator[Observer]:
    """A bar on a terminal, a line every ten seconds elsewhere, nothing when quiet."""
    if voice.quiet:
        yield lambda progress: None
    elif has_terminal():
        with _bar() as show:
            yield show
    else:
        lines = _Lines(voice)
        yield lines
        lines.last()


@contextlib.contextmanager
def waiting(voice: Voice, what: str) -> Iterator[None]:
    """Say what is being done for a while whose length nobody knows; on a terminal something moves."""
    if has_terminal() and not voice.quiet:
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(what)):
            yield
    else:
        if not voice.quiet:
            voice.warn(f"{what} ...")
        yield


@contextlib.contextmanager
def counting(voice: Voice, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of so many things are done: a bar on a terminal, elsewhere a line every ten seconds."""
    if voice.quiet or not has_terminal():
        yield _counted(voice, what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    words = TextColumn(what, markup=False)
    with Bar(words, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _counted(voice: Voice, what: str, total: int) -> Callable[[int], None]:
    if voice.quiet:
        return lambda done: None
    voice.warn(f"{what} ...")
    said_s = time.monotonic()

    def show(done: int) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= PLAIN_S:
            said_s = time.monotonic()
            voice.warn(f"{what}: {done:,} of {total:,}")

    return show


def has_terminal() -> bool:
    if not sys.stderr.isatty():
        return False  # without the time that it takes to import rich
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


class _Lines:
    """Plain lines: the first, one every PLAIN_S seconds, and the last."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._written_s = -PLAIN_S
        self._waiting: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self._waiting = progress
        if time.monotonic() - self._written_s >= PLAIN_S:
            self._write(progress)

    def last(self) -> None:
        if self._waiting is not None:
            self._write(self._waiting)

    def _write(self, progress: Progress) -> None:
        self._written_s, self._waiting = time.monotonic(), None
        self._voice.warn(line(progress))


def line(progress: Progress) -> str:
    """One line for a log.

    >>> line(Progress(total=899, done=840, failed=2, before=0, seconds=421.0, workers=2))
    '842 of 899 cases, 2 failed, 2.0 cases/s, 28 s left'
    """
    parts = [f"{progress.settled:,} of {progress.total:,} cases"]
    parts += [f"{progress.failed:,} failed"] if progress.failed else []
    if progress.rate > 0:
        parts += [f"{progress.rate:.1f} cases/s"]
        parts += [f"{duration(progress.eta_s)} left"] if progress.settled < progress.total else []
    return ", ".join(parts)


@contextlib.contextmanager
def _bar() -> Iterator[Observer]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, SpinnerColumn, TextColumn

    words = TextColumn("{task.fields[failed]}{task.fields[speed]}", markup=False)
    with Bar(
        SpinnerColumn(), BarColumn(20), MofNCompleteColumn(), words, console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("", total=None, failed="", speed="starting")

        def show(progress: Progress) -> None:
            failed = f"{progress.failed:,} failed  " if progress.failed else ""
            left = f", {duration(progress.eta_s)} left" if progress.settled < progress.total else ""
            speed = f"{progress.rate:.1f} cases/s{left}" if progress.rate > 0 else "the model is loading"
            bar.update(task, total=progress.total, completed=progress.settled, failed=failed, speed=speed)

        yield show


@contextlib.contextmanager
def signals(stop: Stop, workers: int, resume: str) -> Iterator[None]:
    """Ctrl-C asks the run to stop; a second one, SIGTERM and SIGHUP end this process at once.

    Ending at once is safe: workers and sessions die with this process, and every published result is whole.
    Signals that the caller has set to be ignored (nohup) stay so.
    """

    def handle(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and not stop.wanted:
            stop.wanted = True
            chunks = "the chunk" if workers == 1 else f"the chunks (at most {workers})"
            _write_now(f"Finishing {chunks} in flight; Ctrl-C again to stop now.")
            return
        _write_now(f"Stopped. Every finished chunk is kept. To continue:\n  {resume}", last=True)
        os._exit(128 + number)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in wanted}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _write_now(text: str, last: bool = False) -> None:
    """Write past Python's buffers, which the interrupted code may be using, and over the bar's line."""
    terminal = sys.stderr.isatty()
    start = _CLEAR_LINE if terminal else ""
    end = _SHOW_CURSOR if terminal and last else ""
    with contextlib.suppress(OSError):  # the terminal may be gone: that is what SIGHUP says
        os.write(2, f"{start}{text}\n{end}".encode("utf-8", "surrogateescape"))
