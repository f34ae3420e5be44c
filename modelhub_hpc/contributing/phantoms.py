"""Phantoms, images that are made up, of every type that a contribution can begin with: a bright ball on dark ground."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Mapping

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

_SIDE = 64  # pixels, rows and columns
_SLICES = 16
_SPACING_MM = (1.0, 1.0, 3.0)  # x, y, z
_Pixels = NDArray[np.uint8]


def make(mime: str) -> tuple[str, bytes]:
    """The extension and the content of an image of that type, the same each time; KeyError: see TYPES."""
    extension, write = _WRITERS[mime]
    return extension, write()


def _ball() -> _Pixels:
    """(z, y, x): 20 outside to 220 in its middle, which lies above the middle of the image."""
    z, y, x = np.ogrid[-1 : 1 : _SLICES * 1j, -1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    return np.asarray(20 + 200 * np.clip(1 - 2 * (z**2 + (y + 0.25) ** 2 + x**2), 0, 1), np.uint8)


def _disc() -> _Pixels:
    """(y, x)"""
    return np.asarray(_ball()[_SLICES // 2])


def _picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(_disc()).save(stream, kind)
    return stream.getvalue()


def _nifti() -> bytes:
    affine = np.diag([-_SPACING_MM[0], -_SPACING_MM[1], _SPACING_MM[2], 1.0])  # NIfTI counts to the right and front
    return bytes(nib.nifti1.Nifti1Image(_ball().T, affine).to_bytes())  # type: ignore[no-untyped-call]


def _nrrd() -> bytes:
    header = f"""\
        NRRD0004
        type: uint8
        dimension: 3
        sizes: {_SIDE} {_SIDE} {_SLICES}
        spacings: {_numbers()}
        encoding: raw
        """
    return _lines(header) + b"\n" + _ball().tobytes()


def _mha() -> bytes:
    header = f"""\
        ObjectType = Image
        NDims = 3
        BinaryData = True
        BinaryDataByteOrderMSB = False
        ElementSpacing = {_numbers()}
        DimSize = {_SIDE} {_SIDE} {_SLICES}
        ElementType = MET_UCHAR
        ElementDataFile = LOCAL
        """
    return _lines(header) + _ball().tobytes()


def _numbers() -> str:
    return " ".join(map(str, _SPACING_MM))


def _lines(header: str) -> bytes:
    return "".join(f"{line.strip()}\n" for line in header.strip().splitlines()).encode("ascii")


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, _disc()[np.newaxis].astype(np.float32), allow_pickle=False)
    return stream.getvalue()


def _dicom() -> bytes:
    image = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = "2.25.1", "2.25.1.1", "2.25.1.1.1"
    image.PatientName, image.PatientID, image.Modality = "Made^Up", "0", "OT"
    image.Rows = image.Columns = _SIDE
    image.PixelSpacing = [_SPACING_MM[1], _SPACING_MM[0]]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelData = (_disc().astype("<u2") * 16).tobytes()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, image, enforce_file_format=True)
    return stream.getvalue()


_WRITERS: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "image/png": (".png", lambda: _picture("PNG")),
    "image/jpeg": (".jpg", lambda: _picture("JPEG")),
    "image/tiff": (".tif", lambda: _picture("TIFF")),
    "image/bmp": (".bmp", lambda: _picture("BMP")),
    "application/dicom": (".dcm", _dicom),
    "application/nii": (".nii", _nifti),
    "application/nii-gzip": (".nii.gz", lambda: gzip.compress(_nifti(), mtime=0)),
    "application/nrrd": (".nrrd", _nrrd),
    "application/mha": (".mha", _mha),
    "application/octet-stream": (".npy", _npy),
}
# what `make` knows
TYPES = tuple(_WRITERS)
# those that are volumes, z, y, x
VOLUMES = frozenset({"application/nii", "application/nii-gzip", "application/nrrd", "application/mha"})
