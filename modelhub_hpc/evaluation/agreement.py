"""How well models agree without a reference: label lists, vectors and masks, two models at a time."""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from modelhub_hpc.evaluation.contestants import Contestant
from modelhub_hpc.evaluation.labelmaps import LabelMap, Renamed, Structures, plain
from modelhub_hpc.evaluation.tables import Cell
from modelhub_hpc.evaluation.together import Unusable
from modelhub_hpc.record import LabelList, Output, load_array

T = TypeVar("T")
Record = dict[str, Cell]
Pair = tuple[int, int]
_LARGEST = 1e100  # whose squares are numbers still
_LIMITS = 1.96  # standard deviations, between which 95 % of differences lie that are distributed normally


class Agreement(Protocol[T]):
    """One way to compare: reads what models gave, takes in case after case, and tells what came out.

    measure: what `score` is, from 0 or -1 to 1.
    """

    measure: str

    def read(self, place: int, output: Output) -> T:
        """What a model gave for a case. Raises Unusable."""

    def why_not(self, one: T, other: T) -> str:
        """Why two models' outputs of a case cannot be compared; "" if they can."""

    def add(self, key: str, given: Sequence[T | None], pairs: Sequence[Pair]) -> Iterator[Record]:
        """Take in a case, of which these pairs can be compared; rows of the table of cases."""

    def records(self, pair: Pair) -> Iterator[Record]:
        """What there is to say of two models; nothing if they had no case in common."""

    def score(self, pair: Pair) -> float | None:
        """How well they agree, in one number; None if that is not defined."""

    def notes(self) -> Iterator[str]:
        """What a reader has to know of all of it."""


class Moments:
    """Two variables that come in pieces: means, variances and covariance, as if all of them were in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(2)
        self._scatter = np.zeros((2, 2))

    def add(self, one: npt.ArrayLike, other: npt.ArrayLike) -> None:
        values = np.array([np.ravel(one), np.ravel(other)], np.float64)
        more = values.shape[1]
        if not more:
            return
        mean = values.mean(axis=1)
        apart, whole = mean - self.mean, self.count + more
        rest = values - mean[:, np.newaxis]
        self._scatter += rest @ rest.T + np.outer(apart, apart) * self.count * more / whole
        self.mean = self.mean + apart * more / whole
        self.count = whole

    @property
    def correlation(self) -> float | None:
        """Pearson's; None where one of the two never changes."""
        root = math.sqrt(self._scatter[0, 0]) * math.sqrt(self._scatter[1, 1])
        return float(np.clip(self._scatter[0, 1] / root, -1, 1)) if root > 0 else None

    @property
    def bias(self) -> float:
        """Mean of first minus second."""
        return float(self.mean[0] - self.mean[1])

    @property
    def spread(self) -> float | None:
        """Standard deviation of the differences."""
        scatter = self._scatter[0, 0] + self._scatter[1, 1] - 2 * self._scatter[0, 1]
        return math.sqrt(max(scatter, 0.0) / (self.count - 1)) if self.count > 1 else None

    @property
    def rmse(self) -> float:
        scatter = self._scatter[0, 0] + self._scatter[1, 1] - 2 * self._scatter[0, 1]
        return math.sqrt(max(scatter, 0.0) / self.count + self.bias**2)


class Labels:
    """Label lists. Two models are held to the labels that have one name in both."""

    measure = "top-1 agreement"

    def __init__(self, contestants: Sequence[Contestant], renamed: Renamed) -> None:
        self._names = [each.name for each in contestants]
        self._renamed = [{plain(k): v for k, v in renamed.get(name, {}).items()} for name in self._names]
        self._tops: dict[Pair, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._apart: dict[Pair, array[float]] = defaultdict(lambda: array("d"))  # per case with labels in common
        self._complete = self._unanimous = 0

    def read(self, place: int, output: Output) -> dict[str, float]:
        """Probabilities by label, in the order of the list."""
        found: dict[str, float] = {}
        for label, value in _entries(output):
            name = plain(self._renamed[place].get(plain(label), label))
            if name in found:
                raise Unusable(f"its list has the label {label!r} twice")
            found[name] = value
        return found

    def why_not(self, one: Mapping[str, float], other: Mapping[str, float]) -> str:
        return ""

    def add(self, key: str, given: Sequence[Mapping[str, float] | None], pairs: Sequence[Pair]) -> Iterator[Record]:
        tops = [None if each is None else top(each) for each in given]
        for i, j in pairs:
            one, other, first, second = given[i], given[j], tops[i], tops[j]
            assert one is not None and other is not None and first is not None and second is not None
            self._tops[i, j][first, second] += 1
            common = one.keys() & other.keys()
            if common:
                self._apart[i, j].append(math.fsum(abs(one[label] - other[label]) for label in common) / len(common))
        votes = Counter(each for each in tops if each is not None)
        most = max(votes.values(), default=0)
        winners = [label for label, count in votes.items() if count == most]
        self._complete += votes.total() == len(tops)
        self._unanimous += most == len(tops)
        yield {
            "case": key,
            **{f"top1 of {name}": label for name, label in zip(self._names, tops)},
            "majority": winners[0] if len(winners) == 1 else None,
            "votes_for_it": most if len(winners) == 1 else None,
            "votes": votes.total(),
        }

    def records(self, pair: Pair) -> Iterator[Record]:
        counts, apart = self._tops[pair], self._apart[pair]
        if counts:
            yield {
                "cases": counts.total(),
                "top1_agreement": self.score(pair),
                "kappa": kappa(counts),
                "mean_abs_probability_difference": math.fsum(apart) / len(apart) if apart else None,
                "cases_with_common_labels": len(apart),
            }

    def score(self, pair: Pair) -> float | None:
        counts = self._tops[pair]
        return sum(n for (one, other), n in counts.items() if one == other) / counts.total() if counts else None

    def notes(self) -> Iterator[str]:
        yield f"All agree in {self._unanimous:,} of the {self._complete:,} cases that all have answered."
        yield "Of labels with the same probability the first in the list counts. Kappa is Cohen's, unweighted."
        for pair in pairs_of(len(self._names)):
            if self._tops[pair] and not self._apart[pair]:
                one, other = (self._names[place] for place in pair)
                yield f"{one} and {other} have no label in common by its name: say which are the same with --map."


def top(labels: Mapping[str, float]) -> str:
    """The most probable label; of several the first in the list."""
    return max(labels, key=labels.__getitem__)


def kappa(counts: Mapping[tuple[str, str], int]) -> float | None:
    """Cohen's, unweighted, from how often two gave which labels; None where chance alone would agree always."""
    total = sum(counts.values())
    ones, others = Counter[str](), Counter[str]()
    for (one, other), count in counts.items():
        ones[one] += count
        others[other] += count
    by_chance = sum(ones[label] * others[label] for label in ones) / total**2
    agreed = sum(count for (one, other), count in counts.items() if one == other) / total
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def _entries(output: Output) -> Iterator[tuple[str, float]]:
    value = output.value
    if isinstance(value, LabelList):
        yield from zip(*value)
        return
    if not isinstance(value, list) or not value:
        raise Unusable("it gave no list of labels")
    for each in value:
        label = each.get("label") if isinstance(each, dict) else None
        probability = each.get("probability") if isinstance(each, dict) else None
        if not isinstance(label, str):
            raise Unusable("its list has an entry without a label")
        if isinstance(probability, bool) or not isinstance(probability, (int, float)):
            raise Unusable(f"it gave no number for the label {label!r}")
        if not abs(probability) < _LARGEST:
            raise Unusable(f"it gave no number of a usual size for the label {label!r}")
        yield label, float(probability)


class Vectors:
    """Numbers in one order, such as embeddings or measurements."""

    measure = "correlation"

    def __init__(self, contestants: Sequence[Contestant]) -> None:
        self._contestants = contestants
        self._moments: dict[Pair, Moments] = defaultdict(Moments)
        self._cases: Counter[Pair] = Counter()

    def read(self, place: int, output: Output) -> npt.NDArray[np.float64]:
        paths = self._contestants[place].reading.paths
        try:
            values = np.asarray(output.value if output.dataset is None else load_array(paths, output), np.float64)
        except (ValueError, TypeError) as error:
            raise Unusable("it gave something else than numbers in one shape") from error
        if not values.size:
            raise Unusable("it gave no numbers")
        if not (np.abs(values) < _LARGEST).all():
            raise Unusable("not all of its numbers are finite and of a usual size")
        return values

    def why_not(self, one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> str:
        return "" if one.shape == other.shape else f"they are {list(one.shape)} and {list(other.shape)} numbers"

    def add(
        self, key: str, given: Sequence[npt.NDArray[np.float64] | None], pairs: Sequence[Pair]
    ) -> Iterator[Record]:
        for i, j in pairs:
            one, other = given[i], given[j]
            assert one is not None and other is not None
            self._moments[i, j].add(one, other)
            self._cases[i, j] += 1
            alone = Moments()
            alone.add(one, other)
            names = self._contestants[i].name, self._contestants[j].name
            yield {"case": key, **_named(names), "correlation": alone.correlation, "rmse": alone.rmse}

    def records(self, pair: Pair) -> Iterator[Record]:
        found = self._moments[pair]
        if found.count:
            numbers: Record = {"cases": self._cases[pair], "numbers": found.count}
            yield {**numbers, "correlation": found.correlation, "rmse": found.rmse, "bias": found.bias}

    def score(self, pair: Pair) -> float | None:
        return self._moments[pair].correlation

    def notes(self) -> Iterator[str]:
        yield "Correlation (Pearson's), RMSE and bias (first minus second) are over all numbers of all cases."


class Masks:
    """Masks of structures. Two models are held to the structures that both have; all else is background to them."""

    measure = "mean Dice"

    def __init__(self, contestants: Sequence[Contestant], structures: Structures) -> None:
        self._contestants, self._structures = contestants, structures
        self._dice: dict[tuple[Pair, int], array[float]] = defaultdict(lambda: array("d"))
        self._empty: Counter[tuple[Pair, int]] = Counter()
        self._volumes: dict[tuple[Pair, int, str], Moments] = defaultdict(Moments)
        self._agreed: dict[Pair, array[float]] = defaultdict(lambda: array("d"))

    def read(self, place: int, output: Output) -> LabelMap:
        return self._structures.read(place, self._contestants[place], output)

    def why_not(self, one: LabelMap, other: LabelMap) -> str:
        return one.why_not_with(other)

    def add(self, key: str, given: Sequence[LabelMap | None], pairs: Sequence[Pair]) -> Iterator[Record]:
        for pair in pairs:
            one, other = (given[place] for place in pair)
            assert one is not None and other is not None
            shared = self._structures.shared(pair)
            if shared:
                yield from self._compare(key, pair, shared, one, other)

    def _compare(self, key: str, pair: Pair, shared: Sequence[int], one: LabelMap, other: LabelMap) -> Iterator[Record]:
        counts = confusion(one.voxels, other.voxels, shared)
        agreed = float(np.trace(counts) / counts.sum()) if counts.sum() else 1.0
        self._agreed[pair].append(agreed)
        unit, of_voxel = ("voxels", 1.0) if one.voxel_ml is None else ("ml", one.voxel_ml)
        for row, structure in enumerate(shared, 1):
            both, first, second = int(counts[row, row]), int(counts[row].sum()), int(counts[:, row].sum())
            dice = 2 * both / (first + second) if first + second else 1.0
            self._dice[pair, structure].append(dice)
            self._empty[pair, structure] += not first + second
            self._volumes[pair, structure, unit].add(first * of_voxel, second * of_voxel)
            yield {
                "case": key,
                **_named([self._contestants[place].name for place in pair]),
                "structure": self._structures.names[structure - 1],
                "dice": dice,
                "first_volume": first * of_voxel,
                "second_volume": second * of_voxel,
                "unit": unit,
                "voxel_agreement": agreed,
            }

    def records(self, pair: Pair) -> Iterator[Record]:
        for structure in self._structures.shared(pair):
            dice = self._dice[pair, structure]
            if not dice:
                continue
            # volumes in voxels and in ml have no mean in common
            units = [unit for unit in ("ml", "voxels") if (pair, structure, unit) in self._volumes]
            found = self._volumes[pair, structure, units[0]] if len(units) == 1 else None
            spread = found.spread if found else None
            yield {
                "structure": self._structures.names[structure - 1],
                "cases": len(dice),
                "both_empty": self._empty[pair, structure],
                "mean_dice": math.fsum(dice) / len(dice),
                "median_dice": float(np.median(dice)),
                "least_dice": min(dice),
                "volume_correlation": found.correlation if found else None,
                "volume_bias": found.bias if found else None,
                "volume_limits": _LIMITS * spread if spread is not None else None,
                "volume_unit": units[0] if len(units) == 1 else None,
                "mean_voxel_agreement": math.fsum(self._agreed[pair]) / len(self._agreed[pair]),
            }

    def score(self, pair: Pair) -> float | None:
        means = [math.fsum(dice) / len(dice) for (which, _), dice in self._dice.items() if which == pair and dice]
        return math.fsum(means) / len(means) if means else None

    def notes(self) -> Iterator[str]:
        yield "Where both masks of a case lack a structure, their Dice is 1; such cases are counted as both empty."
        yield "Volume bias is the mean of first minus second; 95 % of the differences are expected within the limits."
        names = [each.name for each in self._contestants]
        for i, j in pairs_of(len(names)):
            for place, other in ((i, j), (j, i)):
                alone = sorted(self._structures.of(place) - self._structures.of(other))
                if alone:
                    told = ", ".join(self._structures.names[each - 1] for each in alone)
                    yield f"{names[place]} has what {names[other]} has not, background in their comparison: {told}."
        if len({unit for _, _, unit in self._volumes}) > 1:
            yield "Some cases have a spacing and others have none: their volumes have no mean in common."


def confusion(one: npt.NDArray[Any], other: npt.NDArray[Any], labels: Sequence[int]) -> npt.NDArray[np.int64]:
    """How many voxels have which labels in both masks: background and all else first, then these labels, in order."""
    size = len(labels) + 1
    table = np.zeros(max(int(one.max(initial=0)), int(other.max(initial=0)), *labels) + 1, np.min_scalar_type(size**2))
    table[list(labels)] = range(1, size)
    pairs = table[one.ravel()] * table.dtype.type(size) + table[other.ravel()]
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def _named(names: Sequence[str]) -> Record:
    return {"first": names[0], "second": names[1]}


def pairs_of(count: int) -> list[Pair]:
    return list(itertools.combinations(range(count), 2))
