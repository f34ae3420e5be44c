"""Read what a model is given, to look at it: pictures, NIfTI, DICOM files and series, numpy arrays."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc import inputs
from modelhub_hpc.errors import InputError
from modelhub_hpc.inputs import Geometry

MOST_VOXELS = 1 << 27  # what is decoded as a whole to be looked at
_SAMPLE = 200_000  # voxels that the first window is judged by
_SOFT_TISSUE = -160.0, 240.0  # HU
# what readers are known to raise on files that are whole and yet not what they know
_ERRORS = (ValueError, KeyError, AttributeError, TypeError, NotImplementedError, RuntimeError, EOFError, OSError)


class Unviewable(Exception):
    """The file cannot be shown here, which says nothing about the model."""


@dataclass(frozen=True)
class Image:
    """voxels: z, y, x as they are stored, or z, y, x, c with the colours red, green and blue (uint8).

    window: the values that are black and white at first. notes: what is not shown.
    """

    voxels: npt.NDArray[Any]
    geometry: Geometry | None
    window: tuple[float, float]
    modality: str = ""
    unit: str = ""
    notes: tuple[str, ...] = ()

    @property
    def coloured(self) -> bool:
        return self.voxels.ndim == 4

    @property
    def picture(self) -> bool:
        """Whether it has one plane and no place in a patient: nothing to browse through."""
        return self.geometry is None and self.voxels.shape[0] == 1

    @property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest value, which may be equal."""
        finite = _finite(self.voxels)
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def read(path: str, files: Sequence[str] = ()) -> Image:
    """The image in a file, or of a folder with a DICOM series. Raises Unviewable with the reason.

    path: of what has passed inputs.check(); files: those of the series, where its folder holds more.
    """
    kind = "application/dicom" if os.path.isdir(path) or inputs.is_dicom(path) else None
    kind = kind or inputs.sniff(path) or inputs.mime(path) or ""
    reader = _READERS.get(kind) or (_picture if kind.startswith("image/") else None)
    if reader is None:
        raise Unviewable(f"Files of the type {kind or 'of this one'} are not shown here.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd headers, which have been judged
        try:
            return _dicom(path, files) if files else reader(path)
        except InputError as error:
            raise Unviewable(str(error).replace(path, os.path.basename(path))) from error
        except _ERRORS as error:
            raise Unviewable(f"It cannot be decoded here: {' '.join(str(error).split())[:200]}") from error


def first_window(voxels: npt.NDArray[Any]) -> tuple[float, float]:
    """Black and white such that one voxel of a hundred is beyond each; never equal."""
    if voxels.dtype in (np.uint8, np.bool_):
        return 0.0, 255.0 if voxels.dtype == np.uint8 else 1.0
    some = voxels[:: max(1, voxels.shape[0] // 64)].ravel()
    finite = _finite(some[:: max(1, some.size // _SAMPLE)])
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
    if low == high and finite.size:  # mostly background
        low, high = finite.min(), finite.max()
    return float(low), float(high if high > low else low + 1)


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _demand(count: int) -> None:
    if count > MOST_VOXELS:
        raise Unviewable(f"With {count:,} voxels it is too large to be shown here (at most {MOST_VOXELS:,}).")


def _picture(path: str) -> Image:
    from PIL import Image as Pictures

    with Pictures.open(path) as picture:
        _demand(picture.width * picture.height)
        grey = picture.mode in ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")
        voxels = np.asarray(picture if grey else picture.convert("RGB"))
        notes = ("The first of its frames is shown.",) if getattr(picture, "n_frames", 1) > 1 else ()
    voxels = voxels.astype(np.uint8) * 255 if voxels.dtype == bool else voxels
    return Image(voxels[np.newaxis], None, first_window(voxels[np.newaxis]), notes=notes)


def _nifti(path: str) -> Image:
    import nibabel

    volume: Any = nibabel.load(path)
    shape = tuple(volume.shape)
    _demand(math.prod(shape[:3]))
    notes = (f"The first of {math.prod(shape[3:])} volumes is shown.",) if math.prod(shape[3:]) > 1 else ()
    data = np.asanyarray(volume.dataobj[(slice(None),) * 3 + (0,) * len(shape[3:])] if shape[3:] else volume.dataobj)
    if data.dtype.names:
        voxels = np.stack([data[name] for name in data.dtype.names[:3]], axis=-1)
        voxels = np.transpose(_deep(voxels, 4), (2, 1, 0, 3))
    else:
        data = np.abs(data) if data.dtype.kind == "c" else data
        voxels = _plain(np.transpose(_deep(data, 3)))
    return Image(voxels, inputs.geometry(path), first_window(voxels), notes=notes)


def _deep(data: npt.NDArray[Any], ndim: int) -> npt.NDArray[Any]:
    """With as many axes; missing ones come after those that there are, but before the colours."""
    missing = (1,) * (ndim - data.ndim)
    space = data.shape if ndim == 3 else data.shape[:-1]
    return data.reshape((*space, *missing, *data.shape[len(space) :]))


def _plain(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Doubles as floats: nobody sees the difference, and they take half the room."""
    return data.astype(np.float32) if data.dtype.kind == "f" and data.dtype.itemsize != 4 else data


def _dicom(path: str, files: Sequence[str] = ()) -> Image:
    paths = sorted(os.path.join(path, name) for name in os.listdir(path)) if os.path.isdir(path) else [path]
    paths = list(files) or paths
    slices, count = list[tuple[Image, float]](), 0
    for each in filter(inputs.is_dicom, paths):
        slices.append(_dicom_file(each))
        count += slices[-1][0].voxels.size
        _demand(count)
    if len(paths) > 1:
        slices.sort(key=lambda each: each[1])
    first = slices[0][0]
    voxels = np.concatenate([each[0].voxels for each in slices])
    window = first.window if len(slices) == 1 or first.modality == "CT" else first_window(voxels)
    return Image(voxels, inputs.geometry(path, files), window, first.modality, first.unit, first.notes)


def _dicom_file(path: str) -> tuple[Image, float]:
    """The pixels of one file, and how far along the normal of its plane they lie, in mm."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    data = pydicom.dcmread(path, force=True)
    frames = int(data.get("NumberOfFrames") or 1)
    _demand(int(data.Rows) * int(data.Columns) * frames)
    pixels = data.pixel_array
    coloured = int(data.get("SamplesPerPixel") or 1) == 3
    pixels = pixels.reshape((frames, *pixels.shape[-3 if coloured else -2 :]))
    values = pixels if coloured else _plain(np.asarray(apply_modality_lut(pixels, data)))
    modality = str(data.get("Modality") or "")
    unit = "HU" if modality == "CT" else str(data.get("RescaleType") or "")
    image = Image(values, None, _dicom_window(data, values), modality, unit)
    return image, _height(data)


def _dicom_window(data: Any, values: npt.NDArray[Any]) -> tuple[float, float]:
    """As the file asks for; white and black change places in MONOCHROME1."""
    centre, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        low, high = _SOFT_TISSUE if data.get("Modality") == "CT" else first_window(values)
    else:
        low, high = centre - width / 2, centre + width / 2
    return (high, low) if data.get("PhotometricInterpretation") == "MONOCHROME1" else (low, high)


def _first(value: Any) -> float | None:
    """The first number of a value that may be several."""
    try:
        number = float(value if isinstance(value, (str, float, int)) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if math.isfinite(number) else None


def _height(data: Any) -> float:
    try:
        axes = [float(each) for each in data.ImageOrientationPatient]
        place = [float(each) for each in data.ImagePositionPatient]
        return float(np.dot(np.cross(axes[:3], axes[3:]), place))
    except (AttributeError, TypeError, ValueError):
        return float(_first(data.get("InstanceNumber")) or 0.0)


def _numpy(path: str) -> Image:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
        raise Unviewable("Archives of several arrays are not shown here.")
    voxels = as_voxels(array)
    if voxels is None:
        raise Unviewable(f"An array of the shape {array.shape} and the type {array.dtype} is no image.")
    _demand(voxels.size)
    voxels = _plain(np.asarray(voxels))
    return Image(voxels, None, first_window(voxels))


def as_voxels(array: npt.NDArray[Any], colours: bool = True) -> npt.NDArray[Any] | None:
    """y, x or z, y, x as z, y, x; None for no image.

    colours: whether three or four bytes at the end are such; then z, y, x, c.
    """
    if array.dtype.kind not in "biuf" or array.size == 0:
        return None
    if colours and array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] in (3, 4):
        array = array[..., :3]
        return array if array.ndim == 4 else array[np.newaxis]
    array = array.reshape(array.shape[-3:]) if math.prod(array.shape[:-3]) == 1 and array.ndim > 3 else array
    if array.ndim not in (2, 3) or min(array.shape[-2:]) < 2:
        return None
    return array if array.ndim == 3 else array[np.newaxis]


_READERS: dict[str, Callable[[str], Image]] = {
    "application/nii": _nifti,
    "application/nii-gzip": _nifti,
    "application/dicom": _dicom,
    "application/octet-stream": _numpy,
}
