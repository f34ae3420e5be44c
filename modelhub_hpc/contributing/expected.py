"""What a model is expected to give for its samples: contrib_src/sample_data/expected/<sample>.json, arrays beside it.

    {"tolerance": {"absolute": 1e-05, "relative": 0.0001},
     "outputs": [{"name": "...", "type": "label_list", "prediction": [...]},
                 {"name": "...", "type": "mask_image", "file": "<sample>.1.npy"}]}
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelhub_hpc.contributing.seen import Array, Seen
from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.model_output import open_array
from modelhub_hpc.runfolder import PART, dumps, replacing, storage

_HINT = "Write them anew:  mh-hpc test DIR --update-expected"


@dataclass(frozen=True)
class Tolerance:
    """By how much a number b may be a instead: absolute + relative * |b|."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, a: float, b: float) -> bool:
        both_lost = math.isnan(a) and math.isnan(b)
        return a == b or both_lost or abs(a - b) <= self.absolute + self.relative * abs(b)


EXACT = Tolerance()
# what other processors and libraries make of the same arithmetic, in single precision
USUAL = Tolerance(absolute=1e-5, relative=1e-4)


@dataclass(frozen=True)
class Expected:
    tolerance: Tolerance
    outputs: tuple[Seen, ...]


def folder(contrib_src: Path) -> Path:
    return contrib_src / "sample_data" / "expected"


def read(contrib_src: Path, sample: str) -> Expected | None:
    """What is expected for a sample; None where nobody said. Raises InvalidError."""
    path = folder(contrib_src) / f"{sample}.json"
    try:
        given = json.loads(path.read_bytes())
        tolerance = Tolerance(**{name: float(number) for name, number in given.get("tolerance", {}).items()})
        outputs = tuple(_read(path.parent, each) for each in given["outputs"])
        return Expected(tolerance, outputs)
    except FileNotFoundError as reason:
        if not path.exists():
            return None
        raise InvalidError(f"{shown(path)} names a file that is not there: {shown(reason.filename)}. {_HINT}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as reason:
        raise InvalidError(f"{shown(path)} cannot be used: {reason!r}. {_HINT}") from reason


def _read(place: Path, given: dict[str, Any]) -> Seen:
    if "file" not in given:
        return Seen(str(given["name"]), str(given["type"]), given["prediction"], ())
    array = open_array(place, given["file"]).array
    return Seen(str(given["name"]), str(given["type"]), array, array.shape)


def write(contrib_src: Path, sample: str, outputs: Sequence[Seen]) -> list[Path]:
    """Make these outputs the expected ones, with the tolerance of before; the files. Raises as `storage` does."""
    place = folder(contrib_src)
    before = _tolerance(place / f"{sample}.json")
    written, told = [], []
    with storage(place):
        place.mkdir(exist_ok=True)
        for number, each in enumerate(outputs):
            fact: dict[str, Any] = {"name": each.name, "type": each.type}
            if each.is_array:
                file = place / f"{sample}.{number}.npy"
                _save(file, each.value)
                written.append(file)
                told.append({**fact, "file": file.name})
            else:
                told.append({**fact, "prediction": each.value})
        path = place / f"{sample}.json"
        with replacing(path) as text:
            text.write(dumps({"tolerance": vars(before), "outputs": told}, indent=2) + "\n")
    return [path, *written]


def _save(path: Path, array: Array) -> None:
    part = path.with_name(f".{path.name}{PART}")
    with open(part, "wb") as stream:
        np.save(stream, array, allow_pickle=False)
    os.replace(part, path)


def _tolerance(path: Path) -> Tolerance:
    try:
        return Tolerance(**json.loads(path.read_bytes())["tolerance"])
    except (OSError, ValueError, KeyError, TypeError):
        return USUAL


def differences(found: Sequence[Seen], wanted: Sequence[Seen], tolerance: Tolerance) -> Iterator[str]:
    """In what outputs differ from others by more than the tolerance, in words."""
    names = [each.name for each in found], [each.name for each in wanted]
    if names[0] != names[1]:
        yield f"the outputs are {', '.join(names[0])} instead of {', '.join(names[1])}"
        return
    for one, other in zip(found, wanted):
        difference = _between(one, other, tolerance)
        if difference:
            yield f"the output '{one.name}' {difference}"


def _between(found: Seen, wanted: Seen, tolerance: Tolerance) -> str:
    if found.type != wanted.type:
        return f"is a {found.type} instead of a {wanted.type}"
    if found.is_array != wanted.is_array:
        return f"is {found} instead of {wanted}"
    if found.is_array:
        return _between_arrays(found.value, wanted.value, tolerance)
    return next(_between_values(found.value, wanted.value, tolerance, ""), "")


def _between_arrays(found: Array, wanted: Array, tolerance: Tolerance) -> str:
    if found.shape != wanted.shape:
        return f"has the shape {list(found.shape)} instead of {list(wanted.shape)}"
    if found.dtype != wanted.dtype:
        return f"is of type {found.dtype} instead of {wanted.dtype}"
    if found.tobytes() == wanted.tobytes():
        return ""
    if found.dtype.kind not in "biufc":
        return "differs"
    a, b = (each.astype(complex if each.dtype.kind == "c" else float) for each in (found, wanted))
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.abs(a - b)
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (away <= tolerance.absolute + tolerance.relative * np.abs(b))
    if bool(same.all()):
        return ""
    worst = np.unravel_index(np.argmax(np.where(same, -1.0, np.nan_to_num(away, nan=np.inf))), a.shape)
    place = [int(index) for index in worst]
    return (
        f"differs in {int((~same).sum()):,} of {same.size:,} values, "
        f"most at {place}: {found[worst]} instead of {wanted[worst]}"
    )


def _between_values(found: Any, wanted: Any, tolerance: Tolerance, place: str) -> Iterator[str]:
    """In what two JSON values differ; place: where in them, for people."""
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (found, wanted))
    if numbers:
        if not tolerance.allows(found, wanted):
            yield f"is {found!r} instead of {wanted!r}{place}"
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (one, other) in enumerate(zip(found, wanted)):
            yield from _between_values(one, other, tolerance, f"{place}[{number}]" if place else f" at [{number}]")
    elif isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        for key in found:
            deeper = f"{place}.{key}" if place else f" at {key}"
            yield from _between_values(found[key], wanted[key], tolerance, deeper)
    elif found != wanted or isinstance(found, bool) != isinstance(wanted, bool):
        yield f"is {_short(found)} instead of {_short(wanted)}{place}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
