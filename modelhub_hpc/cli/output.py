"""How commands speak: people's text, JSON, and tables that stream."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from modelhub_hpc.errors import count_of

_SAMPLE = 200  # rows that decide the widths of a streamed table
_WIDEST = 60
MARKS = {True: "✔", False: "✘", None: "–"}  # of something that was checked
number = count_of  # as commands call it


@dataclass(frozen=True)
class Voice:
    """Where words go. With `json`, stdout is the answer's alone and everything else goes to stderr."""

    json: bool = False
    quiet: bool = False

    def say(self, text: str) -> None:
        """Something worth knowing, unless the user wants quiet."""
        if not self.quiet:
            click.echo(text, err=self.json)

    def warn(self, text: str) -> None:
        click.echo(text, err=True)

    def answer(self, value: Any) -> None:
        """The one JSON value of a command."""
        click.echo(json.dumps(value, indent=2, allow_nan=False))

    def columns(self, rows: Iterable[Sequence[str]]) -> None:
        """Rows in aligned columns, written as they come."""
        for line in aligned(rows):
            self.say(line)


def voice_of(as_json: bool) -> Voice:
    """The voice of the command that runs, which answers with JSON or not."""
    voice: Voice = click.get_current_context().obj
    return dataclasses.replace(voice, json=as_json)


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows of equal length as lines; the widths of the first rows serve for all.

    >>> list(aligned([["case", "status"], ["a", "done"]]))
    ['case  status', 'a     done']
    """
    stream = iter(rows)
    sample = list(itertools.islice(stream, _SAMPLE))
    widths = [min(_WIDEST, max(map(len, column))) for column in zip(*sample)]
    for row in itertools.chain(sample, stream):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def one_line(text: object, limit: int = 0) -> str:
    """Text from models or file names, made harmless for a terminal: one line without control characters.

    >>> one_line("a\\nb"), one_line("\\x1b[31mred"), one_line("x" * 9, limit=5)
    ('a b', '\\\\x1b[31mred', 'xx...')
    """
    line = " ".join(str(text).split())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return plain[: limit - 3] + "..." if limit and len(plain) > limit else plain


def many_lines(text: str) -> str:
    """The same for text whose lines are wanted."""
    keep = {"\n", "\t"}
    return "".join(c if c in keep or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: float) -> str:
    """Bytes for people.

    >>> size(0), size(1536), size(3 * 2**30)
    ('0 B', '1.5 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds for people.

    >>> duration(None), duration(3.2), duration(75), duration(7322)
    ('?', '3 s', '1 min 15 s', '2 h 02 min')
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def make_streams_robust() -> None:
    """Let any file name be written: as its own bytes where the terminal speaks UTF-8, escaped elsewhere."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
