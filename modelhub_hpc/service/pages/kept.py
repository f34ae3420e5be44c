"""Results of "try it", kept for a while: pages show them slice by slice, and offer them as files.

    <folder>/<key>/  kept.json  inputs/  arrays.h5
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from modelhub_hpc.processes import remove_tree
from modelhub_hpc.record import ArrayOutput, CaseResult
from modelhub_hpc.record.hdf5 import ArrayStore, AttributeValue, read_array, read_attributes
from modelhub_hpc.runfolder import dumps
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.sessions import Answer

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


@dataclass(frozen=True, eq=False)
class Kept:
    """A result, which is only the same as itself. created: seconds since 1970."""

    folder: Path
    model: str
    given: tuple[Given, ...]
    created: float
    result: CaseResult

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        return ", ".join(each.name for each in self.given)

    @cached_property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """By the name of the output."""
        return {name: read_array(self.folder / ARRAYS, place) for name, place in self._places}

    def attributes(self, name: str) -> dict[str, AttributeValue]:
        """What is known of an output's array: axes, spacing, origin ..."""
        return read_attributes(self.folder / ARRAYS, dict(self._places)[name])

    @property
    def _places(self) -> Sequence[tuple[str, str]]:
        return [(o.name, o.dataset.partition(":")[2]) for o in self.result.outputs if o.dataset]


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
            result = _with_arrays(answer.result, _stored(answer.arrays, work / ARRAYS))
            inputs = [_moved(each, work, folder) for each in given]
            facts = {"model": model, "created": time.time(), "inputs": inputs, "result": result.to_json()}
            (work / "kept.json").write_text(dumps(facts))
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
        if not _KEY.fullmatch(key) or not (self._folder / key).is_dir():
            raise Refused(404, "This result is not here any more: results are kept for an hour. Try the model again.")
        kept = _read(self._folder / key)
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


def _with_arrays(result: CaseResult, places: Mapping[str, str]) -> CaseResult:
    """The result, saying where its arrays are."""
    outputs = (
        replace(output, dataset=f"{ARRAYS}:{places[output.name]}") if output.name in places else output
        for output in result.outputs
    )
    return replace(result, outputs=tuple(outputs))


def _moved(each: Given, work: Path, folder: Path) -> dict[str, Any]:
    place = each.path
    if not each.sample:
        target = f"{each.key if each.key.isalnum() else 'input'}-{secrets.token_hex(4)}{''.join(each.path.suffixes)}"
        shutil.move(each.path, work / "inputs" / target)
        place = folder / "inputs" / target
    return {"key": each.key, "name": each.name, "path": str(place), "sample": each.sample}


def _read(folder: Path) -> Kept:
    facts = json.loads((folder / "kept.json").read_bytes())
    given = tuple(Given(each["key"], each["name"], Path(each["path"]), each["sample"]) for each in facts["inputs"])
    result = CaseResult.from_json(facts["result"].encode())
    return Kept(folder, facts["model"], given, facts["created"], result)
