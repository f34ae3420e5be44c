"""A view as somebody has set it: plane, slice, window, and how strong each layer is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt

from modelhub_hpc.service.pages.composing import Looks
from modelhub_hpc.viewing import View

# level and width in HU, as radiologists look at CT
PRESETS = {"Soft tissue": (40, 400), "Lung": (-600, 1500), "Bone": (400, 1800), "Brain": (40, 80)}
_HOUNSFIELD = -1000.0  # of air; that much above water there is hardly anything in a patient
_STRENGTHS = {"mask": 50, "heat": 60}


@dataclass(frozen=True)
class Stage:
    """One view with its settings; index: the slice, from 0; strengths: of layers, then outlines, in %."""

    view: View
    number: int
    plane: str
    index: int
    level: float
    width: float
    strengths: tuple[int, ...]

    @classmethod
    def of(cls, looks: Looks, number: int, given: Mapping[str, str], plane: str = "") -> Stage:
        """As a query asks for, and as suits the view where it says nothing of use."""
        view = looks.views[number]
        ask = _Query(given, number)
        plane = plane or ask.text("plane", view.planes)
        ask.forget_others(plane, given.get("ground", "0"))
        slices = view.extent(plane)[0]
        index = int(ask.value("slice", view.richest(plane) + 1, 1, slices)) - 1
        level, width = ask.window(view)
        strengths = [int(ask.value(f"o{i}", normal, 0, 100)) for i, normal in enumerate(_strengths(view))]
        return cls(view, number, plane, index, level, width, tuple(strengths))

    def at(self, index: int) -> Stage:
        return replace(self, index=index)

    @property
    def slices(self) -> int:
        return self.view.extent(self.plane)[0]

    @property
    def size(self) -> tuple[float, float]:
        """(height, width) in mm, or in pixels where nothing is known."""
        _, rows, columns = self.view.extent(self.plane)
        high, wide = self.view.steps(self.plane)
        return rows * high, columns * wide

    @property
    def small(self) -> bool:
        """Whether pixels are better seen as such."""
        return max(self.view.extent(self.plane)[1:]) < 256

    @property
    def window(self) -> tuple[float, float]:
        """Black and white, which have changed places in an inverted picture."""
        low, high = self.level - self.width / 2, self.level + self.width / 2
        inverted = self.view.image is not None and self.view.image.window[0] > self.view.image.window[1]
        return (high, low) if inverted else (low, high)

    @property
    def windowed(self) -> bool:
        """Whether there are measured values to choose a window of, rather than a picture that is as it is."""
        image = self.view.image
        return image is not None and not image.coloured and not (image.picture and image.voxels.dtype == np.uint8)

    @property
    def reach(self) -> tuple[float, float, float]:
        """Smallest and largest value, and a step to go from one to the other in."""
        low, high = self.view.image.reach if self.view.image else (0.0, 1.0)
        beyond = (_HOUNSFIELD, -_HOUNSFIELD) if self.presets else ()
        low = min(low, self.level - self.width / 2, *beyond)
        high = max(high, self.level + self.width / 2, *beyond)
        step = 10.0 ** math.floor(math.log10((high - low) / 200)) if high > low else 1.0
        return math.floor(low / step) * step, math.ceil(high / step) * step, step

    @property
    def presets(self) -> Mapping[str, tuple[int, int]]:
        return PRESETS if self.view.image is not None and self.view.image.unit == "HU" else {}

    @property
    def edges(self) -> str:
        return self.view.pose.edges(self.plane)

    @property
    def query(self) -> str:
        """Window and strengths, for addresses of slices."""
        values = {f"v{self.number}-level": f"{self.level:.6g}", f"v{self.number}-width": f"{self.width:.6g}"}
        strengths = {f"v{self.number}-o{i}": each for i, each in enumerate(self.strengths)}
        return urlencode({**values, **strengths})

    def blended(self) -> npt.NDArray[np.uint8]:
        """The slice as it is seen, a pixel for each voxel: rows, columns, RGB; without outlines."""
        ground = self.view.ground(self.plane, self.index, self.window)
        seen = (np.stack([ground] * 3, axis=-1) if ground.ndim == 2 else ground).astype(np.float64)
        for layer, strength in zip(self.view.layers, self.strengths):
            over = self.view.overlay(layer, self.plane, self.index).astype(np.float64)
            share = over[..., 3:] / 255 * strength / 100
            seen = seen * (1 - share) + over[..., :3] * share
        result: npt.NDArray[np.uint8] = np.rint(seen).astype(np.uint8)
        return result


def stages(looks: Looks, given: Mapping[str, str]) -> list[Stage]:
    return [Stage.of(looks, number, given) for number in range(len(looks.views))]


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """As pages write colours."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _strengths(view: View) -> list[int]:
    """One mask or map at first, and all outlines: more would hide each other."""
    first = next((i for i, layer in enumerate(view.layers) if layer.kind in _STRENGTHS), None)
    layers = [_STRENGTHS[layer.kind] if i == first else 0 for i, layer in enumerate(view.layers)]
    return [*layers, *(100 for _ in view.outlines)]


class _Query:
    """The settings of one view in a query, where anything may stand."""

    def __init__(self, given: Mapping[str, str], number: int) -> None:
        self._given = given
        self._prefix = f"v{number}-"

    def text(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self._given.get(self._prefix + name, "")
        return value if value in allowed else allowed[0]

    def forget_others(self, plane: str, ground: str) -> None:
        """A slice of another plane, and a window of another input, were chosen before these were: they do not fit."""
        of_plane, _, of_ground = self._given.get(f"{self._prefix}was", f"{plane}/{ground}").partition("/")
        names = (["slice"] if of_plane != plane else []) + (["level", "width"] if of_ground != ground else [])
        dropped = {self._prefix + name for name in names}
        self._given = {name: value for name, value in self._given.items() if name not in dropped}

    def value(self, name: str, default: float, low: float, high: float) -> float:
        try:
            value = float(self._given.get(self._prefix + name, ""))
        except ValueError:
            return default
        return min(max(value, low), high) if math.isfinite(value) else default

    def window(self, view: View) -> tuple[float, float]:
        """(level, width)"""
        ends = view.image.window if view.image is not None else (0.0, 255.0)
        level, width = sum(ends) / 2, abs(ends[1] - ends[0])
        if (preset := PRESETS.get(self._given.get(self._prefix + "preset", ""))) is not None:
            return preset
        return self.value("level", level, -1e12, 1e12), self.value("width", width, 1e-9, 1e12)
