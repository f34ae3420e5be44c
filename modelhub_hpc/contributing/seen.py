"""What a model gave for a case, kept beyond its session, and whether it is what config.json promises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.wire import RawOutput

Array: TypeAlias = NDArray[Any]

_PICTURES = ("mask_image", "heatmap", "image")
_ROUNDING = 1e-6  # by which a probability may miss 0 or 1
_LABELS = 'Return [{"label": "...", "probability": 0.9}, ...], one for each class.'


@dataclass(frozen=True)
class Seen:
    """One output. value: an array, or what JSON holds; shape: of the array, or of lists in lists."""

    name: str
    type: str
    value: Any
    shape: tuple[int, ...]

    @property
    def is_array(self) -> bool:
        return isinstance(self.value, np.ndarray)

    def __str__(self) -> str:
        kind = f"{self.value.dtype} array" if self.is_array else "list" if isinstance(self.value, list) else "value"
        return f"a {kind} of shape {list(self.shape)}" if self.shape else f"a {kind}"


def keep(outputs: Iterable[RawOutput]) -> tuple[Seen, ...]:
    """Copies of the outputs, whose files go when the next case is asked for."""
    return tuple(_keep(each) for each in outputs)


def _keep(output: RawOutput) -> Seen:
    if output.array is None:
        return Seen(output.name, output.type, output.prediction, _shape(output.prediction))
    array: Array = np.array(output.array.array)
    return Seen(output.name, output.type, array, array.shape)


def _shape(value: Any) -> tuple[int, ...]:
    """Of lists in lists, by their first elements."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def broken_promises(outputs: Sequence[Seen], specs: Sequence[OutputSpec]) -> Iterator[tuple[str, str]]:
    """What about the outputs is not as config.json says, each with its mend; their number is the engine's to judge."""
    for output, spec in zip(outputs, specs, strict=True):
        for what, mend in _judge(output, spec):
            yield f"the output '{output.name}' is a {output.type}, but {what}", mend


def _judge(output: Seen, spec: OutputSpec) -> Iterator[tuple[str, str]]:
    if output.value is None:
        yield "the model returned None", "Return a value for each output of config.json."
    elif output.type == "contour" and not output.is_array and output.value == []:
        return  # there was nothing to draw around
    elif 0 in output.shape:
        yield f"it is empty: {output}", "Return a value for each output of config.json."
    elif output.type == "label_list":
        yield from _labels(output)
    elif output.type == "vector" and sum(length != 1 for length in output.shape) > 1:
        yield f"it is {output}", "A vector has one axis. Flatten it, or call it custom."
    elif output.type == "vector" and _has_lost(output.value):
        yield "some of its values are not finite", "Look for NaN in what the net gives."
    elif output.type in _PICTURES:
        yield from _picture(output, spec)
    elif output.type == "contour" and not (output.is_array or _is_contour(output.value)):
        yield "it is no list of points [x, y]", "Return [[x, y], ...], or a list of such lists."


def _has_lost(value: Any) -> bool:
    """Whether a list holds what JSON cannot, which the engine has made null."""
    return value is None or (isinstance(value, list) and any(map(_has_lost, value)))


def _labels(output: Seen) -> Iterator[tuple[str, str]]:
    labels = output.value
    if not isinstance(labels, list) or not all(isinstance(each, dict) for each in labels):
        vector = sum(length != 1 for length in output.shape) <= 1
        more = " If it is a list of numbers, its type in config.json is vector." if vector else ""
        yield f"it is {output}", f"{_LABELS}{more}"
        return
    for number, each in enumerate(labels):
        probability = each.get("probability")
        if not isinstance(each.get("label"), str) or "probability" not in each:
            yield f'its element {number} is no {{"label", "probability"}}', _LABELS
        elif not isinstance(probability, (int, float)) or not math.isfinite(probability):
            yield f"the probability of '{each['label']}' is not a finite number", "Look for NaN in what the net gives."
        elif not -_ROUNDING <= probability <= 1 + _ROUNDING:
            yield f"the probability of '{each['label']}' is {probability:g}, outside of 0 to 1", "Is a softmax missing?"
        else:
            continue
        return  # the others are hardly better


def _picture(output: Seen, spec: OutputSpec) -> Iterator[tuple[str, str]]:
    axes = spec.axes.split(",") if spec.axes else []
    if axes and len(axes) != len(output.shape):
        what = f"it is {output}, where config.json names the axes {spec.axes}"
        yield what, "Return an array with these axes, or mend 'axes'."
    elif not 2 <= len(output.shape) <= 5:
        yield f"it is {output}", "It has the axes (y, x) or (z, y, x), with one of channels or colours at most."
    elif output.type == "mask_image" and output.is_array and not _is_whole(output.value):
        yield "its values are no whole numbers", "A mask holds labels. What holds probabilities is a heatmap."


def _is_whole(array: Array) -> bool:
    if array.dtype.kind != "f":
        return array.dtype.kind in "biu"
    return bool(np.all(np.isfinite(array)) and np.all(array == np.round(array)))


def _is_contour(value: Any) -> bool:
    """Whether it is a point, or a list of what is a contour: lists may lie in lists."""
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(each, (int, float)) for each in value):
        return len(value) in (2, 3)
    return all(_is_contour(each) for each in value)
