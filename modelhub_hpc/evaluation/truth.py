"""What is known of the cases: a CSV table with a name for each, and its label or the path of its reference."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.inputs import extension
from modelhub_hpc.plan import Case
from modelhub_hpc.plan.tables import ORIGINAL, rows_of

T = TypeVar("T")
NAMES = ("case_id", "case", "file", "filename", "image", "name", "path", "input", "id")
LABELS = ("label", "class", "target", "truth")
REFERENCES = ("reference", "mask", "segmentation", "path", "file")
FEW = 3


@dataclass(frozen=True)
class Row:
    """name: of a case, as the table has it; value: what the table says of it; line: where, from 1."""

    name: str
    value: str
    line: int


@dataclass(frozen=True)
class Truth:
    """A table, its rows by name. folders: from where the paths in it may be meant."""

    path: Path
    rows: dict[str, Row]
    folders: tuple[Path, ...]

    def row(self, case: Case) -> Row | None:
        """The row of a case: the one with its id, the path or the name of its file, or that without its extension."""
        for name in _names_of(case):
            if name in self.rows:
                return self.rows[name]
        found = (self._by_path.get(os.path.normpath(path)) for _, path in case.inputs)
        return next(filter(None, found), None)

    @cached_property
    def _by_path(self) -> dict[str, Row]:
        return {os.path.normpath(each / name): row for each in self.folders for name, row in self.rows.items()}

    def __str__(self) -> str:
        return shown(self.path)


def read(path: Path, values: Sequence[str], data: Sequence[str]) -> Truth:
    """The table; values: what the column may be called; data: the inputs, of whose folders its paths may be.

    InvalidError says which line is wrong, and what to do.
    """
    lines = rows_of(str(path))
    first, header = next(lines, (1, []))
    name, value = _columns(path, header, values)
    rows: dict[str, Row] = {}
    for line, cells in lines:
        row = Row(_cell(path, line, cells, header, name), _cell(path, line, cells, header, value), line)
        if row.name in rows:
            before = rows[row.name].line
            raise _at(path, line, f"{shown(row.name)} stands on line {before} already. Name each case once")
        rows[row.name] = row
    if not rows:
        raise _at(path, first, "no rows below the header")
    folders = (path.absolute().parent, *(Path(each) for each in data if os.path.isdir(each)))
    return Truth(path, rows, folders)


def matched(truth: Truth, cases: Iterable[tuple[Case, T]]) -> Iterator[tuple[Row | None, Case, T]]:
    """Each case with its row; InvalidError where a row is that of two cases."""
    taken: dict[str, str] = {}
    for case, result in cases:
        row = truth.row(case)
        if row is not None and taken.setdefault(row.name, case.id) != case.id:
            both = f"{taken[row.name]} and {case.id}"
            raise _at(truth.path, row.line, f"{shown(row.name)} fits two cases, {both}. Write case ids or whole paths")
        yield row, case, result


def few(things: Sequence[str]) -> str:
    """The first of some names.

    >>> few(["a", "b"]), few(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(things) - FEW:,} more" if len(things) > FEW else ""
    return ", ".join(map(shown, things[:FEW])) + more


def _names_of(case: Case) -> Iterator[str]:
    """What a table may call a case, the most exact first."""
    yield from (value for key, value in case.columns if key == ORIGINAL)
    yield case.id
    for _, path in case.inputs:
        file = os.path.basename(path)
        yield from (path, file, file[: len(file) - len(extension(file))])


def _columns(path: Path, header: list[str], values: Sequence[str]) -> tuple[str, str]:
    plain = [each.strip().lower() for each in header]
    name = next((each for each in NAMES if each in plain), None)
    value = next((each for each in values if each in plain and each != name), None)
    if name is None or value is None:
        wanted = " or ".join(values[:2])
        raise _at(
            path,
            1,
            f"no header with columns such as file or case_id, and {wanted}, but {shown(', '.join(header[:4]))!r}."
            f"\nPut a first line above the rows:  file,{values[0]}",
        )
    return header[plain.index(name)], header[plain.index(value)]


def _cell(path: Path, line: int, cells: list[str], header: list[str], column: str) -> str:
    if len(cells) != len(header):
        raise _at(path, line, f"{len(cells)} columns, but the first line names {len(header)}")
    text = cells[header.index(column)].strip()
    if not text:
        raise _at(path, line, f"nothing in column {shown(column)}")
    return text


def _at(path: Path, line: int, what: str) -> InvalidError:
    return InvalidError(f"{shown(path)}, line {line}: {what}.")
