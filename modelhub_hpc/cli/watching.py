"""Show how something stands: once, or again and again in place on a terminal, or each change elsewhere."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click

from modelhub_hpc.cli.output import Voice

T = TypeVar("T")

WATCH_S = 2.0
_PATIENCE = 10  # times as long as a look took is waited before the next


@dataclass(frozen=True)
class Form(Generic[T]):
    """What something looks like: whole, in one line, and as JSON. key: what of it must differ to be a change."""

    lines: Callable[[T], Iterable[str]]
    line: Callable[[T], str]
    facts: Callable[[T], Any]
    key: Callable[[T], object]


def show(now: T, form: Form[T], voice: Voice) -> None:
    """Show it once."""
    if voice.json:
        voice.answer(form.facts(now))
    else:
        _say(form.lines(now))


def watch(see: Callable[[], T], goes_on: Callable[[T], bool], form: Form[T], voice: Voice) -> None:
    """Show it until it does not go on any more; less often where a look takes long."""
    last: object = None
    with _shower(form, voice) as shower:
        while True:
            began = time.monotonic()
            now = see()
            over = not goes_on(now)
            shower(now, form.key(now) != last, over)
            if over:
                return
            last = form.key(now)
            time.sleep(max(WATCH_S, _PATIENCE * (time.monotonic() - began)))


Shower = Callable[[T, bool, bool], None]  # what is seen, whether it has changed, and whether it is the last


@contextlib.contextmanager
def _shower(form: Form[T], voice: Voice) -> Iterator[Shower[T]]:
    if voice.json:
        yield lambda now, changed, _: click.echo(json.dumps(form.facts(now), allow_nan=False)) if changed else None
    elif has_screen():
        with _in_place(form) as shower:
            yield shower
    else:
        yield _Plain(form)


class _Plain(Generic[T]):
    """All of it at first and at the end, and a line for each change between."""

    def __init__(self, form: Form[T]) -> None:
        self._form = form
        self._first = True

    def __call__(self, now: T, changed: bool, over: bool) -> None:
        if changed and (self._first or over):
            _say(self._form.lines(now))
        elif changed:
            _say([f"{time.strftime('%H:%M:%S')}  {self._form.line(now)}"])
        self._first = False


def has_screen() -> bool:
    """Whether stdout is a terminal on which lines can be written over."""
    from rich.console import Console

    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def _in_place(form: Form[T]) -> Iterator[Shower[T]]:
    from rich.live import Live
    from rich.text import Text

    def shower(now: T, _: bool, over: bool) -> None:
        live.vertical_overflow = "visible" if over else "ellipsis"
        live.update(Text("\n".join(form.lines(now)), no_wrap=not over, overflow="ellipsis"), refresh=True)

    with Live(auto_refresh=False) as live:
        yield shower


def _say(lines: Iterable[str]) -> None:
    """Write an answer, which even a quiet command gives."""
    for line in lines:
        click.echo(line)
