"""Masks as DICOM segmentations that refer to the images they were made from."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import __version__
from modelhub_hpc.errors import times
from modelhub_hpc.export.items import Item, LeftOut, missing
from modelhub_hpc.runfolder import arriving
from modelhub_hpc.viewing.layers import label_colour

if TYPE_CHECKING:
    from pydicom import Dataset

_MOST_CHARS = 64  # of a DICOM text of the kinds LO and SH
_SERIES = 1000  # its number, beyond those that scanners give
# what a segmentation repeats of its images, and they may lack: it may be empty there, but not be missing
_REPEATED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
# what highdicom and pydicom are known to raise for inputs that lack what a segmentation has to repeat
_ERRORS = (ValueError, AttributeError, KeyError, TypeError, IndexError, RuntimeError)


def segmentation(item: Item, target: Path) -> None:
    """`target`, a DICOM file with a segment for each label, declared ones first. Raises LeftOut."""
    slices, mask = item.source.slices, item.mask
    if len(slices) == 1 and int(slices[0].get("NumberOfFrames") or 1) > 1:
        raise LeftOut("the input has several frames in one file, whose places are not read here")
    if mask.shape != (len(slices), int(slices[0].Rows), int(slices[0].Columns)):
        found, wanted = mask.shape, (len(slices), slices[0].Rows, slices[0].Columns)
        raise LeftOut(f"the mask has {times(found)} voxels in z, y, x, the DICOM input {times(wanted)}")
    labels = segments(item)
    if not mask.any():
        raise LeftOut("the mask is empty, and a DICOM segmentation without a segment is none", empty=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd values in the input's header, which are repeated as they are
            made = _segmentation(item, slices, _numbered(mask, labels), labels)
            with arriving(target) as part:
                made.save_as(part)
    except _ERRORS as error:
        raise LeftOut(f"highdicom cannot make one of this input: {' '.join(str(error).split())[:200]}") from error


def segments(item: Item) -> Sequence[int]:
    """The labels of a mask but 0: those that are declared, then others that it holds."""
    declared = sorted({int(key) for key in item.labels if key.isdecimal()} - {0})
    return [*declared, *sorted(set(np.unique(item.mask).tolist()) - {0, *declared})]


def _numbered(mask: npt.NDArray[Any], labels: Sequence[int]) -> npt.NDArray[Any]:
    """The mask with the numbers of segments, from 1, instead of labels."""
    kind = np.uint8 if len(labels) < 256 else np.uint16
    if list(labels) == list(range(1, len(labels) + 1)):
        return mask.astype(kind, copy=False)
    numbered = np.zeros(mask.shape, kind)
    for number, label in enumerate(labels, 1):
        numbered[mask == label] = number
    return numbered


def _segmentation(item: Item, slices: Sequence[Dataset], pixels: npt.NDArray[Any], labels: Sequence[int]) -> Any:
    try:
        import highdicom
    except ImportError:
        raise missing("highdicom") from None
    from pydicom.sr.codedict import codes

    model, run_id = item.run.request.model, item.run.request.run_id
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_text(model.name), family=codes.cid7162.ArtificialIntelligence, version=_text(model.version)
    )
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_text(item.labels.get(str(label), f"label {label}")),
            # what a label means in a clinical vocabulary nobody has said
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=_meaning(item, label),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_id=_text(f"{run_id} {item.name} {label}"),
            tracking_uid=_uid(item, "segment", str(label)),
            display_color=highdicom.color.CIELabColor.from_rgb(*label_colour(label)),
        )
        for number, label in enumerate(labels, 1)
    ]
    return highdicom.seg.Segmentation(
        source_images=[_complete(each) for each in slices],
        pixel_array=pixels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=_uid(item, "series"),
        series_number=_SERIES,
        sop_instance_uid=_uid(item, "instance"),
        instance_number=1,
        manufacturer="modelhub-hpc",
        manufacturer_model_name=_text(model.name),
        software_versions=_text(f"modelhub-hpc {__version__}"),
        device_serial_number=_text(run_id),
        content_description=_text(item.spec.description or item.spec.name),
        content_label="SEGMENTATION",
        series_description=_text(f"{item.spec.name} by {model.name}"),
    )


def _complete(image: Dataset) -> Dataset:
    for name in _REPEATED:
        if name not in image:
            setattr(image, name, "")
    return image


def _meaning(item: Item, label: int) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(str(label), "99MODELHUB", _text(item.labels.get(str(label), f"label {label}")))


def _uid(item: Item, *parts: str) -> str:
    """The same each time, so that an export that is repeated replaces what an archive has of it."""
    named = "\0".join([item.run.request.run_id, item.source.case.id, item.name, *parts])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, named).int}"


def _text(text: str) -> str:
    """As DICOM holds it in every character set: one line of ASCII, without what separates values."""
    plain = " ".join(text.encode("ascii", "replace").decode().replace("\\", "/").split())
    return "".join(c if c.isprintable() else "?" for c in plain)[:_MOST_CHARS].strip() or "-"
