"""`mh-hpc convert`: make an image for the store, show what was found on the way and what was proven."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from modelhub_hpc.cli.images import certificate_lines
from modelhub_hpc.cli.output import Voice, duration, one_line, size
from modelhub_hpc.cli.progress import has_terminal
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.convert import Converted, Observer, Terms, convert
from modelhub_hpc.errors import EXIT_DONE

PLAIN_S = 10.0


def convert_image(source: str, name: str | None, site: SiteConfig, terms: Terms, voice: Voice) -> int:
    """Convert, and say how it ended; the exit code."""
    begun_s = time.monotonic()
    with observer(voice) as observe:
        made = convert(source, name, site, terms, observe)
    if voice.json:
        image = {**vars(made.image), "path": str(made.image.path)}
        voice.answer({"image": image, "new": made.new, "certificate": made.certificate})
    else:
        _show(made, time.monotonic() - begun_s, voice)
    if not made.certificate.get("certified"):
        voice.warn(f"{one_line(made.image.name)} is NOT certified: see what is marked above, or --json.")
    return EXIT_DONE


def _show(made: Converted, seconds: float, voice: Voice) -> None:
    image = made.image
    for line in certificate_lines(made.certificate):
        voice.say(line)
    verb = f"converted in {duration(seconds)}" if made.new else "was here already"
    voice.say(f"{one_line(image.name)} {verb}: {one_line(image.path)} ({size(image.bytes)})")
    voice.say(f"  from {one_line(made.certificate.get('origin', {}).get('pinned', 'an unknown source'))}")


@contextlib.contextmanager
def observer(voice: Voice) -> Iterator[Observer]:
    """What is going on: on a terminal in one line that moves, elsewhere a line for each step."""
    if voice.quiet:
        yield lambda *_: None
    elif has_terminal():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield lambda what, done, total: status.update(_words(what, done, total).replace("[", r"\["))
    else:
        yield _Lines(voice)


class _Lines:
    """A line when a step begins, and every PLAIN_S seconds while it says how far it is."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._what = ""
        self._written_s = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if what != self._what or now_s - self._written_s >= PLAIN_S:
            self._what, self._written_s = what, now_s
            self._voice.warn(f"{_words(what, done, total)} ...")


def _words(what: str, done: int, total: int) -> str:
    return one_line(f"{what}: {size(done)} of {size(total)}" if total else what)
