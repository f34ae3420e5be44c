"""Outputs that lie over the input: masks in colours, maps of heat, pictures; each as RGBA, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modelhub_hpc.viewing.images import as_voxels, first_window

Kind = Literal["mask", "heat", "picture"]
_KINDS: Mapping[str, Kind] = {"mask_image": "mask", "heatmap": "heat", "image": "picture"}
_MOST_CHANNELS = 8

# Told apart by people of every colour vision, on dark and on bright grounds (Okabe and Ito), bluish green last
LABEL_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 158, 115),
    (0, 114, 178),
)
# from little to much: dark violet, red, orange, light yellow
HEAT_COLOURS = ((48, 18, 90), (139, 28, 110), (212, 62, 79), (246, 136, 43), (252, 213, 94), (252, 255, 190))


@dataclass(frozen=True)
class Layer:
    """One output, or one channel of it, over an image.

    voxels: z, y, x as stored, or z, y, x, c for colours. reach: smallest and largest value. labels: those that a mask
    holds, with the number of their voxels.
    """

    name: str
    kind: Kind
    voxels: npt.NDArray[Any]
    reach: tuple[float, float]
    labels: Mapping[int, int]
    notes: tuple[str, ...] = ()


def layers_of(
    name: str, type: str, array: npt.NDArray[Any], axes: str, grid: tuple[int, int, int] | None
) -> tuple[Layer, ...]:
    """The layers of an output; () where it is no image. axes: as the output declares them, "" if it does not.

    grid: z, y, x of the input, by which undeclared axes are judged.
    """
    kind = _KINDS.get(type)
    if kind is None or array.dtype.kind not in "biuf" or array.size == 0:
        return ()
    order, notes = (axes, ()) if _fits(axes, array) else _guessed(array, grid, kind)
    channels = _channels(array, order, kind) if order else _undeclared(array, kind)
    found = [each for each in channels if each.shape[1] > 1 or each.shape[2] > 1]
    names = [name] if len(found) == 1 else [f"{name} {i}" for i in range(len(found))]
    return tuple(_layer(each, title, kind, notes) for each, title in zip(found, names))


def _layer(voxels: npt.NDArray[Any], name: str, kind: Kind, notes: tuple[str, ...]) -> Layer:
    if kind == "mask":
        voxels = as_labels(voxels)
    finite = voxels[np.isfinite(voxels)] if voxels.dtype.kind == "f" else voxels
    reach = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return Layer(name, kind, voxels, reach, counted(voxels) if kind == "mask" else {}, notes)


def as_labels(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers, whatever the model calls them; what is not finite is background."""
    if voxels.dtype.kind == "f":
        voxels = np.nan_to_num(np.rint(voxels), nan=0.0, posinf=0.0, neginf=0.0).clip(-(2**31), 2**31 - 1)
        return voxels.astype(np.int32)
    return voxels.astype(np.uint8) if voxels.dtype == bool else voxels


def counted(labels: npt.NDArray[Any]) -> dict[int, int]:
    """Voxels by label, without the background, which is 0."""
    # numpy sorts two bytes ten times as fast as one
    values, counts = np.unique(labels.astype(np.int16) if labels.dtype == np.uint8 else labels, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts) if value != 0}


def _fits(axes: str, array: npt.NDArray[Any]) -> bool:
    names = axes.split(",") if axes else []
    return len(names) == array.ndim and {"x", "y"} <= set(names)


def _guessed(
    array: npt.NDArray[Any], grid: tuple[int, int, int] | None, kind: Kind
) -> tuple[str, tuple[str, ...]]:
    """An order under which the array has the shape of the grid; "" where there is none."""
    if grid is None:
        return "", ()
    orders = ["y,x", "x,y"] if array.ndim == 2 else ["z,y,x", "x,y,z"] if array.ndim == 3 else []
    if kind == "picture" and array.shape[-1] in (3, 4):
        orders = ["y,x,c", *orders] if array.ndim == 3 else ["z,y,x,c"]
    for order in orders:
        lengths = dict(zip(order.split(","), array.shape))
        if (lengths.get("z", 1), lengths["y"], lengths["x"]) == grid:
            return order, (f"The model does not say what its axes are; {order} has the shape of the input.",)
    return "", ()


def _channels(array: npt.NDArray[Any], axes: str, kind: Kind) -> Iterator[npt.NDArray[Any]]:
    """Each channel as z, y, x; a picture's colours stay together, as z, y, x, c."""
    names = axes.split(",")
    if "z" not in names:
        names, array = ["z", *names], array[np.newaxis]
    others = [i for i, name in enumerate(names) if name not in "zyx"]
    space = [names.index(name) for name in "zyx"]
    if kind == "picture" and others and names[others[-1]] == "c" and array.shape[others[-1]] in (3, 4):
        stacks = array.transpose(*others[:-1], *space, others[-1])[..., :3]
        yield from stacks.reshape((-1, *stacks.shape[-4:]))[:_MOST_CHANNELS]
        return
    stacks = array.transpose(*others, *space)
    yield from stacks.reshape((-1, *stacks.shape[-3:]))[:_MOST_CHANNELS]


def _undeclared(array: npt.NDArray[Any], kind: Kind) -> Sequence[npt.NDArray[Any]]:
    """As it comes: only pictures have colours."""
    voxels = as_voxels(array, colours=kind == "picture")
    return () if voxels is None else (voxels,)


def grey(plane: npt.NDArray[Any], window: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """A slice as uint8: rows, columns of grey, or its colours as they are. window: black, white."""
    return plane.astype(np.uint8) if plane.ndim == 3 else scaled(plane, window)


def scaled(values: npt.NDArray[Any], window: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Values of any shape as 0 (at the window's first, and below) to 255 (at its second, and above)."""
    low, high = window
    share = (np.nan_to_num(values.astype(np.float32), nan=min(window)) - low) / ((high - low) or 1.0)
    result: npt.NDArray[np.uint8] = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    return result


def rgba(layer: Layer, plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A slice of a layer as rows, columns, RGBA; clear where there is nothing."""
    paint = {"mask": _mask, "heat": _heat, "picture": _painted}[layer.kind]
    return paint(layer, plane)


def label_colour(label: int) -> tuple[int, int, int]:
    return LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)]


def _mask(layer: Layer, plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    colours = np.array(LABEL_COLOURS, np.uint8)[(plane.astype(np.int64) - 1) % len(LABEL_COLOURS)]
    alpha = np.where(plane != 0, 255, 0).astype(np.uint8)
    return np.concatenate([colours, alpha[..., np.newaxis]], axis=-1)


def heat_range(layer: Layer) -> tuple[float, float]:
    """What is clear and what is brightest: 0 and 1 for probabilities, else from 0, or the smallest, to the largest."""
    low, high = layer.reach
    if 0 <= low and high <= 1:
        return 0.0, 1.0
    return (min(0.0, low), high) if high > min(0.0, low) else (low, low + 1)


def _heat(layer: Layer, plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = heat_range(layer)
    share = np.nan_to_num((plane.astype(np.float64) - low) / (high - low), nan=0.0).clip(0, 1)
    places = np.linspace(0, 1, len(HEAT_COLOURS))
    colours = [np.interp(share, places, [colour[i] for colour in HEAT_COLOURS]) for i in range(3)]
    result: npt.NDArray[np.uint8] = np.rint(np.stack([*colours, share * 255], axis=-1)).astype(np.uint8)
    return result


def _painted(layer: Layer, plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    values = plane if plane.dtype == np.uint8 else scaled(plane, picture_window(layer))
    colours = values if values.ndim == 3 else np.stack([values] * 3, axis=-1)
    return np.concatenate([colours, np.full((*colours.shape[:2], 1), 255, np.uint8)], axis=-1)


def picture_window(layer: Layer) -> tuple[float, float]:
    """What is black and what is white in a picture; 0 and 1 for colours that lie there."""
    low, high = layer.reach
    if layer.voxels.ndim == 4 and 0 <= low and high <= 1:
        return 0.0, 1.0
    return first_window(layer.voxels)
