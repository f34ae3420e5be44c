"""Images in every pose that a patient can have in a scanner, made by libraries that know nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

Array = npt.NDArray[Any]
SIZE = 9, 14, 11  # z, y, x
SPACING = 0.7, 1.3, 2.6  # x, y, z, mm
INTERCEPT = -1000


@dataclass(frozen=True)
class Pose:
    """axes: the directions of x, y, z in LPS, as columns."""

    axes: Array
    origin: tuple[float, float, float] = (-31.5, 12.25, 77.0)


def turned(about_x: float, about_z: float) -> Array:
    """A rotation by angles in degrees."""
    x, z = np.radians([about_x, about_z])
    first = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    second = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    rotation: Array = second @ first
    return rotation


POSES = {
    "straight": Pose(np.eye(3)),
    "oblique": Pose(turned(25, -40)),
    "flipped": Pose(np.diag([-1.0, -1.0, 1.0])),
    "left-handed": Pose(np.diag([1.0, 1.0, -1.0])),
    "left-handed oblique": Pose(turned(-15, 70) @ np.diag([1.0, -1.0, 1.0])),
    "sagittal": Pose(np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])),
}


def voxels(seed: int, size: tuple[int, int, int] = SIZE) -> Array:
    """z, y, x: noise with a bright block around something darker, so that no flip of it looks like another."""
    made = np.random.default_rng(seed).integers(0, 256, size).astype(np.int16)
    made[1:4, 2:9, 3:8] = 250
    made[1:4, 4:6, 5] = 150
    return made


def nifti(path: Path, pose: Pose, seed: int = 1) -> Array:
    """Writes the file; its voxels."""
    made = voxels(seed)
    affine = np.eye(4)
    affine[:3, :3] = pose.axes * SPACING
    affine[:3, 3] = pose.origin
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    nibabel.save(nibabel.Nifti1Image(made.T, affine), path)  # type: ignore[no-untyped-call]
    return made


def dicom(folder: Path, pose: Pose, seed: int = 1, uid: str = "2.25.77", backwards: bool = False) -> Array:
    """Writes a file for each slice, named in no order; the voxels, along the normal of the slices.

    The normal is that of rows and columns, whatever the pose's third axis says; backwards: numbered against it.
    """
    made = voxels(seed)
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(pose.axes[:, 0], pose.axes[:, 1])
    for z, plane in enumerate(made):
        image = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        image.SOPClassUID, image.Modality = CTImageStorage, "CT"
        image.StudyInstanceUID, image.SeriesInstanceUID = uid, f"{uid}.1"
        number = len(made) - z if backwards else z + 1
        image.SOPInstanceUID, image.InstanceNumber = f"{uid}.1.{number}", number
        image.FrameOfReferenceUID = f"{uid}.2"
        image.PatientName, image.PatientID = "M\u00fcller^Eva", "p 1"
        image.SpecificCharacterSet = "ISO_IR 192"
        image.Rows, image.Columns = plane.shape
        image.PixelSpacing, image.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        image.ImagePositionPatient = [f"{v:.9g}" for v in np.asarray(pose.origin) + z * SPACING[2] * normal]
        image.ImageOrientationPatient = [f"{v:.9g}" for v in (*pose.axes[:, 0], *pose.axes[:, 1])]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
        image.RescaleSlope, image.RescaleIntercept = 1, INTERCEPT
        image.PixelData = (plane - INTERCEPT).astype("<u2").tobytes()
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pydicom.dcmwrite(folder / f"{uid[-2:]}-{z * 5 % len(made)}.dcm", image, enforce_file_format=True)
    return made


def pixel_places(image: Any) -> Array:
    """Where the pixels of a DICOM slice lie, by the formula of the standard: rows, columns, 3; mm, LPS."""
    right, down = np.reshape(np.asarray(image.ImageOrientationPatient, float), (2, 3))
    high, wide = (float(each) for each in image.PixelSpacing)
    rows, columns = np.mgrid[: image.Rows, : image.Columns][..., np.newaxis]
    places: Array = np.asarray(image.ImagePositionPatient, float) + columns * wide * right + rows * high * down
    return places
