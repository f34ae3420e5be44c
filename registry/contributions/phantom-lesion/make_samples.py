"""Writes phantom slices as DICOM files: the samples that come with the model, or as many as you like.

    python make_samples.py                 contrib_src/sample_data, and the thumbnail
    python make_samples.py DIR --count 12  DIR/slice-00.dcm ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from phantom import Phantom, make

CONTRIB_SRC = Path(__file__).resolve().parent / "contrib_src"
SEED = 2_000_000  # neither trained on nor measured with
SIZE = 60, 68  # rows, columns
INTERCEPT = -1024
SPACING_MM = 1.25
THICKNESS_MM = 5.0
# The slices are tilted: columns and rows of pixels run along these directions of the patient (LPS).
TILT = np.radians(15)
ALONG_ROW = np.array([np.cos(TILT), np.sin(TILT), 0.0])
ALONG_COLUMN = np.array([-np.sin(TILT) * 0.8, np.cos(TILT) * 0.8, -0.6])
STUDY = "2.25.208416171337"


def slice_of(number: int) -> Phantom:
    """Always the same one for a number; every third has no lesion."""
    return make(np.random.default_rng(SEED + number), SIZE, lesions=(number + 1) % 3)


def position(number: int) -> NDArray[np.float64]:
    """Where the centre of the first pixel of a slice lies, mm, LPS."""
    return np.array([-40.0, 35.0, 120.0]) + number * THICKNESS_MM * np.cross(ALONG_ROW, ALONG_COLUMN)


def write(phantom: Phantom, number: int, path: Path) -> None:
    """Writes one slice; the slices of a folder make a series."""
    image = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    image.SOPClassUID, image.Modality = CTImageStorage, "CT"
    image.StudyInstanceUID, image.SeriesInstanceUID = STUDY, f"{STUDY}.1"
    image.SOPInstanceUID, image.InstanceNumber = f"{STUDY}.1.{number + 1}", number + 1
    image.FrameOfReferenceUID = f"{STUDY}.2"
    image.PatientName, image.PatientID = "Phantom^Lesion", "phantom-lesion"
    image.Rows, image.Columns = phantom.hounsfield.shape
    image.PixelSpacing = [SPACING_MM] * 2
    image.SliceThickness = THICKNESS_MM
    image.ImagePositionPatient = [f"{each:.6f}" for each in position(number)]
    image.ImageOrientationPatient = [f"{each:.8f}" for each in (*ALONG_ROW, *ALONG_COLUMN)]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.RescaleSlope, image.RescaleIntercept = 1, INTERCEPT
    image.PixelData = (phantom.hounsfield - INTERCEPT).clip(0, 4095).astype("<u2").tobytes()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def thumbnail(phantom: Phantom) -> Image.Image:
    """The slice, its lesions tinted."""
    grey = (phantom.hounsfield.clip(-200, 250) + 200) * (255 / 450)
    colours = np.stack([grey] * 3, axis=-1)
    colours[phantom.lesions] = 0.6 * colours[phantom.lesions] + 0.4 * np.array([255, 0, 0])
    return Image.fromarray(colours.astype(np.uint8)).resize((192, 192), Image.Resampling.BICUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write phantom slices as DICOM files.")
    parser.add_argument("folder", type=Path, nargs="?", help="default: the samples of the contribution")
    parser.add_argument("--count", type=int, default=3, help="slices (default: %(default)s)")
    arguments = parser.parse_args()
    folder = arguments.folder or CONTRIB_SRC / "sample_data"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.count):
        write(slice_of(number), number, folder / f"slice-{number:02d}.dcm")
    if arguments.folder is None:
        thumbnail(slice_of(1)).save(CONTRIB_SRC / "model" / "thumbnail.jpg", quality=85)


if __name__ == "__main__":
    main()
