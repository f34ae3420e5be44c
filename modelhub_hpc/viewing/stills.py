"""A view as one picture that needs no viewer: the slices with most to see, with what lies over them drawn in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.viewing.layers import Layer, label_colour
from modelhub_hpc.viewing.views import View

STRENGTHS = {"mask": 0.5, "heat": 0.6, "picture": 1.0}
_SMALLEST, _LARGEST = 256, 1024  # pixels of the longer side of a panel
_GAP = 4
_WORDS = 14  # pixels of their height
_PAPER, _INK = (0, 0, 0), (235, 235, 235)
_LINE = (255, 255, 0)
_MOST_WORDS = 12

Word = tuple[str, "tuple[int, int, int] | None"]  # and the colour that it explains


def still(view: View, names: Mapping[str, str], notes: Sequence[str] = ()) -> npt.NDArray[np.uint8]:
    """Rows, columns, RGB: a row of planes for each layer, with square pixels.

    names: of labels, by their number; notes: written below.
    """
    rows = [_row(view, layer, names) for layer in view.layers] or [_row(view, None, names)]
    return _stacked([*rows, *(_words([(_printable(note, 200), None)]) for note in notes)])


def panel(view: View, layer: Layer | None, plane: str, index: int) -> npt.NDArray[np.uint8]:
    """One slice with one layer and all outlines over it: rows, columns, RGB, with square pixels."""
    from PIL import Image as Pictures

    ground = view.ground(plane, index)
    size = _size(view, plane)
    seen = np.asarray(Pictures.fromarray(ground).convert("RGB").resize(size, _resampling(ground, size)))
    if layer is not None:
        over = view.overlay(layer, plane, index)
        resized = Pictures.fromarray(over).resize(size, Pictures.Resampling.NEAREST)
        lying = np.asarray(resized).astype(np.float32)
        share = lying[..., 3:] / 255 * STRENGTHS[layer.kind]
        seen = np.rint(seen * (1 - share) + lying[..., :3] * share).astype(np.uint8)
    return _outlined(view, plane, index, seen)


def _size(view: View, plane: str) -> tuple[int, int]:
    """(width, height) in pixels: square ones, equally large in all planes."""
    _, rows, columns = view.extent(plane)
    high, wide = view.steps(plane)
    scale = _scale(view)
    return max(1, round(columns * wide * scale)), max(1, round(rows * high * scale))


def _scale(view: View) -> float:
    """Pixels per mm: one or more whole ones for the finest spacing, fewer where a picture would be too large."""
    steps = [view.steps(plane) for plane in view.planes]
    finest = min(min(each) for each in steps)
    extents = [view.extent(plane)[1:] for plane in view.planes]
    longest = max(count * step for sides, both in zip(extents, steps) for count, step in zip(sides, both))
    pixels = longest / finest
    return _LARGEST / longest if pixels > _LARGEST else max(1, _SMALLEST // int(pixels)) / finest


def _resampling(ground: npt.NDArray[np.uint8], size: tuple[int, int]) -> Any:
    from PIL import Image as Pictures

    whole = size[0] % ground.shape[1] == 0 and size[1] % ground.shape[0] == 0
    return Pictures.Resampling.NEAREST if whole else Pictures.Resampling.BICUBIC


def _outlined(view: View, plane: str, index: int, seen: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    from PIL import Image as Pictures, ImageDraw

    _, rows, columns = view.extent(plane)
    scale = np.array([seen.shape[1] / columns, seen.shape[0] / rows])
    picture = Pictures.fromarray(seen)
    for outline in view.outlines:
        for points in view.lines(outline, plane, index):
            ends = (points[:, ::-1] + 0.5) * scale
            if outline.closed:
                ends = np.concatenate([ends, ends[:1]])
            ImageDraw.Draw(picture).line([(float(x), float(y)) for x, y in ends], fill=_LINE, width=2)
    return np.asarray(picture)


def _row(view: View, layer: Layer | None, names: Mapping[str, str]) -> npt.NDArray[np.uint8]:
    panels = []
    for plane in view.planes:
        drawn = panel(view, layer, plane, view.richest(plane))
        panels.append(_edged(drawn, view.pose.edges(plane)))
    height = max(each.shape[0] for each in panels)
    padded = [np.pad(each, ((0, height - each.shape[0]), (0, _GAP), (0, 0))) for each in panels]
    row = np.concatenate(padded, axis=1)[:, :-_GAP]
    legend = _legend(layer, names)
    return _stacked([row, _words(legend)]) if legend else row


def _legend(layer: Layer | None, names: Mapping[str, str]) -> Sequence[Word]:
    labels = sorted(layer.labels)[:_MOST_WORDS] if layer is not None else ()
    return [(_printable(names.get(str(label), str(label))), label_colour(label)) for label in labels]


def _printable(text: str, longest: int = 40) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:longest]


def _edged(seen: npt.NDArray[np.uint8], edges: str) -> npt.NDArray[np.uint8]:
    """With the letters of what lies left, right, above and below."""
    if not edges:
        return seen
    from PIL import Image as Pictures, ImageDraw

    picture = Pictures.fromarray(seen)
    draw, font = ImageDraw.Draw(picture), _font()
    low, right = seen.shape[0] - 1, seen.shape[1] - 1
    places = ((2, low / 2, "lm"), (right - 1, low / 2, "rm"), (right / 2, 1, "ma"), (right / 2, low, "md"))
    for letter, (x, y, anchor) in zip(edges, places):
        draw.text((x, y), letter, fill=_INK, font=font, anchor=anchor, stroke_width=1, stroke_fill=_PAPER)
    return np.asarray(picture)


def _words(line: Sequence[Word]) -> npt.NDArray[np.uint8]:
    """Words, those with a colour with a square of it before them."""
    from PIL import Image as Pictures, ImageDraw

    font = _font()
    befores = [_WORDS + 2 if colour else 0 for _, colour in line]
    widths = [int(font.getlength(word)) + before + 8 for (word, _), before in zip(line, befores)]
    picture = Pictures.new("RGB", (2 + sum(widths), _WORDS + 6), _PAPER)
    draw, left = ImageDraw.Draw(picture), 2
    for (word, colour), before, width in zip(line, befores, widths):
        if colour:
            draw.rectangle((left, 4, left + _WORDS - 4, _WORDS), fill=colour)
        draw.text((left + before, 1), word, fill=_INK, font=font)
        left += width
    return np.asarray(picture)


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(_WORDS)


def _stacked(pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """One below the other, as wide as the widest picture; nothing is cut off."""
    width = max(each.shape[1] for each in pictures)
    padded = [np.pad(each, ((0, _GAP), (0, width - each.shape[1]), (0, 0))) for each in pictures]
    return np.concatenate(padded)[:-_GAP]
