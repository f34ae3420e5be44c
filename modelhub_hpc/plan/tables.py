"""Read cases that a user wrote down: a CSV table or ModelHub's JSON of several inputs."""

from __future__ import annotations

import csv
import json
import marshal
import os
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.inputs import identity_or_zero
from modelhub_hpc.plan.lazy import alike
from modelhub_hpc.plan.manifest import RESERVED, column_of
from modelhub_hpc.contribution import Contribution

_SINGLE_NAMES = ("input", "single", "file")
ORIGINAL = "original_case_id"  # the free column of an id that had to be changed


class Draft(NamedTuple):
    """A case before it has its id. `name`: the id wanted, `given`: by the user; columns as in Case."""

    name: str
    inputs: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    input_bytes: int
    input_mtime_ns: int
    given: bool = False

    @property
    def token(self) -> str:
        """What tells the draft from any other of the same name."""
        return "\0".join([self.name, *(text for pair in (*self.inputs, *self.columns) for text in pair)])


class Drafts:
    """Drafts in the order in which they came, held as bytes: objects would take six times the memory."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q", [0])

    def append(self, draft: Draft) -> None:
        self._data += marshal.dumps(tuple(draft))
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, at: int) -> Draft:
        return Draft(*marshal.loads(self._data[self._ends[at] : self._ends[at + 1]]))


def draft_of(
    name: str, paths: dict[str, str], columns: tuple[tuple[str, str], ...] = (), given: bool = False
) -> Draft:
    """A draft whose inputs are looked at now; one that is missing counts zero bytes."""
    seen = [identity_or_zero(path) for path in paths.values()]
    return Draft(name, tuple(paths.items()), columns, sum(s for s, _ in seen), max(m for _, m in seen), given)


def input_names(model: Contribution) -> dict[str, tuple[str, ...]]:
    """The names under which a table may give each input, the preferred one first."""
    keys = [spec.key for spec in model.inputs]
    if len(keys) == 1:
        return {keys[0]: tuple(dict.fromkeys((keys[0] if keys[0] != "single" else "input", *_SINGLE_NAMES)))}
    return {key: tuple(dict.fromkeys((key, column_of(key)))) for key in keys}


def read_csv(path: str, model: Contribution) -> Iterator[Draft]:
    """The cases of a CSV, TSV or semicolon table; InvalidError names the line at fault."""
    rows = rows_of(path)
    _, header = next(rows, (1, []))
    columns = _columns(path, header, model)
    hashes = array("q")
    for line, row in rows:
        if len(row) != len(header):
            raise _at(path, line, f"{len(row)} columns, but the first line names {len(header)}")
        draft = _draft(path, line, dict(zip(header, row)), columns)
        hashes.append(hash(draft.name))
        yield draft
    if alike(hashes):
        _refuse_twins(path)


def _refuse_twins(path: str) -> None:
    """InvalidError where two rows have one case_id. Reads the table again, since one that is right needs no names."""
    rows = rows_of(path)
    _, header = next(rows)
    lines: dict[str, int] = {}
    for line, row in rows:
        name = row[header.index("case_id")]
        if name in lines:
            raise _at(path, line, f"case_id {name!r} stands on line {lines[name]} already")
        lines[name] = line


def _at(path: str, line: int, what: str) -> InvalidError:
    return InvalidError(f"{shown(path)}, line {line}: {what}.")


def rows_of(path: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, fields) of every row that is not blank."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            first = file.readline()
            if "\0" in first:
                raise _at(path, 1, "not UTF-8 text; save the table as 'CSV UTF-8'")
            file.seek(0)
            reader = csv.reader(file, delimiter=_delimiter(first), strict=True)
            line = 1
            for row in reader:
                if any(row):
                    yield line, row
                line = reader.line_num + 1
    except OSError as error:
        raise InvalidError(f"{shown(path)}: {error.strerror}") from error
    except csv.Error as error:
        raise _at(path, line, f"not a CSV row ({error})") from error


def _delimiter(header: str) -> str:
    """The separator next to case_id: spreadsheets in many countries write semicolons."""
    plain = header.replace('"', "")
    return max(",;\t", key=lambda mark: (f"case_id{mark}" in plain, header.count(mark)))


def _columns(path: str, header: list[str], model: Contribution) -> dict[str, str]:
    """Model input -> its column; checks the header."""
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise _at(path, 1, f"column {twice[0]!r} stands there twice")
    if "case_id" not in header:
        raise _at(path, 1, f"no column case_id; found {', '.join(header) or 'nothing'}")
    columns = {}
    for key, names in input_names(model).items():
        found = [name for name in names if name in header]
        if not found:
            raise _at(path, 1, f"no column {names[0]!r}, an input of {model.name}; found {', '.join(header)}")
        columns[key] = found[0]
    return columns


def _draft(path: str, line: int, row: dict[str, str], columns: dict[str, str]) -> Draft:
    folder = os.path.dirname(path)
    if not row["case_id"].strip():
        raise _at(path, line, "no case_id")
    empty = [column for column in columns.values() if not row[column]]
    if empty:
        raise _at(path, line, f"no path in column {empty[0]!r}")
    paths = {key: os.path.normpath(os.path.join(folder, row[column])) for key, column in columns.items()}
    # The identity columns of a run's own manifest.csv are made anew, so such a table can be an input again.
    known = {*columns.values(), *RESERVED, ""}
    free = tuple((name, value) for name, value in row.items() if name not in known and value)
    return draft_of(row["case_id"], paths, free, given=True)


def read_json(path: str, model: Contribution) -> list[Draft]:
    """The cases of a ModelHub JSON: one object of inputs, or a list of them."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            loaded = json.load(file)
    except OSError as error:
        raise InvalidError(f"{shown(path)}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{shown(path)} is not valid JSON: {error}") from error
    objects = loaded if isinstance(loaded, list) else [loaded]
    stem = os.path.splitext(os.path.basename(path))[0]
    names = [f"{stem}_{i}" for i in range(1, len(objects) + 1)] if isinstance(loaded, list) else [stem]
    return [_json_draft(path, name, each, model) for name, each in zip(names, objects)]


def _json_draft(path: str, name: str, each: Any, model: Contribution) -> Draft:
    if not isinstance(each, dict):
        raise InvalidError(f"{shown(path)}: {name} is not an object of inputs but {json.dumps(each)[:60]}")
    paths = {key: _fileurl(path, name, each, names) for key, names in input_names(model).items()}
    case_id = each.get("case_id")
    if isinstance(case_id, str) and case_id:
        return draft_of(case_id, paths, given=True)
    return draft_of(name, paths)


def _fileurl(path: str, name: str, each: dict[str, Any], names: tuple[str, ...]) -> str:
    value = next((each[n] for n in names if n in each), None)
    url = value.get("fileurl") if isinstance(value, dict) else None
    if not isinstance(url, str) or not url:
        raise InvalidError(
            f'{shown(path)}: {name} needs "{names[0]}": {{"fileurl": "PATH"}} '
            f"(found: {', '.join(each) or 'nothing'})"
        )
    if url.startswith(("http://", "https://")):
        raise InvalidError(f"{shown(path)}: {name}: {url} is no file here; fetch it first and name that.")
    try:
        os.fsencode(url)
    except UnicodeEncodeError:
        raise InvalidError(f"{shown(path)}: {name}: {url!r} can't be a file name.") from None
    return os.path.normpath(os.path.join(os.path.dirname(path), url))
