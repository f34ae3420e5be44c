"""Masks of several models in common numbers: labels that have one name are one structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.errors import InvalidError, UsageError, shown, times
from modelhub_hpc.evaluation.contestants import Contestant
from modelhub_hpc.evaluation.together import Unusable
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.record import Output, load_volume

BACKGROUND = "background"
_LARGEST = 65_535

Voxels = npt.NDArray[Any]
Renamed = Mapping[str, Mapping[str, str]]  # by model: its labels, by number or name, and what they are called in common


@dataclass(frozen=True)
class LabelMap:
    """voxels: z, y, x; 0 is background, others count the structures from 1 on."""

    voxels: Voxels
    geometry: Geometry | None

    def why_not_with(self, other: LabelMap) -> str:
        """Why two of them cannot be compared voxel by voxel; "" if they can."""
        if self.voxels.shape != other.voxels.shape:
            one, two = (times(each.voxels.shape[::-1]) for each in (self, other))
            return f"their grids differ: {one} and {two} voxels in x, y, z"
        if (self.geometry is None) != (other.geometry is None):
            return "only one of them says where its voxels lie"
        if self.geometry is not None and other.geometry is not None and not self.geometry.is_grid_of(other.geometry):
            return "their grids differ in origin, spacing or directions"
        return ""

    @property
    def voxel_ml(self) -> float | None:
        return float(np.prod(self.geometry.spacing)) / 1000 if self.geometry is not None else None


@dataclass(frozen=True)
class Structures:
    """names: of all structures that a model has, from 1 on; numbers: of each model, its own -> the common one."""

    names: tuple[str, ...]
    numbers: tuple[Mapping[int, int], ...]

    def of(self, place: int) -> frozenset[int]:
        """The structures that a model has."""
        return frozenset(self.numbers[place].values()) - {0}

    def shared(self, places: Sequence[int]) -> list[int]:
        """Those that all these models have."""
        return sorted(frozenset.intersection(*(self.of(place) for place in places)))

    def own(self, place: int, structure: int) -> int:
        """What a model's masks hold for a structure; the smallest such number."""
        return min(number for number, common in self.numbers[place].items() if common == structure)

    def read(self, place: int, contestant: Contestant, output: Output) -> LabelMap:
        """The mask of a case in common numbers. Raises Unusable."""
        try:
            volume = load_volume(contestant.reading.paths, output)
        except ValueError as error:
            raise Unusable(str(error)) from error
        voxels = volume.voxels
        if voxels.size != np.prod(voxels.shape[-3:]):
            raise Unusable("its mask has channels; one number for each voxel is needed")
        return LabelMap(self._common(voxels.reshape(voxels.shape[-3:]), self.numbers[place]), volume.geometry)

    def _common(self, voxels: Voxels, numbers: Mapping[int, int]) -> Voxels:
        whole = _whole(voxels)
        table = np.full(max(numbers) + 1, -1, np.int32)
        table[list(numbers)] = list(numbers.values())
        outside = (whole < 0) | (whole >= len(table))
        strange = whole[outside] if outside.any() else whole[table[whole] < 0]
        if strange.size:
            raise Unusable(f"its mask holds the label {strange.flat[0]}, which is none of {sorted(set(numbers))}")
        return table.astype(np.min_scalar_type(len(self.names)))[whole]


def _whole(voxels: Voxels) -> Voxels:
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    if voxels.dtype.kind not in "iuf" or not np.isfinite(voxels).all():
        raise Unusable("its mask holds values that are no numbers")
    if voxels.dtype.kind != "f":
        return voxels
    if np.abs(voxels).max(initial=0) > _LARGEST or not np.array_equal(voxels, np.rint(voxels)):
        raise Unusable("its mask holds fractions or numbers that cannot be labels")
    return voxels.astype(np.int32)


def structures(contestants: Sequence[Contestant], renamed: Renamed) -> Structures:
    """What the models' labels mean, as they or their cards say, or `renamed` does; 0 is background in all of them.

    InvalidError where nobody says it, and where no two models have a structure in common.
    """
    declared = [_declared(each, renamed.get(each.name, {})) for each in contestants]
    silent = [each.name for each, labels in zip(contestants, declared) if not labels]
    if silent:
        raise InvalidError(f"""
            Neither {shown(silent[0])} nor its card says what the labels of its masks mean.
            Say it in a file:  --map FILE.json  with  {{"{shown(silent[0])}": {{"1": "NAME", "2": "NAME"}}}}""")
    names = {plain(name): name for labels in reversed(declared) for name in labels.values()}
    order = list(dict.fromkeys(plain(name) for labels in declared for name in labels.values()))
    order = [key for key in order if key != BACKGROUND]
    place_of = {BACKGROUND: 0, **{key: number for number, key in enumerate(order, 1)}}
    numbers = tuple({0: 0, **{own: place_of[plain(name)] for own, name in labels.items()}} for labels in declared)
    found = Structures(tuple(names[key] for key in order), numbers)
    pairs = ((i, j) for j in range(len(numbers)) for i in range(j))
    if not any(found.shared(pair) for pair in pairs):
        known = "; ".join(f"{each.name}: {', '.join(labels.values())}" for each, labels in zip(contestants, declared))
        raise InvalidError(
            f"The masks have no structure in common by its name. {shown(known)}.\nSay which is which:  --map FILE.json"
        )
    return found


def _declared(contestant: Contestant, renamed: Mapping[str, str]) -> dict[int, str]:
    given = contestant.labels.items()
    labels = {int(number): name for number, name in given if number.isascii() and number.isdigit() and int(number)}
    for label, name in renamed.items():
        own = [number for number, known in labels.items() if plain(known) == plain(label)]
        if label.isascii() and label.isdigit() and int(label):
            own = [int(label)]
        if not own:
            raise UsageError(f"--map: {shown(contestant.name)} has no label {shown(label)!r}. It has {shown(labels)}.")
        labels.update(dict.fromkeys(own, name))
    if max(labels, default=0) > _LARGEST:
        raise InvalidError(f"{shown(contestant.name)} numbers a label {max(labels)}; up to {_LARGEST} can be compared.")
    return labels


def plain(name: str) -> str:
    """What names have in common that mean the same."""
    return " ".join(name.casefold().split())
