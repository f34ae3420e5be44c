"""The samples of a contribution: which they are, and whether they are what its configuration asks for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError

from modelhub_hpc import inputs
from modelhub_hpc.contributing.findings import Finding, error, warning
from modelhub_hpc.contribution import Contribution, InputSpec
from modelhub_hpc.errors import InputError, InvalidError, shown

FOLDER = "contrib_src/sample_data"
_INSIDE = "/contrib_src/"  # where the model sees its folder
_LIMITS = inputs.InputLimits()


@dataclass(frozen=True)
class Sample:
    """One case. name: of its file in sample_data; inputs: (key, path on this machine) pairs."""

    name: str
    inputs: tuple[tuple[str, Path], ...]


def find(model: Contribution) -> list[Sample]:
    """The samples: every file of sample_data, or its JSON files where inputs are several; sub-folders are none.

    Raises InvalidError for a JSON that names no files of the contribution.
    """
    return [sample for path in _files(model) for sample in _samples(model, path)]


def _files(model: Contribution) -> list[Path]:
    folder = model.contrib_src / "sample_data"
    try:
        listed = sorted(folder.iterdir())
    except OSError:
        return []
    plain = [path for path in listed if path.is_file() and not path.name.startswith(".")]
    return plain if model.single else [path for path in plain if path.suffix.lower() == ".json"]


def _samples(model: Contribution, path: Path) -> Iterator[Sample]:
    if model.single and path.suffix.lower() != ".json":
        yield Sample(path.name, (("single", path),))
        return
    try:
        given = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as reason:
        raise InvalidError(f"{FOLDER}/{shown(path.name)} is not JSON: {reason}") from reason
    objects = given if isinstance(given, list) else [given]
    for number, each in enumerate(objects, 1):
        pairs = tuple((spec.key, _path(model, path, each, spec.key)) for spec in model.inputs)
        yield Sample(path.name if len(objects) == 1 else f"{path.name}-{number}", pairs)


def _path(model: Contribution, path: Path, given: Any, key: str) -> Path:
    """The file of one input: beside the JSON, else from contrib_src on, as the engine looks for it."""
    entry = given.get(key) if isinstance(given, dict) else None
    url = entry.get("fileurl") if isinstance(entry, dict) else None
    name = f"{FOLDER}/{shown(path.name)}"
    if not isinstance(url, str) or not url:
        raise InvalidError(f'{name} lacks "{key}": {{"fileurl": PATH}}')
    places = (path.parent / url, model.contrib_src / url.removeprefix(_INSIDE))
    found = next((each for each in places if each.is_file()), None)
    if found is None:
        raise InvalidError(f"{name}: the file of {key}, {shown(url)}, is not there")
    if not found.resolve().is_relative_to(model.contrib_src.resolve()):
        raise InvalidError(f"{name}: the file of {key}, {shown(url)}, lies outside of contrib_src")
    return found


def judge(model: Contribution) -> Iterator[Finding]:
    """What is wrong with the samples of a model."""
    if not _files(model):
        kind = "file" if model.single else "JSON file that names the files of a case"
        what = f"holds no {kind}: nothing shows that the model works"
        yield error("samples", FOLDER, what, "Add a small case that may be published.")
    for path in _files(model):
        try:
            for sample in _samples(model, path):
                yield from _judge(model, sample)
        except InvalidError as reason:
            yield error("samples", FOLDER, str(reason), "Name files that lie in sample_data, from there on.")


def _judge(model: Contribution, sample: Sample) -> Iterator[Finding]:
    for spec, (_, path) in zip(model.inputs, sample.inputs):
        where = shown(path.relative_to(model.path)) if path.is_relative_to(model.path) else shown(path)
        if not inputs.accepts(spec, str(path)):
            formats = ", ".join(spec.formats)
            what = f"is no {formats}, which the input '{spec.key}' takes"
            yield error("samples", where, what, "Name the file after its type, or add the type to config.json.")
            continue
        try:
            inputs.check(str(path), _LIMITS)
            size = dims(path)
        except InputError as reason:
            yield error("samples", where, str(reason).replace(str(path), path.name), "Replace it by a whole file.")
        else:
            yield from _size(spec, size, where)


def _size(spec: InputSpec, size: tuple[int, ...] | None, where: str) -> Iterator[Finding]:
    if size is None:
        yield warning("samples", where, "its size is not known here, and was not compared", "mh-hpc test tries it.")
        return
    for number, (length, (low, high)) in enumerate(zip(size, spec.dim_limits)):
        if (low is not None and length < low) or (high is not None and length > high):
            allowed = f"{low if low is not None else 0} to {high if high is not None else 'any'}"
            what = f"has the size {list(size)}, but dim_limits[{number}] of '{spec.key}' allows {allowed}"
            yield error("samples", where, what, "Mend dim_limits, or take another sample.")
            return


def dims(path: Path) -> tuple[int, ...] | None:
    """The size of an image as ModelHub compares it: channels or z, then y, then x; None if it cannot be told here.

    path: of a file that has passed inputs.check().
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd values and sizes, which have been judged, and of old headers
        if inputs.extension(str(path)) == ".npy":
            return tuple(np.load(path, mmap_mode="r", allow_pickle=False).shape)
        if inputs.is_dicom(str(path)):
            return _dicom_dims(path)
        try:
            with Image.open(path) as picture:
                return (len(picture.getbands()), picture.height, picture.width)
        except (UnidentifiedImageError, OSError, ValueError):
            space = inputs.geometry(str(path))
    return tuple(reversed(space.size)) if space else None


def _dicom_dims(path: Path) -> tuple[int, ...] | None:
    tags = ["NumberOfFrames", "Rows", "Columns"]
    data = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
    frames, rows, columns = (data.get(tag) for tag in tags)
    return (int(frames or 1), int(rows), int(columns)) if rows and columns else None
