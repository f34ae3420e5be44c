"""Find models by what is known of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelhub_hpc.models.entry import Entry


@dataclass(frozen=True)
class Wanted:
    """What a model must have; None and () ask for nothing. Case never matters.

    words: each is found somewhere in the entry; task, modality and mime: within the entry's own;
    backend: one of the entry's; gpu: True for models that use one, False for models that do not need one.
    """

    words: tuple[str, ...] = ()
    task: str | None = None
    backend: str | None = None
    mime: str | None = None
    modality: str | None = None
    gpu: bool | None = None


def matches(entry: Entry, wanted: Wanted) -> bool:
    text = _text(entry)
    mimes = " ".join(mime for each in entry.io.inputs for mime in each.mime)
    return (
        all(word.lower() in text for word in wanted.words)
        and _within(wanted.task, f"{entry.task}\n{entry.task_extended}")
        and _within(wanted.modality, entry.modality or "")
        and _within(wanted.mime, mimes)
        and (wanted.backend is None or wanted.backend.lower() in map(str.lower, entry.backend))
        and wanted.gpu in (None, entry.gpu.uses if wanted.gpu else entry.gpu.required)
    )


def nearest(words: Iterable[str], entries: Iterable[Entry]) -> dict[str, str | None]:
    """For each word that no entry has: a word like it that one has, or None."""
    texts = [_text(entry) for entry in entries]
    known = sorted({word for text in texts for word in re.findall(r"[\w+-]+", text)})
    absent = [word.lower() for word in words if not any(word.lower() in text for text in texts)]
    return {word: next(iter(difflib.get_close_matches(word, known, n=1)), None) for word in absent}


def _within(part: str | None, text: str) -> bool:
    return part is None or part.lower() in text.lower()


def _text(entry: Entry) -> str:
    return "\n".join(part for part in _parts(entry) if part).lower()


def _parts(entry: Entry) -> Iterator[str | None]:
    yield from (entry.name, entry.title, entry.description, entry.task, entry.task_extended)
    yield from (entry.application_area, entry.data_type, entry.modality, entry.format, *entry.backend)
    for taken in entry.io.inputs:
        yield from (taken.key, taken.description, *taken.mime)
    for given in entry.io.outputs:
        yield from (given.name, given.type, given.description, *(given.labels or {}).values())
    if entry.reference:
        yield from (entry.reference.title, entry.reference.source, *(entry.reference.authors or ()))
