"""Runs compared with each other, case by case: tables, consensus masks, and where models disagree."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.evaluation import consensus
from modelhub_hpc.evaluation.agreement import Agreement, Labels, Masks, Pair, Record, Vectors, pairs_of
from modelhub_hpc.evaluation.contestants import Contestant, is_mask, place_of
from modelhub_hpc.evaluation.labelmaps import LabelMap, Renamed, Structures, structures
from modelhub_hpc.evaluation.tables import Cell, Table, write_csv
from modelhub_hpc.evaluation.together import Cases, Together, Unusable
from modelhub_hpc.plan import safe_name
from modelhub_hpc.runfolder import arriving, drop, replace_json, storage
from modelhub_hpc.runs.reading import Reading
from modelhub_hpc.viewing.exports import write_nifti

_LONGEST = 120  # characters of a case in the name of a file


@dataclass(frozen=True)
class LeftOut:
    """A case that could not be compared. model: whose fault it is; of two, both names."""

    case: str
    model: str
    why: str


@dataclass
class Compared:
    """What came out. cases: of which at least two models could be compared; written: files of consensus, by kind."""

    kind: str
    cases: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    written: collections.Counter[str] = field(default_factory=collections.Counter)
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


KINDS: Mapping[str, tuple[str, Callable[[OutputSpec], bool]]] = {
    "masks": ("a mask", is_mask),
    "labels": ("a label list", lambda output: output.type == "label_list"),
    "vectors": ("a vector", lambda output: output.type == "vector"),
}


def kind_of(runs: Sequence[Reading], wanted: Sequence[str]) -> str:
    """What all models give, of the outputs that are named, if any are; UsageError where that is nothing or several."""
    models = [each.request.model for each in runs]
    named = [[out for out in model.outputs if not wanted or out.name in wanted] for model in models]
    found = [kind for kind, (_, suits) in KINDS.items() if all(any(map(suits, outputs)) for outputs in named)]
    if len(found) == 1:
        return found[0]
    there = [f"{each.name}: {', '.join(f'{out.name} ({out.type})' for out in each.outputs)}" for each in models]
    what = f"have {' and '.join(found)} in common" if found else "give nothing of one kind that can be compared"
    listed = "\n".join(map(shown, there))
    raise UsageError(f"The models {what}. Say which outputs with --output NAME, once for each name:\n{listed}")


def places(runs: Sequence[Reading], kind: str, wanted: Sequence[str]) -> list[int]:
    """Of the output to compare, among those of each model. Raises UsageError."""
    words, suits = KINDS[kind]
    return [place_of(each.request.model, wanted, suits, words) for each in runs]


@dataclass(frozen=True)
class Comparison:
    """by: the column that names cases, None for their ids. methods: of consensus, with a folder."""

    contestants: Sequence[Contestant]
    kind: str
    renamed: Renamed
    by: str | None
    folder: Path | None
    methods: Sequence[str]

    def run(self, progress: Callable[[int], None], cases: Cases) -> Compared:
        """Compare all cases, one of which is in memory at a time, and write what there is to be written.

        progress: is told how many cases are compared. Raises InvalidError where no case can be.
        """
        meaning = structures(self.contestants, self.renamed) if self.kind == "masks" else None
        agreement, panel = self._agreement(meaning), self._panel(meaning)
        out = Compared(self.kind)
        rows = self._rows(agreement, panel, cases, out, progress)
        if self.folder is None:
            collections.deque(rows, maxlen=0)
        else:
            with storage(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_csv(self.folder / "cases.csv", rows)
        if not out.cases:
            if self.folder is not None:
                drop(self.folder / "cases.csv")
            told = "; ".join(f"{shown(each.case)}, {each.model}: {shown(each.why)}" for each in out.left_out[:3])
            raise InvalidError(f"No case can be compared. {told}.")
        out.tables = self._tables(agreement)
        out.notes = (*agreement.notes(), *(panel.notes(out) if panel else ()))
        if self.folder is not None:
            self._write(self.folder, out, panel)
        return out

    def _agreement(self, meaning: Structures | None) -> Agreement[Any]:
        if meaning is not None:
            return Masks(self.contestants, meaning)
        return Labels(self.contestants, self.renamed) if self.kind == "labels" else Vectors(self.contestants)

    def _panel(self, meaning: Structures | None) -> Panel | None:
        if meaning is None or self.folder is None:
            return None
        shared = meaning.shared(range(len(self.contestants)))
        if not shared and self.methods:
            raise UsageError("There is no consensus of masks that have no structure in common: --consensus none")
        return Panel(self.folder, self.methods, meaning, shared) if shared else None

    def _rows(
        self,
        agreement: Agreement[Any],
        panel: Panel | None,
        cases: Cases,
        out: Compared,
        progress: Callable[[int], None],
    ) -> Iterator[Record]:
        for done, case in enumerate(cases):
            progress(done)
            given = [self._read(agreement, place, case, out) for place in range(len(self.contestants))]
            pairs = list(self._pairs(agreement, case.key, given, out))
            out.cases += bool(pairs)
            if pairs:
                yield from agreement.add(case.key, given, pairs)
            fitting = [each for each in given if each is not None]
            if panel is not None and len(pairs) == len(pairs_of(len(given))):
                out.written.update(panel.write(case.key, fitting))

    def _read(self, agreement: Agreement[Any], place: int, case: Together, out: Compared) -> Any | None:
        result, contestant = case.results[place], self.contestants[place]
        try:
            if isinstance(result, Unusable):
                raise result
            output = contestant.given(result)
            if output is None:
                raise Unusable("it gave fewer outputs than it declares")
            return agreement.read(place, output)
        except Unusable as problem:
            out.left_out.append(LeftOut(case.key, contestant.name, str(problem)))
            return None

    def _pairs(
        self, agreement: Agreement[Any], key: str, given: Sequence[Any | None], out: Compared
    ) -> Iterator[Pair]:
        for i, j in pairs_of(len(given)):
            if given[i] is None or given[j] is None:
                continue
            why = agreement.why_not(given[i], given[j])
            if why:
                both = f"{self.contestants[i].name} and {self.contestants[j].name}"
                out.left_out.append(LeftOut(key, both, why))
            else:
                yield i, j

    def _tables(self, agreement: Agreement[Any]) -> tuple[Table, ...]:
        names, pairs = [each.name for each in self.contestants], pairs_of(len(self.contestants))
        records = [
            {"first": names[i], "second": names[j], **found} for i, j in pairs for found in agreement.records((i, j))
        ]
        scores = {pair: agreement.score(pair) for pair in pairs}
        by_name: list[Record] = [
            {"model": one, **{other: _score(scores, i, j) for j, other in enumerate(names)}}
            for i, one in enumerate(names)
        ]
        words = 3 if self.kind == "masks" else 2
        return (
            Table("agreement", f"Agreement of {len(names)} runs", *_readable(records), records, words=words),
            Table("matrix", f"{agreement.measure[0].upper()}{agreement.measure[1:]}", *_readable(by_name), by_name),
        )

    def _write(self, folder: Path, out: Compared, panel: Panel | None) -> None:
        for table in out.tables:
            table.write(folder)
        for name in ("left_out.csv", "labels.json"):
            drop(folder / name)  # which an earlier comparison may have left
        if out.left_out:
            write_csv(folder / "left_out.csv", (dict(vars(each)) for each in out.left_out))
        if panel is not None:
            replace_json(folder / "labels.json", panel.labels())


class Panel:
    """Masks of all models together, of the structures that all of them have, in the numbers of the first model."""

    def __init__(self, folder: Path, methods: Sequence[str], meaning: Structures, shared: Sequence[int]) -> None:
        self._folder, self._methods, self._meaning, self._shared = folder, methods, meaning, shared
        self._numbers = np.array([0, *(meaning.own(0, structure) for structure in shared)])
        self._table = np.zeros(len(meaning.names) + 1, np.min_scalar_type(len(shared)))
        self._table[list(shared)] = range(1, len(shared) + 1)
        self._taken: dict[str, int] = {}
        self._placeless = 0

    def write(self, key: str, given: Sequence[LabelMap]) -> Iterator[str]:
        """Of a case the files; yields the kind of each."""
        masks = [self._table[each.voxels] for each in given]
        stem, place = self._stem(key), given[0].geometry
        self._placeless += place is None
        for method in self._methods:
            found = self._numbers.astype(np.min_scalar_type(self._numbers.max()))[consensus.METHODS[method](masks)]
            self._save(method, stem, found, place)
            yield method
        self._save("disagreement", stem, consensus.deviating(masks, len(self._shared)), place)
        yield "disagreement"

    def labels(self) -> dict[str, str]:
        """What the numbers in the files of a consensus mean."""
        names = (self._meaning.names[structure - 1] for structure in self._shared)
        return {"0": "background", **dict(zip(map(str, self._numbers[1:].tolist()), names))}

    def notes(self, out: Compared) -> Iterator[str]:
        told = ", ".join(f"{number} {name}" for number, name in self.labels().items())
        yield f"Labels of consensus masks: {told}. Voxels without a single most frequent label are background."
        yield "A disagreement map counts the models that have another label than most."
        missing = out.cases - out.written["disagreement"]
        if missing:
            yield f"No consensus of {missing:,} of the cases: not all runs have a mask of them that fits the others."
        if self._placeless:
            yield f"The inputs of {self._placeless:,} cases say nothing of space: their files have voxels of 1 mm."

    def _stem(self, key: str) -> str:
        """A name for files that no other case has, on file systems that know no case either."""
        plain = safe_name(key, _LONGEST)
        number = self._taken[plain.casefold()] = self._taken.get(plain.casefold(), 0) + 1
        return plain if number == 1 else f"{plain}-{number}"

    def _save(self, kind: str, stem: str, voxels: npt.NDArray[Any], place: Any) -> None:
        folder = self._folder / kind
        with storage(folder):
            folder.mkdir(exist_ok=True)
        with arriving(folder / f"{stem}_{kind}.nii.gz") as part, open(part, "xb") as stream:
            write_nifti(stream, voxels, place)


def _score(scores: Mapping[Pair, float | None], i: int, j: int) -> float | None:
    return 1.0 if i == j else scores[min(i, j), max(i, j)]


def _readable(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    header = list(records[0]) if records else []
    return [name.replace("_", " ") for name in header], [[_cell(each[name]) for name in header] for each in records]


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value
