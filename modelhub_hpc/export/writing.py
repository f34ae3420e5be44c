"""An export: case after case from the shards into files, so that a large run needs no more memory than a small one."""

from __future__ import annotations

import contextlib
import csv
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from modelhub_hpc import __version__, owner, strictjson
from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.export.contours import contours
from modelhub_hpc.export.dicoms import segmentation
from modelhub_hpc.export.images import nifti, picture
from modelhub_hpc.export.items import Item, LeftOut, Source
from modelhub_hpc.export.layouts import LAYOUTS, Layout, place
from modelhub_hpc.export.names import Names, distinct
from modelhub_hpc.export.tables import (
    VALUES,
    Append,
    case_row,
    cases_schema,
    csv_table,
    parquet_table,
    values,
)
from modelhub_hpc.plan import Case
from modelhub_hpc.record import CaseResult
from modelhub_hpc.record.export import copy_arrays
from modelhub_hpc.runfolder import PART, Json, arriving, drop, privately, read_json, replace_json, replacing, storage
from modelhub_hpc.runs.reading import Reading, result_facts

_IMAGES = frozenset({"mask_image", "heatmap", "image"})
# formats of one output each, and the types of outputs that they are for
OF_OUTPUTS: Mapping[str, frozenset[str]] = {
    "nifti": _IMAGES,
    "dicom-seg": frozenset({"mask_image"}),
    "png": _IMAGES | {"contour"},
    "contours": frozenset({"mask_image", "contour"}),
}
FORMATS = (*OF_OUTPUTS, "csv", "parquet", "h5", "json")
_TABLES = {"csv": csv_table, "parquet": parquet_table}
_STATE = "export.json"
_LEFT_OUT = "left_out.csv"
_MOST_REASONS = 100  # in the summary; the table has all
_BEAT_S = 10.0


@dataclass(frozen=True)
class Wanted:
    """What to export. cases, outputs: ids and names, all where empty. again: write also what is there already."""

    formats: tuple[str, ...]
    layout: str = "plain"
    cases: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    again: bool = False


@dataclass
class Summary:
    """Counts of cases, and of files by format.

    cases: those that were asked for, so far; done, failed and pending: how these stand in the run; written, kept: files
    that were made now, and those that were there; left_out: (format, output, reason) -> cases; empty: the same of
    outputs with nothing in them.
    """

    cases: int = 0
    done: int = 0
    failed: int = 0
    written: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    left_out: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    empty: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def pending(self) -> int:
        return self.cases - self.done - self.failed

    def took(self, result: CaseResult | None) -> None:
        self.cases += 1
        self.done += result is not None and result.error is None
        self.failed += result is not None and result.error is not None

    def leave_out(self, kind: str, output: str, reason: LeftOut) -> None:
        counted = self.empty if reason.empty else self.left_out
        key = (kind, output, str(reason))
        if key not in counted and len(counted) >= _MOST_REASONS:
            key = (kind, output, f"other reasons, which {_LEFT_OUT} has")
        counted[key] += 1

    @property
    def barren(self) -> tuple[str, ...]:
        """Formats for which every output was refused, so that there is no file."""
        refused = {kind for kind, _, _ in self.left_out if kind in OF_OUTPUTS}
        return tuple(sorted(kind for kind in refused if not self.written[kind] + self.kept[kind]))

    def to_json(self) -> dict[str, Json]:
        files = sorted({*self.written, *self.kept})
        return {
            "cases": {"asked": self.cases, "done": self.done, "failed": self.failed, "pending": self.pending},
            "files": {kind: {"written": self.written[kind], "kept": self.kept[kind]} for kind in files},
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "left_out": _listed(self.left_out),
            "empty": _listed(self.empty),
        }


def _listed(reasons: Counter[tuple[str, str, str]]) -> list[Json]:
    return [
        {"format": kind, "output": output, "reason": reason, "cases": count}
        for (kind, output, reason), count in reasons.most_common()
    ]


Observer = Callable[[Summary], None]


def export(run: Reading, folder: Path, wanted: Wanted, observe: Observer = lambda summary: None) -> Summary:
    """Write what is wanted of a run into a folder, which becomes an export of that run, or goes on being it.

    What is there and newer than its result is kept; tables are made anew. Only whole files appear. Raises UsageError
    for cases, outputs and folders that are none of this run's, InvalidError for formats that this model has nothing
    for, TryAgainError where the storage fails, shards are damaged or another export works there.
    """
    specs = _chosen(run, wanted)
    _demand_cases(run, wanted.cases)
    with privately(run.request.site.group_readable):
        private = _claim(run, folder, wanted)
        mine = owner.acquire(private, f"The export {shown(folder)}", _BEAT_S)
        with owner.beating(mine, _BEAT_S):
            _sweep(folder)
            summary = _Export(run, folder, wanted, specs).write(observe)
            replace_json(folder / _STATE, {**_identity(run, wanted), "summary": summary.to_json()})
    return summary


def _chosen(run: Reading, wanted: Wanted) -> Mapping[int, str]:
    """The outputs that are wanted: their places among the model's, with names for files."""
    outputs = run.request.model.outputs
    unknown = wanted.outputs - {output.name for output in outputs}
    if unknown:
        known = ", ".join(sorted(output.name for output in outputs))
        raise UsageError(f"The model has no output {shown(sorted(unknown)[0])}. It has: {shown(known)}.")
    names = distinct(output.name for output in outputs)
    chosen = {i: names[i] for i, each in enumerate(outputs) if not wanted.outputs or each.name in wanted.outputs}
    for kind in wanted.formats:
        types = {outputs[i].type for i in chosen}
        if kind in OF_OUTPUTS and not types & OF_OUTPUTS[kind]:
            fitting, found = ", ".join(sorted(OF_OUTPUTS[kind])), ", ".join(sorted(types))
            raise InvalidError(f"There is nothing for {kind}: it is for {fitting}, and the outputs are {found}.")
    return chosen


def _demand_cases(run: Reading, wanted: frozenset[str]) -> None:
    unknown = set(wanted)
    if unknown:
        for case in run.manifest.stream():
            unknown.discard(case.id)
    if unknown:
        raise UsageError(f"The run has no case {shown(sorted(unknown)[0])}. `mh-hpc results` lists them.")


def _identity(run: Reading, wanted: Wanted) -> dict[str, Json]:
    request = run.request
    return {
        "format": 1,
        "run_id": request.run_id,
        "run": shown(run.paths.root),
        "model": {"name": request.model.name, "version": request.model.version},
        "software": f"modelhub-hpc {__version__}",
        "layout": wanted.layout,
        "formats": list(wanted.formats),
    }


def _claim(run: Reading, folder: Path, wanted: Wanted) -> Path:
    """Make the folder an export of this run, if it is not; where its owners are recorded."""
    with storage(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"--to {shown(folder)}: a file is in the way.") from None
        there = read_json(folder / _STATE)
        if not there and any(each.name != ".mh-hpc" and not each.name.endswith(PART) for each in folder.iterdir()):
            raise UsageError(f"{shown(folder)} is not empty and not an export. Name another folder with --to.")
        if there and (there.get("run_id"), there.get("layout")) != (run.request.run_id, wanted.layout):
            raise UsageError(f"""
                {shown(folder)} is an export of run {shown(there.get("run_id"))}, layout {shown(there.get("layout"))},
                not of run {run.request.run_id}, layout {wanted.layout}. Name another folder with --to.""")
        private = folder / ".mh-hpc"
        private.mkdir(mode=0o700, exist_ok=True)
        if not there:
            replace_json(folder / _STATE, _identity(run, wanted))
    return private


def _sweep(folder: Path) -> None:
    """Remove what an export that was killed had begun to write."""
    for path in folder.rglob(f".*{PART}"):
        drop(path)


class _Export:
    """One export; the folder is this process's own."""

    def __init__(self, run: Reading, folder: Path, wanted: Wanted, outputs: Mapping[int, str]) -> None:
        self._run = run
        self._folder = folder
        self._wanted = wanted
        self._outputs = outputs
        self._layout: Layout = LAYOUTS[wanted.layout]()
        self._summary = Summary()
        self._formats = [kind for kind in OF_OUTPUTS if kind in wanted.formats]
        self._common: list[tuple[str, Path]] = []

    @cached_property
    def _names(self) -> Names:
        return Names(self._run.manifest.stream(), self._layout.candidates)

    def write(self, observe: Observer) -> Summary:
        began = time.monotonic()
        self._layout.begin(self._run, self._folder, self._wanted.formats)
        with contextlib.ExitStack() as stack:
            self._open(stack)
            for case, result in self._run.joined():
                if self._wanted.cases and case.id not in self._wanted.cases:
                    continue
                self._summary.took(result)
                self._case(case, result)
                self._summary.seconds = time.monotonic() - began
                observe(self._summary)
        for kind, path in self._common:
            self._wrote(kind, path)
        if not (self._summary.left_out or self._summary.empty):
            drop(self._folder / _LEFT_OUT)
        return self._summary

    def _open(self, stack: contextlib.ExitStack) -> None:
        """The files that have something of every case."""
        manifest, tables = self._run.manifest, [kind for kind in _TABLES if kind in self._wanted.formats]
        schema = cases_schema(manifest.keys, manifest.columns)
        self._values: list[Append] = []
        self._cases: list[Append] = []
        for kind in tables:
            self._values.append(stack.enter_context(_TABLES[kind](self._of_all(kind, f"values.{kind}"), VALUES)))
            self._cases.append(stack.enter_context(_TABLES[kind](self._of_all(kind, f"cases.{kind}"), schema)))
        self._lines = None
        if "json" in self._wanted.formats:
            self._lines = stack.enter_context(replacing(self._of_all("json", "results.jsonl")))
        self._left_out = csv.writer(stack.enter_context(replacing(self._folder / _LEFT_OUT)), lineterminator="\n")
        self._left_out.writerow(("case_id", "format", "output", "reason"))

    def _of_all(self, kind: str, name: str) -> Path:
        """Where a file with something of every case will be, which counts once it is whole."""
        self._common.append((kind, self._folder / name))
        return self._folder / name

    def _case(self, case: Case, result: CaseResult | None) -> None:
        name = self._names.of(case)
        for append in self._cases:
            append(case_row(case, name, result, self._run.manifest.columns))
        if result is None:
            return
        if self._lines is not None:
            self._write_json(case, name, result)
        if result.error is None:
            items = list(self._items(case, result))
            for item in items:
                self._item(item, name, result)
            if "h5" in self._wanted.formats:
                self._write_arrays(items, name, result)

    def _items(self, case: Case, result: CaseResult) -> Iterator[Item]:
        source = Source(case)
        for place_, (spec, output) in enumerate(self._run.outputs(result)):
            if place_ in self._outputs:
                yield Item(self._run, source, spec, output, self._outputs[place_])

    def _item(self, item: Item, name: str, result: CaseResult) -> None:
        for kind in self._formats:
            if item.type in OF_OUTPUTS[kind]:
                with self._leaving_out(kind, item):
                    self._write(kind, item, name, result)
        if self._values:
            with self._leaving_out("tables", item):
                for value in values(item):
                    for append in self._values:
                        append(value)

    @contextlib.contextmanager
    def _leaving_out(self, kind: str, item: Item) -> Iterator[None]:
        try:
            yield
        except LeftOut as reason:
            self._summary.leave_out(kind, item.spec.name, reason)
            row = (item.source.case.id, kind, item.spec.name, str(reason))
            self._left_out.writerow([shown(cell) for cell in row])

    def _write(self, kind: str, item: Item, name: str, result: CaseResult) -> None:
        if kind == "nifti":
            target = self._layout.volume(self._folder, name, item)
        else:
            suffix = {"dicom-seg": ".dcm", "png": ".png", "contours": ".json"}[kind]
            target = place(self._folder, name, item, kind, suffix)
        if self._is_current(kind, target, result):
            return
        with storage(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if kind == "nifti":
                nifti(item, target, self._layout.sidecar(self._folder, item))
            else:
                {"dicom-seg": segmentation, "png": picture, "contours": contours}[kind](item, target)
        except LeftOut:
            self._drop_empty(target.parent)
            raise
        self._wrote(kind, target)

    def _drop_empty(self, folder: Path) -> None:
        """Remove a folder in which there is nothing after all, and those above it within the export."""
        with contextlib.suppress(OSError):
            while folder != self._folder:
                folder.rmdir()
                folder = folder.parent

    def _is_current(self, kind: str, target: Path, result: CaseResult) -> bool:
        """Whether a file is there and younger than the result; it was whole when it got its name."""
        try:
            current = not self._wanted.again and target.stat().st_mtime >= result.started
        except FileNotFoundError:
            return False
        self._summary.kept[kind] += current
        return current

    def _wrote(self, kind: str, target: Path) -> None:
        self._summary.written[kind] += 1
        self._summary.bytes += target.stat().st_size

    def _write_arrays(self, items: Sequence[Item], name: str, result: CaseResult) -> None:
        arrays = [item.output for item in items if item.output.dataset is not None]
        target = self._folder / "h5" / f"{name}.h5"
        if arrays and not self._is_current("h5", target, result):
            with storage(target.parent):
                target.parent.mkdir(exist_ok=True)
            with arriving(target) as part:
                copy_arrays(self._run.paths, arrays, part)
            self._wrote("h5", target)

    def _write_json(self, case: Case, name: str, result: CaseResult) -> None:
        assert self._lines is not None
        told = result_facts(result)
        chosen = {self._run.request.model.outputs[i].name for i in self._outputs}
        told["outputs"] = [each for each in told["outputs"] if each["name"] in chosen]
        line = strictjson.dumps({**told, "inputs": {key: shown(path) for key, path in case.inputs}}) + "\n"
        self._lines.write(line)
        target = self._folder / "json" / f"{name}.json"
        if not self._is_current("json", target, result):
            with storage(target.parent):
                target.parent.mkdir(exist_ok=True)
            with replacing(target) as text:
                text.write(line)
            self._wrote("json", target)
