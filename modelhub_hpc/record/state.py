"""What the shards of a run say together: which cases are done, their results in order, their arrays."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from modelhub_hpc.errors import TryAgainError, shown
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.record.hdf5 import read_array, read_attributes
from modelhub_hpc.record.results import CaseResult, Output
from modelhub_hpc.record.shards import (
    DONE,
    FAILED,
    PENDING,
    Shard,
    ShardInvalid,
    Verified,
    arrays_of,
    identity,
    listing,
    read_shard,
    set_aside,
    verified,
)
from modelhub_hpc.record.volumes import Volume, grid, volume
from modelhub_hpc.runfolder import PART, RunPaths, drop, storage

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


class Span(Protocol):
    """A chunk of the plan: `count` cases from manifest row `first`."""

    @property
    def index(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def count(self) -> int: ...


@dataclass(frozen=True)
class State:
    """What the shards of a run say.

    status: one of PENDING, DONE and FAILED per manifest row; the highest generation of a case wins.
    generations: chunk -> generations on disk, ascending; damaged: names of the shards that were not used.
    """

    status: npt.NDArray[np.uint8]
    done_chunks: frozenset[int]
    generations: Mapping[int, tuple[int, ...]]
    failed_by_chunk: Mapping[int, tuple[int, ...]]
    damaged: tuple[str, ...]

    @property
    def total(self) -> int:
        return len(self.status)

    @property
    def done(self) -> int:
        return int(np.count_nonzero(self.status == DONE))

    @property
    def failed(self) -> int:
        return int(np.count_nonzero(self.status == FAILED))

    @property
    def pending(self) -> int:
        return int(np.count_nonzero(self.status == PENDING))

    def next_generation(self, chunk: int) -> int:
        """The generation under which failed cases of this chunk would be tried again."""
        return max(self.generations.get(chunk, (0,))) + 1


def scan(
    paths: RunPaths,
    run_id: str,
    plan_digest: str,
    chunks: Sequence[Span],
    *,
    verify_arrays: bool = True,
    repair: bool = True,
) -> State:
    """Read all shards once and say which cases are done.

    repair: move damaged shards to quarantine, so that their cases are pending and their names free; only
    the owner of the run may do that.  Raises TryAgainError or UnfitError if the storage fails.
    """
    status = np.zeros(max((c.first + c.count for c in chunks), default=0), np.uint8)
    table = {chunk.index: chunk for chunk in chunks}
    generations: dict[int, tuple[int, ...]] = {}
    damaged: list[str] = []
    with storage(paths.shards):
        for index, generation in listing(paths):
            path = paths.shard(index, generation)
            seen = identity(path)
            try:
                _overlay(status, verified(path, run_id, plan_digest, verify_arrays), table)
                generations[index] = *generations.get(index, ()), generation
            except ShardInvalid as damage:
                damaged.append(path.name)
                if repair:
                    set_aside(paths, path, seen, str(damage))
    done = frozenset(index for index, found in generations.items() if 0 in found)
    return State(status, done, generations, _failed(status, table, generations), tuple(damaged))


def _overlay(status: npt.NDArray[np.uint8], shard: Verified, table: Mapping[int, Span]) -> None:
    chunk = table.get(shard.chunk)
    if chunk is None:
        raise ShardInvalid(f"the plan has no chunk {shard.chunk}")
    found = shard.statuses()
    complete = len(found) == chunk.count or shard.generation > 0
    strange = found and not chunk.first <= min(found) <= max(found) < chunk.first + chunk.count
    if not complete or strange:
        raise ShardInvalid(f"its cases are not those of chunk {shard.chunk}")
    status[list(found)] = list(found.values())


def _failed(
    status: npt.NDArray[np.uint8], table: Mapping[int, Span], generations: Mapping[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    failed = {}
    for index in sorted(generations):
        first, end = table[index].first, table[index].first + table[index].count
        rows = np.flatnonzero(status[first:end] == FAILED) + first
        if len(rows):
            failed[index] = tuple(int(row) for row in rows)
    return failed


def iter_results(
    paths: RunPaths, run_id: str, plan_digest: str, chunks: Sequence[Span]
) -> Iterator[CaseResult]:
    """The latest result of each case that has one, in manifest order; holds one chunk in memory.

    Raises TryAgainError for a damaged shard: scan() mends that.
    """
    generations: dict[int, list[int]] = {}
    with storage(paths.shards):
        for index, generation in listing(paths):
            generations.setdefault(index, []).append(generation)
    for chunk in sorted(chunks, key=lambda each: each.first):
        latest: dict[int, CaseResult] = {}
        for generation in generations.get(chunk.index, ()):
            shard = _sound(paths.shard(chunk.index, generation), run_id, plan_digest)
            latest.update((result.index, result) for result in shard.results)
        yield from (latest[row] for row in sorted(latest))


def _sound(path: Path, run_id: str, plan_digest: str) -> Shard:
    try:
        with storage(path):
            return read_shard(path, run_id, plan_digest, verify_arrays=False)
    except ShardInvalid as damage:
        raise TryAgainError(f"""
            {shown(path)} cannot be used: {damage}.
            Resume the run: it sets the file aside and computes its cases again.""") from damage


def load_array(paths: RunPaths, output: Output) -> npt.NDArray[Any]:
    """The array of an output, whole, as the model gave it.

    Raises ValueError for an output without one, TryAgainError if the storage fails or the file is damaged.
    """
    return _read(paths, output, read_array)


def load_volume(paths: RunPaths, output: Output) -> Volume:
    """The array of an output, with its axes in one order and its place in the patient.

    Raises ValueError as `load_array` and `volume` do, and TryAgainError.
    """
    return volume(load_array(paths, output), _read(paths, output, read_attributes))


def load_grid(paths: RunPaths, output: Output) -> tuple[str, Geometry | None]:
    """The declared axes of an output's array, "" for none, and the grid of the input. Raises as `load_array` does."""
    attributes = _read(paths, output, read_attributes)
    return str(attributes.get("axes", "")), grid(attributes)


def _read(paths: RunPaths, output: Output, read: Callable[[Path, str], _Found]) -> _Found:
    if output.dataset is None:
        raise ValueError(f"output {output.name!r} is not an array")
    file, _, name = output.dataset.partition(":")
    path = paths.shards / os.path.basename(file)
    try:
        with storage(path):
            return read(path, name)
    except (OSError, KeyError) as error:
        raise TryAgainError(f"""
            {shown(path)} is damaged at {name}: {error}.
            Resume the run: it sets the file aside and computes its cases again.""") from error


def sweep_orphans(paths: RunPaths) -> int:
    """Remove what dead attempts left; only for a complete run.  Returns the number of files.

    Raises TryAgainError or UnfitError if the storage fails.
    """
    try:
        with storage(paths.shards):
            named = {arrays_of(paths.shard(*each)) for each in listing(paths)}
            folders = paths.shards, paths.root, paths.private
            found = [path for folder in folders for path in folder.iterdir()]
    except ShardInvalid as damage:
        _log.warning("nothing is swept: a shard cannot be used: %s", damage)
        return 0
    orphans = [
        path
        for path in found
        if path.name.endswith(PART)
        or (path.parent == paths.shards and path.suffix == ".h5" and path.name not in named)
    ]
    for path in orphans:
        drop(path)
    return len(orphans)
