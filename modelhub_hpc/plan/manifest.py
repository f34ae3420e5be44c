"""The manifest: the immutable table of a run's cases, readable from any row without reading the rest."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.runfolder import PART, link_first, storage, sync_folder, token

RESERVED = ("case_id", "input", "input_bytes", "input_mtime_ns")
_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$')
_PLAIN = re.compile(r"[\w./,-]*", re.ASCII)  # a line of fields none of which needs quotes, unless it has a comma
_BLOCK = 1 << 24
_ROWS = 10_000
_STAMP = 2  # leading numbers of an index file: size and mtime_ns of the manifest that it describes


class Case(NamedTuple):
    """One unit of work: what goes into the model once.

    inputs: (input key, absolute path) in the model's order; paths are surrogateescape text.
    columns: (name, value) of the user's own columns, empty values left out.
    input_bytes, input_mtime_ns: sum and newest over the inputs when planned; 0 where one was missing.
    """

    id: str
    inputs: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    input_bytes: int
    input_mtime_ns: int

    @property
    def path(self) -> str:
        """The only input's path; a ValueError where the case has several."""
        ((_, path),) = self.inputs
        return path


def column_of(key: str) -> str:
    """The manifest's column for a model input."""
    if key == "single":
        return "input"
    return f"input.{key}" if key in RESERVED or key.startswith("input.") else key


def _key_of(column: str) -> str:
    return "single" if column == "input" else column.removeprefix("input.")


@dataclass(frozen=True, eq=False)
class Manifest:
    """A published manifest. `keys` are the model's inputs, `columns` the user's own columns."""

    path: Path
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    _offsets: NDArray[np.int64]  # of every record, the header's and the end of the file included

    @classmethod
    def write(
        cls, path: Path, cases: Sequence[Case], keys: Sequence[str], index: Path | None = None
    ) -> Manifest:
        """Publish the manifest whole, or not at all; InvalidError if `path` exists already.

        Raises TryAgainError or UnfitError if the storage fails.
        """
        columns = _free_columns(cases, keys)
        part = path.with_name(f".{path.name}.{token()}{PART}")
        with storage(path):
            try:
                with open(part, "xb") as file:
                    file.writelines(_lines(cases, keys, columns))
                    file.flush()
                    os.fsync(file.fileno())
                if not link_first(part, path):
                    raise InvalidError(
                        f"{path} exists already, and a manifest never changes. Use another folder."
                    )
                sync_folder(path.parent)
            finally:
                part.unlink(missing_ok=True)
        return cls.open(path, index)

    @classmethod
    def open(cls, path: Path, index: Path | None = None) -> Manifest:
        """Open a manifest; `index` keeps its row offsets (default: beside it), made when absent or stale."""
        offsets = _offsets_of(path, index or path.with_name(f"{path.name}.offsets.npy"))
        with open(path, "rb") as file:
            header = _records(file.read(int(offsets[1])))
        names = header[0] if header else []
        if names[:1] != ["case_id"] or "input_bytes" not in names or "input_mtime_ns" not in names:
            raise InvalidError(f"{path} is not a manifest: its first line is {names[:8]}")
        end = names.index("input_bytes")
        return cls(path, tuple(map(_key_of, names[1:end])), tuple(names[end + 2 :]), offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 2

    @cached_property
    def digest(self) -> str:
        """The sha256 of the file's bytes, in hex."""
        return file_digest(self.path)

    def cases(self, first: int = 0, count: int | None = None) -> list[Case]:
        """The cases of rows [first, first + count), read without touching other rows."""
        stop = len(self) if count is None else min(first + count, len(self))
        if first < 0 or stop <= first:
            return []
        begin, end = int(self._offsets[first + 1]), int(self._offsets[stop + 1])
        with open(self.path, "rb") as file:
            file.seek(begin)
            return [self._case(row) for row in _records(file.read(end - begin))]

    def stream(self, rows: int | None = None) -> Iterator[Case]:
        """All cases, or the first so many, without holding them in memory."""
        end = len(self) if rows is None else min(rows, len(self))
        for first in range(0, end, _ROWS):
            yield from self.cases(first, min(_ROWS, end - first))

    def _case(self, row: list[str]) -> Case:
        end = 1 + len(self.keys)
        if len(row) != end + 2 + len(self.columns):
            raise InvalidError(f"{self.path} is damaged: the row of case {row[:1]} has {len(row)} columns")
        columns = zip(self.columns, row[end + 2 :])
        free = tuple([(name, value) for name, value in columns if value]) if self.columns else ()
        return Case(row[0], tuple(zip(self.keys, row[1:end])), free, int(row[end]), int(row[end + 1]))


def _records(data: bytes) -> list[list[str]]:
    text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
    return list(csv.reader(text, strict=True))


def _free_columns(cases: Iterable[Case], keys: Sequence[str]) -> tuple[str, ...]:
    names = dict.fromkeys(name for case in cases for name, _ in case.columns)
    taken = sorted(set(names) & {*RESERVED, *map(column_of, keys)})
    if taken:
        raise InvalidError(f"Column {taken[0]!r} has its own meaning in a manifest; rename it in your table.")
    return tuple(names)


def _lines(cases: Iterable[Case], keys: Sequence[str], columns: tuple[str, ...]) -> Iterator[bytes]:
    yield _line(["case_id", *map(column_of, keys), "input_bytes", "input_mtime_ns", *columns])
    for case in cases:
        inputs, free = dict(case.inputs), dict(case.columns)
        numbers = [str(case.input_bytes), str(case.input_mtime_ns)]
        values = [free.get(name, "") for name in columns]
        yield _line([case.id, *[inputs[key] for key in keys], *numbers, *values])


def _line(fields: list[str]) -> bytes:
    line = ",".join(fields)
    if not _PLAIN.fullmatch(line) or line.count(",") != len(fields) - 1:
        line = ",".join(map(_quoted, fields))
    return (line + "\n").encode("utf-8", "surrogateescape")


def _quoted(field: str) -> str:
    # csv.writer leaves a lone carriage return unquoted before Python 3.13, and then cannot read it back.
    return '"' + field.replace('"', '""') + '"' if _NEEDS_QUOTES.search(field) else field


def _offsets_of(path: Path, index: Path) -> NDArray[np.int64]:
    info = path.stat()
    stamp = [info.st_size, info.st_mtime_ns]
    kept = _load_index(index)
    if kept is not None and list(kept[:_STAMP]) == stamp:
        return kept[_STAMP:]
    with open(path, "rb") as file:
        offsets = _scan(file)
    _save_index(index, np.concatenate([np.array(stamp, dtype=np.int64), offsets]))
    return offsets


def _scan(file: IO[bytes]) -> NDArray[np.int64]:
    """Where each record begins, then the file's size; a newline inside quotes ends nothing."""
    found = [np.zeros(1, dtype=np.int64)]
    begin, inside = 0, 0
    while block := file.read(_BLOCK):
        data = np.frombuffer(block, dtype=np.uint8)
        newlines, quotes = np.flatnonzero(data == 10), np.flatnonzero(data == 34)
        outside = (np.searchsorted(quotes, newlines) + inside) % 2 == 0
        found.append(newlines[outside].astype(np.int64) + begin + 1)
        begin, inside = begin + len(block), (inside + len(quotes)) % 2
    offsets = np.concatenate(found)
    if offsets[-1] != begin or inside or not begin:
        raise InvalidError(f"{file.name} is truncated: its last line has no end.")
    return offsets


def _load_index(index: Path) -> NDArray[np.int64] | None:
    try:
        kept = np.load(index, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # absent or not whole: it is only a copy of what the manifest says
    if not isinstance(kept, np.ndarray) or kept.dtype != np.int64 or kept.ndim != 1:
        return None
    return kept if len(kept) > _STAMP + 1 else None


def _save_index(index: Path, numbers: NDArray[np.int64]) -> None:
    temp = index.with_name(f".{index.name}.{token()}{PART}")
    try:
        with open(temp, "xb") as file:
            np.save(file, numbers, allow_pickle=False)
        os.replace(temp, index)
    except OSError:
        with contextlib.suppress(OSError):  # a read-only run folder: the index stays in this process's memory
            temp.unlink(missing_ok=True)
