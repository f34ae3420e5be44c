"""Results of "try it", kept for a while: pages show them slice by slice, and offer them as files.

    <folder>/<key>/  kept.json  inputs/  arrays.h5
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from modelhub_hpc import strictjson
from modelhub_hpc.processes import remove_tree
from modelhub_hpc.record import ArrayOutput, Output
from modelhub_hpc.record.hdf5 import ArrayStore, AttributeValue, read_array, read_attributes
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.oncall import Answer

MOST = 32
KEEP_S = 3600.0
ARRAYS = "arrays.h5"
_GROUP = "result"  # of the arrays in their file
_KEY = re.compile(r"[A-Za-z0-9_-]{22}")
_RECENT = 3  # results whose volumes stay in memory


@dataclass(frozen=True)
class Given:
    """An input as it came: its key, the name that it had, and where it lies. sample: a file of the model's own."""

    key: str
    name: str
    path: Path
    sample: bool


@dataclass(frozen=True)
class Said:
    """An output of the model: a JSON value, or where its array is in the result's file."""

    name: str
    type: str
    description: str
    shape: tuple[int, ...]
    prediction: Any
    dataset: str | None


@dataclass(frozen=True, eq=False)
class Kept:
    """A result, which is only the same as itself. created: seconds since 1970; seconds: time in the model."""

    folder: Path
    model: str
    given: tuple[Given, ...]
    created: float
    seconds: float
    notes: tuple[str, ...]
    outputs: tuple[Said, ...]

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        return ", ".join(each.name for each in self.given)

    @cached_property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """By the name of the output."""
        return {each.name: read_array(self.folder / ARRAYS, each.dataset) for each in self.outputs if each.dataset}

    def attributes(self, name: str) -> dict[str, AttributeValue]:
        """What is known of an output's array: axes, spacing, origin ..."""
        places = {each.name: each.dataset for each in self.outputs if each.dataset}
        return read_attributes(self.folder / ARRAYS, places[name])


class Results:
    """The results of one server, of which the oldest go. Any number of threads may ask."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._recent: dict[str, Kept] = {}

    def keep(self, model: str, given: Sequence[Given], answer: Answer) -> str:
        """Keep an answer and the inputs that it is of, which are moved here; returns its key."""
        self._sweep()
        folder = self._folder / secrets.token_urlsafe(16)
        work = folder.with_name(f".{folder.name}")
        (work / "inputs").mkdir(parents=True, mode=0o700)
        try:
            places = _stored(answer.arrays, work / ARRAYS)
            facts = {
                "model": model,
                "created": time.time(),
                "given": [_moved(each, work, folder) for each in given],
                "seconds": answer.result.seconds,
                "notes": answer.result.notes,
                "outputs": [asdict(_said(output, places.get(output.name))) for output in answer.result.outputs],
            }
            (work / "kept.json").write_text(strictjson.dumps(facts))
            work.rename(folder)
        except BaseException:
            remove_tree(work)
            raise
        return folder.name

    def find(self, key: str) -> Kept:
        """Refused (404) for what is not here any more."""
        with self._lock:
            if key in self._recent:
                return self._recent[key]
        try:
            kept = _read(self._folder / (key if _KEY.fullmatch(key) else "none"))
        except FileNotFoundError:
            gone = "This result is not here any more: results are kept for an hour. Try the model again."
            raise Refused(404, gone) from None
        with self._lock:
            kept = self._recent.setdefault(key, kept)
            while len(self._recent) > _RECENT:
                self._recent.pop(next(iter(self._recent)))
        return kept

    def _sweep(self) -> None:
        """Make room for one more."""
        kept = sorted(self._folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for number, path in enumerate(kept):
            total += sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
            old = time.time() - path.stat().st_mtime > KEEP_S
            if old or number + 1 >= MOST or total > self._most_bytes:
                remove_tree(path)
                with self._lock:
                    self._recent.pop(path.name, None)


def _stored(arrays: Mapping[str, ArrayOutput], path: Path) -> dict[str, str]:
    """Where each array lies now, by the name of its output."""
    if not arrays:
        return {}
    store = ArrayStore(path)
    try:
        places = {name: store.add(_GROUP, name, output) for name, output in arrays.items()}
        store.finish()
    except BaseException:
        store.discard()
        raise
    return places


def _said(output: Output, dataset: str | None) -> Said:
    prediction = None if dataset else output.prediction
    return Said(output.name, output.type, output.description, output.shape, prediction, dataset)


def _moved(each: Given, work: Path, folder: Path) -> dict[str, Any]:
    place = each.path
    if not each.sample:
        target = f"{each.key if each.key.isalnum() else 'input'}-{secrets.token_hex(4)}{''.join(each.path.suffixes)}"
        shutil.move(each.path, work / "inputs" / target)
        place = folder / "inputs" / target
    return {"key": each.key, "name": each.name, "path": str(place), "sample": each.sample}


def _read(folder: Path) -> Kept:
    facts = strictjson.loads((folder / "kept.json").read_bytes())
    given = tuple(Given(**{**each, "path": Path(each["path"])}) for each in facts.pop("given"))
    outputs = tuple(Said(**{**each, "shape": tuple(each["shape"])}) for each in facts.pop("outputs"))
    return Kept(folder, given=given, outputs=outputs, notes=tuple(facts.pop("notes")), **facts)
