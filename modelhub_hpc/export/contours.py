"""Outlines as polygons, in pixels and in the patient: what a radiotherapy structure set is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import strictjson
from modelhub_hpc.export.dicoms import segments
from modelhub_hpc.export.items import Item, LeftOut, missing
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.runfolder import Json, replacing
from modelhub_hpc.viewing.layers import label_colour
from modelhub_hpc.viewing.outlines import outline

_DIGITS = 4  # of coordinates, in pixels and in mm
_TRACED = (
    "The line half-way between the centres of marked and other pixels, slice by slice (marching squares): "
    "a pixel is marked if its centre lies within an odd number of polygons."
)
_GIVEN = "As the model gave them."


@dataclass(frozen=True)
class Polygon:
    """points: x, y, z in voxels, [0, 0, 0] is the centre of the first; all in slice z, or None where none is said."""

    points: npt.NDArray[np.float64]
    slice: int | None
    hole: bool | None = None  # None: nobody knows


def contours(item: Item, target: Path) -> None:
    """`target`, a JSON file with the polygons of each structure. Raises LeftOut."""
    structures = list(_structures(item))
    geometry = item.volume.geometry if item.type == "mask_image" else item.source.geometry
    told: dict[str, Json] = {
        "case_id": item.source.case.id,
        "output": item.spec.name,
        "run_id": item.run.request.run_id,
        "method": _TRACED if item.type == "mask_image" else _GIVEN,
        "pixels": "x, y in voxels of the slice; 0, 0 is the centre of the first",
        "patient": "x, y, z in mm, LPS as in DICOM" if geometry else "not known: the input does not say where it lies",
        "dicom": _references(item),
    }
    instances = _instances(item)
    listed = [
        {
            "label": label,
            "name": item.labels.get(str(label), str(label)) if label is not None else item.spec.name,
            "colour": list(label_colour(label or 1)),
            "polygons": [_told(polygon, geometry, instances) for polygon in polygons],
        }
        for label, polygons in structures
    ]
    with replacing(target) as text:
        text.write(strictjson.dumps({**told, "structures": listed}) + "\n")


def _structures(item: Item) -> Iterator[tuple[int | None, Iterable[Polygon]]]:
    if item.type == "mask_image":
        if not item.mask.any():
            raise LeftOut("the mask is empty", empty=True)
        yield from ((label, traced(item.mask, label)) for label in segments(item))
    else:
        yield None, list(_given(item))


def _given(item: Item) -> Iterator[Polygon]:
    """Of the model's own contours; those of two numbers per point lie in the only slice, if there is one."""
    prediction = item.array.tolist() if item.output.dataset is not None else item.output.prediction
    found = outline(item.spec.name, prediction)
    if prediction == []:
        raise LeftOut("there is no contour", empty=True)
    if found is None:
        raise LeftOut("it is no list of contours [[x, y], ...]")
    flat = item.source.geometry is not None and item.source.geometry.size[2] == 1
    for line in found.lines:
        if line.shape[1] == 3:
            depth = line[0, 2]
            yield Polygon(line, int(depth) if (line[:, 2] == depth).all() and depth == int(depth) else None)
        else:
            yield Polygon(np.column_stack([line, np.zeros(len(line))]), 0 if flat else None)


def traced(mask: npt.NDArray[Any], label: int) -> Iterator[Polygon]:
    """Around the voxels of a label, slice by slice: the rim of each part, followed by its holes."""
    try:
        import contourpy
    except ImportError:
        raise missing("contourpy") from None
    for z in np.flatnonzero((mask == label).any(axis=(1, 2))).tolist():
        marked = mask[z] == label
        rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
        part = marked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        tracer = contourpy.contour_generator(z=np.pad(part, 1).astype(np.float64), fill_type="OuterOffset")
        for points, offsets in zip(*tracer.filled(0.5, 2.0)):
            places = np.asarray(points) + (columns[0] - 1, rows[0] - 1)
            for number, (start, end) in enumerate(zip(offsets[:-1], offsets[1:])):
                ring = places[start : end - 1]  # whose last point is the first
                yield Polygon(np.column_stack([ring, np.full(len(ring), z)]), z, hole=number > 0)


def _told(polygon: Polygon, geometry: Geometry | None, instances: tuple[str, ...]) -> dict[str, Json]:
    known = geometry is not None and polygon.slice is not None
    has_file = polygon.slice is not None and 0 <= polygon.slice < len(instances)
    return {
        "slice": polygon.slice,
        "sop_instance_uid": instances[polygon.slice] if has_file and polygon.slice is not None else None,
        "hole": polygon.hole,
        "pixels": polygon.points[:, :2].round(_DIGITS).tolist(),
        "patient": in_patient(polygon.points, geometry).round(_DIGITS).tolist() if known and geometry else None,
    }


def in_patient(points: npt.NDArray[np.float64], geometry: Geometry) -> npt.NDArray[np.float64]:
    """Points x, y, z in voxels as x, y, z in mm, LPS."""
    steps = np.reshape(geometry.direction, (3, 3)) * np.asarray(geometry.spacing)
    placed: npt.NDArray[np.float64] = np.asarray(geometry.origin) + points @ steps.T
    return placed


def _instances(item: Item) -> tuple[str, ...]:
    """The SOPInstanceUID of each slice; () where the input is not DICOM."""
    try:
        return tuple(str(each.get("SOPInstanceUID", "")) for each in item.source.slices)
    except LeftOut:
        return ()


def _references(item: Item) -> Json:
    """What a structure set refers to; None where the input is not DICOM."""
    try:
        first = item.source.slices[0]
    except LeftOut:
        return None
    wanted = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID")
    return {name: str(first[name].value) for name in wanted if name in first}
