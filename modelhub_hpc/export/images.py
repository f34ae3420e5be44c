"""Outputs as images: NIfTI on the grid of the input, and pictures to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import viewing
from modelhub_hpc.errors import times
from modelhub_hpc.export.items import Item, LeftOut, whole
from modelhub_hpc.runfolder import Json, arriving, dumps, replacing
from modelhub_hpc.viewing import Image, Layer, View
from modelhub_hpc.viewing.exports import write_nifti
from modelhub_hpc.viewing.layers import LABEL_COLOURS
from modelhub_hpc.viewing.outlines import outline
from modelhub_hpc.viewing.stills import still
from modelhub_hpc.viewing.views import png


def nifti(item: Item, target: Path, sidecar: Mapping[str, Json]) -> None:
    """`target`, a .nii.gz, and the sidecar beside it, which is there first. Raises LeftOut."""
    voxels, geometry = _typed(item), item.volume.geometry
    if geometry is None:
        raise LeftOut("the input does not say where its voxels lie, and NIfTI would have to")
    if voxels.ndim == 4:
        voxels = voxels.transpose(1, 2, 3, 0)
    beside = target.with_name(target.name.removesuffix(".nii.gz") + ".json")
    with replacing(beside) as text:
        text.write(dumps({**sidecar, **_notes(voxels)}, indent=2) + "\n")
    with arriving(target) as part, open(part, "xb") as stream:
        write_nifti(stream, voxels, geometry)


def facts(item: Item) -> dict[str, Json]:
    """What a sidecar says of an output."""
    axes = "x,y,z,c" if item.volume.voxels.ndim == 4 else "x,y,z"
    return {
        "case_id": item.source.case.id,
        "input": _utf8(item.source.path),
        "output": item.spec.name,
        "type": item.type,
        "description": item.spec.description,
        "labels": dict(item.labels),
        "axes": axes,
        "run_id": item.run.request.run_id,
        "model": {"name": item.run.request.model.name, "version": item.run.request.model.version},
    }


def _typed(item: Item) -> npt.NDArray[Any]:
    """Labels as whole numbers, maps as float32, pictures as they are."""
    voxels = item.volume.voxels
    if voxels.dtype.kind not in "biuf":
        raise LeftOut(f"NIfTI does not hold values of the type {voxels.dtype}")
    if item.type == "mask_image":
        return whole(voxels)
    return voxels.astype(np.float32, copy=False) if item.type == "heatmap" else voxels


def _notes(voxels: npt.NDArray[Any]) -> dict[str, Json]:
    odd = voxels.size - int(np.count_nonzero(np.isfinite(voxels))) if voxels.dtype.kind == "f" else 0
    return {"notes": [f"{odd} voxels are NaN or infinite."]} if odd else {}


def _utf8(path: str) -> str:
    """The name of a file as text that every JSON reader takes."""
    return path.encode("utf-8", "backslashreplace").decode()


def picture(item: Item, target: Path) -> None:
    """`target`, a .png; of a mask with one plane also its labels, in the folder labels/ beside it. Raises LeftOut."""
    views, layers = _views(item)
    notes = [note for each in layers for note in each.notes]
    stills = png(still(views, item.labels, notes))
    if item.type == "mask_image" and len(layers) == 1 and layers[0].voxels.shape[0] == 1:
        folder = target.parent / "labels"
        folder.mkdir(exist_ok=True)
        _write_labels(whole(layers[0].voxels[0]), folder / target.name)
    with arriving(target) as part:
        part.write_bytes(stills)


def _views(item: Item) -> tuple[View, Sequence[Layer]]:
    if item.type == "contour":
        return _outlined(item), ()
    image = _ground(item)
    grid = None if image is None else image.voxels.shape[:3]
    axes = item.spec.axes
    layers = viewing.layers_of(item.spec.name, item.type, item.array, axes, grid and (grid[0], grid[1], grid[2]))
    if not layers:
        raise LeftOut(f"an array of {times(item.array.shape)} and the type {item.array.dtype} is no image")
    on, off = viewing.view_of(image, layers)
    if image is None or item.type == "image":
        return viewing.view_of(None, layers)[1][0], layers
    if on is None or off:
        raise LeftOut(off[0].notes[0] if off and off[0].notes else "it does not lie on the input")
    return on, layers


def _ground(item: Item) -> Image | None:
    """The input, without which only pictures can be shown."""
    try:
        return item.source.image
    except LeftOut:
        if item.type != "image":
            raise
        return None


def _outlined(item: Item) -> View:
    given = item.array.tolist() if item.output.dataset is not None else item.output.prediction
    found = outline(item.spec.name, given)
    if given == []:
        raise LeftOut("there is no contour", empty=True)
    if found is None:
        raise LeftOut("it is no list of contours [[x, y], ...], or has more points than can be drawn")
    view, _ = viewing.view_of(item.source.image, (), [found])
    assert view is not None
    return view


def _write_labels(labels: npt.NDArray[Any], target: Path) -> None:
    """Rows, columns as a PNG whose pixels are the labels, with the colours that pictures have."""
    from PIL import Image as Pictures

    if labels.dtype != np.uint8:
        raise LeftOut(f"its labels reach from {labels.min()} to {labels.max()}, and PNG holds 0 to 255")
    indexed = Pictures.fromarray(np.ascontiguousarray(labels))
    colours = [LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)] for label in range(1, 256)]
    indexed.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    with arriving(target) as part:
        indexed.save(part, "PNG")
