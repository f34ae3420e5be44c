"""One pass over a run: what a report says is gathered in it, in memory that a few numbers per case fill."""

from __future__ import annotations

import collections
import heapq
import itertools
import multiprocessing
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from modelhub_hpc import config
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import UnfitError
from modelhub_hpc.plan import Case
from modelhub_hpc.record import CaseResult, Count, Tally
from modelhub_hpc.report import outliers
from modelhub_hpc.report.failures import Failures, Group
from modelhub_hpc.report.measures import Measured, Measures, Measuring
from modelhub_hpc.runs.reading import Reading

Joined = tuple[Case, CaseResult | None]
Batch = Sequence[Joined]
Observer = Callable[[int], None]  # told how many cases have been looked at

# what a case can be flagged for, the gravest first
FLAGS = {
    "missing": "Values that are no numbers",
    "trouble": "Not on the grid of the input",
    "apart": "Inputs on different grids",
    "empty": "Empty mask",
    "outlier": "Volume that stands out",
}
LISTED = 100  # cases of a flag
_STRUCTURES = 48  # of an output
_LABELS = 10_000  # different first labels that are counted
_LABEL_CHARS = 200
_SLOWEST = 10
_NOTES = 1000
_NOTE_CHARS = 300
_BATCH = 40  # cases that are measured at a time
_WORTH = 200  # cases from which other processes are worth their start
_PROCESSES = 4


@dataclass(frozen=True)
class Flag:
    """Why a case is worth a look."""

    row: int
    case: str
    what: str


@dataclass
class Structure:
    """What a mask marks with one label: rows of the manifest where it is there, how many voxels, and how large one is.

    sizes: mm3 of a voxel, mm2 of a pixel where flat; NaN where not known.
    """

    key: str
    rows: array[int] = field(default_factory=lambda: array("q"))
    voxels: array[float] = field(default_factory=lambda: array("d"))
    sizes: array[float] = field(default_factory=lambda: array("d"))
    flat: bool = False

    def measure(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], str]:
        """(rows, volumes in ml or areas in mm2, unit), where the size of a voxel is known; voxels if it never is."""
        rows, voxels, sizes = np.array(self.rows), np.array(self.voxels), np.array(self.sizes)
        known = np.isfinite(sizes)
        if not known.any():
            return rows, voxels, "voxels"
        volumes = (voxels * sizes)[known]
        return (rows[known], volumes, "mm²") if self.flat else (rows[known], volumes / 1000, "ml")


@dataclass
class Given:
    """One output over all cases that are done. unnamed: cases with structures beyond those that are told apart."""

    spec: OutputSpec
    cases: int = 0
    masks: int = 0
    structures: dict[str, Structure] = field(default_factory=dict)
    unnamed: int = 0
    scores: array[float] = field(default_factory=lambda: array("d"))
    tops: Counter[str] = field(default_factory=Counter)

    def take(self, row: int, found: Measures) -> None:
        self.cases += 1
        if found.score is not None:
            self.scores.append(found.score)
        top = None if found.top is None else found.top[:_LABEL_CHARS]
        if top is not None and (top in self.tops or len(self.tops) < _LABELS):
            self.tops[top] += 1
        if found.voxels is not None:
            self.masks += 1
            self._take_mask(row, found)

    def _take_mask(self, row: int, found: Measures) -> None:
        for key, voxels in (found.voxels or {}).items():
            if key not in self.structures and len(self.structures) >= _STRUCTURES:
                self.unnamed += 1
                continue
            one = self.structures.setdefault(key, Structure(key))
            one.rows.append(row)
            one.voxels.append(voxels)
            one.sizes.append(np.nan if found.size is None else found.size)
            one.flat = found.flat


@dataclass
class Survey:
    """flags: the first of each kind, by it; flagged: how many cases have one, in all. rows: a sample of those done.

    ended: when cases were, in seconds since 1970; nodes: (cases, seconds in the model) by node.
    """

    outputs: list[Given]
    tally: Tally
    failures: list[Group] = field(default_factory=list)
    flags: dict[str, list[Flag]] = field(default_factory=lambda: {kind: [] for kind in FLAGS})
    flagged: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    nodes: dict[str, tuple[int, float]] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def quarantined(self) -> int:
        return sum(group.count for group in self.failures if group.quarantined)

    def chosen(self, most: int) -> list[int]:
        """Rows to show: up to half of them flagged, each kind in turn, and a sample of all that are done."""
        turns = itertools.zip_longest(*(self.flags[kind] for kind in FLAGS))
        odd = dict.fromkeys(flag.row for turn in turns for flag in turn if flag is not None)
        first = list(odd)[: -(-most // 2)]
        others = [row for row in self.rows if row not in first]
        return first + sorted(others[: most - len(first)])


def survey(run: Reading, sample: int, observe: Observer) -> Survey:
    """Look at every case and its outputs, once. The sample is the same each time, but for a run that went on.

    Raises TryAgainError where a shard or an arrays file is damaged.
    """
    count = Count(run.request.cases)
    found = Survey([Given(spec) for spec in run.request.model.outputs], count.tally())
    for _ in count.passing(_gathered(found, run, sample, observe)):
        pass
    found.tally = count.tally()
    _flag_outliers(found, run)
    return found


def _gathered(found: Survey, run: Reading, sample: int, observe: Observer) -> Iterator[CaseResult]:
    """All results that are there, once what they say has been put down."""
    failures, chance, done = Failures(), random.Random(run.request.run_id), 0
    for looked, (case, result, measured) in enumerate(_measured(run), 1):
        observe(looked)
        if result is None:
            continue
        _time(found, case, result)
        if result.error is not None:
            failures.add(case, result)
        else:
            _take(found, case, result, measured)
            done += 1
            _sample(found.rows, result.index, chance.randrange(done), sample)
        yield result
    found.failures = failures.groups()


def _sample(rows: list[int], row: int, place: int, most: int) -> None:
    """Keep a row, or not, such that each of all that come is kept as likely. place: below their number, by chance."""
    if len(rows) < most:
        rows.append(row)
    elif place < most:
        rows[place] = row


def _time(found: Survey, case: Case, result: CaseResult) -> None:
    cases, seconds = found.nodes.get(result.host, (0, 0.0))
    found.nodes[result.host] = cases + 1, seconds + result.seconds
    found.ended.append(result.started + result.seconds)
    if result.error is None:
        found.seconds.append(result.seconds)
        keep = heapq.heappush if len(found.slowest) < _SLOWEST else heapq.heappushpop
        keep(found.slowest, (result.seconds, case.id))


def _take(found: Survey, case: Case, result: CaseResult, measured: Measured) -> None:
    found.unread += measured.unread > 0
    for note in result.notes:
        text = note[:_NOTE_CHARS]
        if text in found.notes or len(found.notes) < _NOTES:
            found.notes[text] += 1
    for given, one in zip(found.outputs, measured.outputs):
        given.take(result.index, one)
    said = list(_oddities(found.outputs, measured))
    found.flagged.update({kind for kind, _ in said})
    for kind, what in said:
        if len(found.flags[kind]) < LISTED:
            found.flags[kind].append(Flag(result.index, case.id, what))


def _oddities(outputs: Sequence[Given], measured: Measured) -> Iterator[tuple[str, str]]:
    """What a case is flagged for, by the kinds of FLAGS, and in words."""
    if measured.apart:
        yield "apart", measured.apart
    for given, one in zip(outputs, measured.outputs):
        name = given.spec.name
        if one.missing:
            yield "missing", f"{name}: {one.missing:,} of them"
        if one.trouble:
            yield "trouble", f"{name}: {one.trouble}"
        if one.voxels is not None and not one.voxels:
            yield "empty", f"{name} marks nothing"


def _flag_outliers(found: Survey, run: Reading) -> None:
    """The farthest first."""
    far: list[tuple[float, int, str]] = []
    for given in found.outputs:
        for structure in given.structures.values():
            rows, volumes, unit = structure.measure()
            z, middle = outliers.robust_z(volumes), float(np.median(volumes)) if len(volumes) else 0.0
            name = named(given.spec, structure.key)
            for i in np.flatnonzero(np.abs(z) > outliers.LIMIT):
                told = f"{name}: {volumes[i]:,.3g} {unit}, the median is {middle:,.3g} {unit} (z = {z[i]:+.1f})"
                far.append((-abs(float(z[i])), int(rows[i]), told))
    found.flagged["outlier"] = len({row for _, row, _ in far})
    for _, row, told in heapq.nsmallest(LISTED, far):
        (case,) = run.manifest.cases(row, 1)
        found.flags["outlier"].append(Flag(row, case.id, told))


def named(spec: OutputSpec, key: str) -> str:
    """What a structure is called: by the model, or as label and channel.

    >>> spec = OutputSpec("mask", "mask_image", "", "z,y,x", {"1": "liver"})
    >>> named(spec, "1"), named(spec, "7"), named(spec, "2/1")
    ('liver', 'label 7', 'channel 2')
    """
    channel, _, label = key.rpartition("/")
    if not channel:
        return spec.labels.get(label, f"label {label}")
    return f"channel {channel}" + ("" if label == "1" else f", {spec.labels.get(label, f'label {label}')}")


# -- several processes -------------------------------------------------------------------------------------------------


def _measured(run: Reading) -> Iterator[tuple[Case, CaseResult | None, Measured]]:
    """Every case in order with its result, and what its outputs say of themselves."""
    measuring = Measuring(run.paths, run.request.model.outputs)
    reads = len(run.request.model.inputs) > 1 or any(spec.type != "label_list" for spec in run.request.model.outputs)
    processes = min(_PROCESSES, config.cores()) if reads and len(run.manifest) >= _WORTH else 1
    batches = _batches(run.joined())
    answers = _apart(measuring, batches, processes) if processes > 1 else _here(measuring, batches)
    for batch, measured in answers:
        for (case, result), one in zip(batch, measured):
            yield case, result, one


def _here(measuring: Measuring, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[Measured]]]:
    for batch in batches:
        yield batch, _measure(measuring, batch)


def _apart(
    measuring: Measuring, batches: Iterable[Batch], processes: int
) -> Iterator[tuple[Batch, list[Measured]]]:
    """By other processes, a few batches ahead of what is asked for."""
    waiting = collections.deque[tuple[Batch, Future[list[Measured]]]]()
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for batch in batches:
                waiting.append((batch, pool.submit(_measure, measuring, batch)))
                if len(waiting) > 2 * processes:
                    first, answer = waiting.popleft()
                    yield first, answer.result()
            for first, answer in waiting:
                yield first, answer.result()
    except BrokenProcessPool as error:
        raise UnfitError("""
            A process that read masks was killed, as machines do that run out of memory.
            Try again where there is more of it: in a job, rather than on a login node.""") from error


def _measure(measuring: Measuring, batch: Batch) -> list[Measured]:
    return [measuring(case, result) if result and not result.error else Measured() for case, result in batch]


def _batches(cases: Iterator[Joined]) -> Iterator[Batch]:
    while batch := tuple(itertools.islice(cases, _BATCH)):
        yield batch
