"""Outlines as polygons, in pixels and in the patient: what a radiotherapy structure set is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
class Polygons:
    """Those of one structure, their points one after the other: there may be a hundred thousand of them.

    points: x, y, z in voxels, [0, 0, 0] is the centre of the first. Of each polygon, counts: its points; slices: z,
    None where nobody has said it; holes: None where nobody knows.
    """

    points: npt.NDArray[np.float64]
    counts: Sequence[int]
    slices: Sequence[int | None]
    holes: Sequence[bool | None]


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
        **_references(item),
    }
    instances = _instances(item)
    listed = [
        {
            **({} if label is None else {"label": label}),
            "name": item.spec.name if label is None else item.labels.get(str(label), str(label)),
            "colour": list(label_colour(label or 1)),
            "polygons": list(_told(polygons, geometry, instances)),
        }
        for label, polygons in structures
    ]
    with replacing(target) as text:
        text.write(strictjson.dumps({**told, "structures": listed}) + "\n")


def _structures(item: Item) -> Iterator[tuple[int | None, Polygons]]:
    if item.type == "mask_image":
        if not item.mask.any():
            raise LeftOut("the mask is empty", empty=True)
        yield from ((label, traced(item.mask, label)) for label in segments(item))
    else:
        yield None, _given(item)


def _given(item: Item) -> Polygons:
    """The model's own contours; those of two numbers per point lie in the only slice, if there is one."""
    prediction = item.array.tolist() if item.output.dataset is not None else item.output.prediction
    found = outline(item.spec.name, prediction)
    if prediction == []:
        raise LeftOut("there is no contour", empty=True)
    if found is None:
        raise LeftOut("it is no list of contours [[x, y], ...]")
    flat = item.source.geometry is not None and item.source.geometry.size[2] == 1
    deep = [line if line.shape[1] == 3 else np.pad(line, ((0, 0), (0, 1))) for line in found.lines]
    slices = [_slice_of(line) if line.shape[1] == 3 else 0 if flat else None for line in found.lines]
    return Polygons(np.concatenate(deep), list(map(len, deep)), slices, [None] * len(deep))


def _slice_of(line: npt.NDArray[np.float64]) -> int | None:
    """The z that all points have; None where they have several, or one between slices."""
    depth = float(line[0, 2])
    return int(depth) if depth.is_integer() and bool((line[:, 2] == depth).all()) else None


def traced(mask: npt.NDArray[Any], label: int) -> Polygons:
    """Around the voxels of a label, slice by slice: the rim of each part, followed by its holes."""
    try:
        import contourpy
    except ImportError:
        raise missing("contourpy") from None
    points, counts, slices, holes = [np.zeros((0, 3))], list[int](), list[int | None](), list[bool | None]()
    for z in np.flatnonzero((mask == label).any(axis=(1, 2))).tolist():
        marked = mask[z] == label
        rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
        part = np.pad(marked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float64)
        tracer = contourpy.contour_generator(z=part, fill_type="ChunkCombinedOffsetOffset")
        traces: Any = tracer.filled(0.5, 2.0)
        (places,), (ends,), (rims,) = traces
        kept = np.delete(places, ends[1:] - 1, axis=0) + (columns[0] - 1, rows[0] - 1)  # the last point is the first
        is_hole = np.ones(len(ends) - 1, bool)
        is_hole[rims[:-1]] = False
        points.append(np.column_stack([kept, np.full(len(kept), z)]))
        counts += (np.diff(ends) - 1).tolist()
        slices += [z] * len(is_hole)
        holes += is_hole.tolist()
    return Polygons(np.concatenate(points), counts, slices, holes)


def _told(polygons: Polygons, geometry: Geometry | None, instances: Sequence[str]) -> Iterator[dict[str, Json]]:
    """Each as JSON; what is not known of it is not there."""
    pixels = polygons.points[:, :2].round(_DIGITS).tolist()
    patient = in_patient(polygons.points, geometry).round(_DIGITS).tolist() if geometry is not None else []
    end = 0
    for count, slice_, hole in zip(polygons.counts, polygons.slices, polygons.holes):
        start, end = end, end + count
        told: dict[str, Json] = {"pixels": pixels[start:end]}
        if slice_ is not None:
            told["slice"] = slice_
            if patient:
                told["patient"] = patient[start:end]
            if 0 <= slice_ < len(instances):
                told["sop_instance_uid"] = instances[slice_]
        if hole is not None:
            told["hole"] = hole
        yield told


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


def _references(item: Item) -> dict[str, Json]:
    """What a structure set refers to; nothing where the input is not DICOM."""
    try:
        first = item.source.slices[0]
    except LeftOut:
        return {}
    wanted = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID")
    return {"dicom": {name: str(first[name].value) for name in wanted if name in first}}
