"""Results as tidy tables: a row for each case, output and label; and a row for each case."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelhub_hpc.export.items import Item, LeftOut, missing, whole
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.plan import Case
from modelhub_hpc.plan.manifest import column_of
from modelhub_hpc.record import CaseResult
from modelhub_hpc.runfolder import Json, arriving, dumps, replacing
from modelhub_hpc.viewing.layers import counted
from modelhub_hpc.viewing.outlines import outline

_ROWS = 20_000  # of a group in a Parquet file, which is all that is in memory
_MOST_VALUES = 100_000  # of one output that stand in the table, a row each

Append = Callable[[Sequence[Any]], None]


class Value(NamedTuple):
    """A row of the values. value: a number, None where there is none; text: what is no number."""

    case_id: str
    output: str
    label: str
    label_name: str
    quantity: str
    value: float | None
    unit: str
    text: str = ""


@dataclass(frozen=True)
class Schema:
    """The columns of a table; numbers: those that are not text."""

    columns: tuple[str, ...]
    numbers: frozenset[str]


VALUES = Schema(Value._fields, frozenset({"value"}))


def cases_schema(keys: Sequence[str], columns: Sequence[str]) -> Schema:
    """keys: the model's inputs; columns: the user's own."""
    names = ["case_id", "name", "status", "seconds", "attempts", "error", "message", *map(column_of, keys)]
    for column in columns:
        names.append(column if column not in names else f"manifest.{column}")
    return Schema(tuple(names), frozenset({"seconds", "attempts"}))


def case_row(case: Case, name: str, result: CaseResult | None, columns: Sequence[str]) -> list[Any]:
    """A row of `cases_schema`; name: that of the case's files."""
    free = dict(case.columns)
    given = [*(path for _, path in case.inputs), *(free.get(column, "") for column in columns)]
    if result is None:
        return [case.id, name, "pending", None, None, "", "", *given]
    kind, message = (result.error.kind, result.error.message) if result.error else ("", "")
    return [case.id, name, result.status, result.seconds, result.attempts, kind, message, *given]


@contextlib.contextmanager
def csv_table(path: Path, schema: Schema) -> Iterator[Append]:
    with replacing(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(schema.columns)
        yield lambda row: writer.writerow([_cell(value) for value in row])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    # names of files keep their bytes, other half characters are escaped
    text = str(value)
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


@contextlib.contextmanager
def parquet_table(path: Path, schema: Schema) -> Iterator[Append]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise missing("pyarrow") from None
    number, text = pyarrow.float64(), pyarrow.string()
    fields = pyarrow.schema([(name, number if name in schema.numbers else text) for name in schema.columns])
    rows: list[Sequence[Any]] = []
    with arriving(path) as part, pyarrow.parquet.ParquetWriter(part, fields) as writer:

        def flush() -> None:
            columns = zip(*rows) if rows else [[] for _ in fields]
            arrays = [pyarrow.array(map(_stored, column), field.type) for column, field in zip(columns, fields)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=fields))
            rows.clear()

        def append(row: Sequence[Any]) -> None:
            rows.append(row)
            if len(rows) >= _ROWS:
                flush()

        yield append
        flush()


def _stored(value: Any) -> Any:
    """Parquet holds UTF-8 only."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def values(item: Item) -> Iterator[Value]:
    """The rows of an output; pictures have none. Raises LeftOut, after the rows that can be had."""
    rows = {
        "label_list": _probabilities,
        "vector": _elements,
        "mask_image": _amounts,
        "heatmap": _extremes,
        "contour": _contours,
        "custom": _measurements,
    }
    if item.type in rows:
        yield from rows[item.type](item)


def _row(item: Item, label: object, quantity: str, value: Any, unit: str = "", text: str = "") -> Value:
    name = item.labels.get(str(label), "") if label != "" else ""
    number = float(value) if isinstance(value, (int, float, np.number)) else None
    return Value(item.source.case.id, item.spec.name, str(label), name, quantity, number, unit, text)


def _probabilities(item: Item) -> Iterator[Value]:
    given = item.output.prediction
    rows = given[0] if isinstance(given, list) and given and isinstance(given[0], list) else given
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "label" in row for row in rows):
        raise LeftOut("it is no list of labels with probabilities")
    for row in rows:
        assert isinstance(row, dict)
        label = row["label"]
        name = label if isinstance(label, str) else dumps(label)
        yield _row(item, name, "probability", row.get("probability"), "1")


def _elements(item: Item) -> Iterator[Value]:
    array = item.array if item.output.dataset is not None else np.asarray(item.output.prediction, object)
    if array.size > _MOST_VALUES:
        raise LeftOut(f"it has {array.size:,} numbers, and a table takes {_MOST_VALUES:,} of one output")
    for place in np.ndindex(array.shape):
        value = array[place]
        number = isinstance(value, (int, float, np.integer, np.floating, np.bool_))
        text = "" if number or value is None else str(value)
        yield _row(item, ",".join(map(str, place)), "element", float(value) if number else None, "", text)


def _amounts(item: Item) -> Iterator[Value]:
    """Voxels per label, those of declared labels that are not there too, and what room they take."""
    found = counted(whole(item.array))
    declared = sorted({int(key) for key in item.labels if key.isdecimal()} - {0})
    labels = [*declared, *(label for label in sorted(found) if label not in declared)]
    for label in labels:
        yield _row(item, label, "voxels", found.get(label, 0), "1")
    try:
        geometry = item.volume.geometry
    except LeftOut as reason:
        raise LeftOut(f"its voxels are counted, and nobody knows their size: {reason}") from None
    if geometry is not None:
        quantity, each, unit = _room(geometry)
        for label in labels:
            yield _row(item, label, quantity, found.get(label, 0) * each, unit)


def _room(geometry: Geometry) -> tuple[str, float, str]:
    """What a voxel takes: (quantity, how much, unit)."""
    x, y, z = geometry.spacing
    axes = np.reshape(geometry.direction, (3, 3))
    if geometry.size[2] == 1:  # whose thickness is often made up
        return "area", x * y * float(np.linalg.norm(np.cross(axes[:, 0], axes[:, 1]))), "mm2"
    return "volume", x * y * z * abs(float(np.linalg.det(axes))) / 1000, "mL"


def _extremes(item: Item) -> Iterator[Value]:
    array = item.array
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if array.dtype.kind not in "biuf" or not finite.size:
        raise LeftOut("it has no finite values")
    yield _row(item, "", "minimum", finite.min())
    yield _row(item, "", "mean", finite.mean(dtype=np.float64))
    yield _row(item, "", "maximum", finite.max())
    if finite.size < array.size:
        yield _row(item, "", "not finite", array.size - finite.size, "1")


def _contours(item: Item) -> Iterator[Value]:
    given = item.array.tolist() if item.output.dataset is not None else item.output.prediction
    found = outline(item.spec.name, given)
    if found is None and given != []:
        raise LeftOut("it is no list of contours [[x, y], ...]")
    yield _row(item, "", "contours", len(found.lines) if found else 0, "1")


def _measurements(item: Item) -> Iterator[Value]:
    """Whatever JSON it is, a row for each number and text; label: the way to it."""
    if item.output.dataset is not None:
        yield from _elements(item)
        return
    for count, (path, value) in enumerate(_leaves(item.output.prediction, "")):
        if count >= _MOST_VALUES:
            raise LeftOut(f"it has more than {_MOST_VALUES:,} values, of which these are the first")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = "" if number or value is None else value if isinstance(value, str) else dumps(value)
        yield _row(item, path, "value", value if number else None, "", text)


def _leaves(value: Json, path: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{place}" if path else str(place))
    else:
        yield path, value
