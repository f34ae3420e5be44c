"""Turn what the user named into cases, and cases into chunks; pure but for reading folder listings."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf
from pathlib import Path

from modelhub_hpc.errors import InvalidError, UsageError
from modelhub_hpc.plan.grouping import Skipped, in_order
from modelhub_hpc.plan.lazy import Mapped, alike
from modelhub_hpc.plan.manifest import Case, Manifest
from modelhub_hpc.plan.roots import input_roots
from modelhub_hpc.plan.search import Search
from modelhub_hpc.plan.tables import ORIGINAL, Draft
from modelhub_hpc.contribution import Contribution

__all__ = ["Case", "Chunk", "Found", "Manifest", "Skipped", "chunk_table", "cut", "find_cases", "input_roots"]

CHUNK_S = 30.0
MAX_CHUNK = 2000
_ENOUGH_CHUNKS = 10_000  # each is a file or two in one folder
_LONGEST_S = 600.0  # of a chunk, which is lost where its worker is lost
_OF_WALLTIME = 0.05  # as long as a chunk may be, since a job takes none that it cannot end
MAX_ID = 80
_CHUNKS_PER_WORKER = 4
_GUESS_S = 1.0  # per case, where nothing is known of the model's speed
_HASH_DIGITS = (6, 12, 24, 64)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Cases [first, first + count) of the manifest, computed and published together."""

    index: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Found:
    """Every case, and everything that lay there and became none."""

    cases: Sequence[Case]
    skipped: tuple[Skipped, ...]


def find_cases(inputs: Sequence[str], model: Contribution, cwd: Path) -> Found:
    """Every case that folders, patterns, files, CSV tables and JSON files name.

    The order of `inputs` changes nothing. A DICOM series is the path of its folder, or of its only file;
    where a folder holds more, the column series_uid says which. InvalidError: something named does not
    exist, a table is wrong, or nothing matches what the model takes.
    """
    if "" in inputs:
        raise UsageError("An input is the empty text: name a folder, a pattern, a file, a CSV or a JSON.")
    search = Search(model)
    for named in in_order({os.path.join(os.fspath(cwd), each) for each in inputs}):
        search.add(named)
    drafts = search.found()
    if not drafts:
        raise InvalidError(search.nothing(inputs))
    return Found(_with_ids(drafts), tuple(search.skipped))


def _with_ids(drafts: Sequence[Draft]) -> Sequence[Case]:
    """The cases, each made when it is looked at: a million at once would take 500 MB."""
    ids = case_ids(Mapped(lambda draft: draft.name, drafts), Mapped(lambda draft: draft.token, drafts))

    def case(at: int) -> Case:
        draft, name = drafts[at], ids[at]
        return Case(name, draft.inputs, _with_original(draft, name), draft.input_bytes, draft.input_mtime_ns)

    return Mapped(case, range(len(drafts)))


def _with_original(draft: Draft, name: str) -> tuple[tuple[str, str], ...]:
    """The user's own case id, kept beside the one that is safe as a name."""
    if not draft.given or draft.name == name:
        return draft.columns
    return (*((key, value) for key, value in draft.columns if key != ORIGINAL), (ORIGINAL, draft.name))


def case_ids(names: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """A unique id of at most 80 characters A-Z a-z 0-9 . _ - for each name, the same in any order.

    A name that had to be changed, and every name of a group that differ in case only or not at all, ends in a
    hash: of the name, or of the token where names are equal. InvalidError where tokens are equal too.
    """
    ids = [_safe(name) for name in names]
    for digits in (*_HASH_DIGITS, 0):
        some = alike(Mapped(str.lower, ids))
        counts = Counter(ids[i].lower() for i in some)
        clashes = [i for i in some if counts[ids[i].lower()] > 1]
        if not clashes:
            return ids
        if not digits:
            break
        for i in clashes:
            ids[i] = _suffixed(_plain(names[i]), tokens[i], digits)
    raise InvalidError(
        f"{len(clashes)} cases are the same in everything, such as {names[clashes[0]]!r}. Name each once."
    )


def _safe(name: str) -> str:
    plain = _plain(name)
    changed = plain != name.replace("/", "_") or len(plain) > MAX_ID
    return _suffixed(plain, name, _HASH_DIGITS[0]) if changed else plain


def _plain(name: str) -> str:
    text = re.sub("[^A-Za-z0-9._-]", "_", name) or "_"
    return "_" + text[1:] if text[0] in "-." else text


def safe_name(text: str, longest: int = 40) -> str:
    """Any text as part of a file's, a job's or a script's name.

    >>> safe_name("U-Net/v2"), safe_name("../$(rm x)")
    ('U-Net_v2', '_.___rm_x_')
    """
    return _plain(text)[:longest]


def _suffixed(plain: str, hashed: str, digits: int) -> str:
    digest = hashlib.sha256(hashed.encode("utf-8", "surrogateescape")).hexdigest()[:digits]
    return f"{plain[: MAX_ID - 1 - digits]}-{digest}"


def cut(
    n_cases: int,
    seconds_per_case: float | None,
    workers: int,
    chunk_size: int | None = None,
    probe: bool = True,
    walltime_s: float = inf,
) -> list[Chunk]:
    """The chunk table: about 30 s of work each, 1 to 2,000 cases, about four per worker where cases suffice.

    Where that makes more than 10,000 chunks they are longer, up to 600 s and a twentieth of a job's walltime.
    With `probe`, chunk 0 is the first case alone: nobody waits long to learn that a model can't start.
    """
    if chunk_size is not None and chunk_size < 1:
        raise UsageError(f"A chunk holds at least one case, not {chunk_size}.")
    head = 1 if probe and n_cases else 0
    size = chunk_size or _size(n_cases - head, seconds_per_case, workers, walltime_s)
    edges = [*range(head), *range(head, n_cases, size), n_cases]
    return [Chunk(i, first, end - first) for i, (first, end) in enumerate(pairwise(edges))]


def _size(n_cases: int, seconds_per_case: float | None, workers: int, walltime_s: float) -> int:
    seconds = seconds_per_case if seconds_per_case and seconds_per_case > 0 else _GUESS_S
    share = ceil(n_cases / (_CHUNKS_PER_WORKER * max(workers, 1)))
    longest = int(min(_LONGEST_S, _OF_WALLTIME * walltime_s) / seconds)
    wanted = max(int(CHUNK_S / seconds), min(ceil(n_cases / _ENOUGH_CHUNKS), longest))
    return max(1, min(wanted, MAX_CHUNK, share))


def chunk_table(path: Path) -> list[Chunk] | None:
    """The chunks of a run as they were cut, or None if they are not cut yet."""
    if not path.exists():
        return None
    bounds = json.loads(path.read_bytes())["chunks"]
    return [Chunk(index, first, count) for index, (first, count) in enumerate(bounds)]
