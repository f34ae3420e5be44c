"""Files to take away: arrays as NIfTI."""

from __future__ import annotations

import gzip
import io
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.inputs import Geometry

# what NIfTI-1 has, and readers know
_TYPES = {"b": np.uint8, "f": np.float32}
_WHOLE = ("uint8", "int8", "int16", "uint16", "int32", "uint32")


def nifti(voxels: npt.NDArray[Any], geometry: Geometry | None) -> bytes:
    """z, y, x[, c] as a packed NIfTI file; without geometry voxels of 1 mm at the origin.

    Raises ValueError for what NIfTI cannot hold.
    """
    packed = io.BytesIO()
    write_nifti(packed, voxels, geometry)
    return packed.getvalue()


def write_nifti(target: IO[bytes], voxels: npt.NDArray[Any], geometry: Geometry | None) -> None:
    """The same into a file, without another copy of it in memory."""
    import nibabel

    if voxels.dtype.kind not in "biuf" or voxels.ndim not in (3, 4):
        raise ValueError(f"an array of {voxels.dtype} with {voxels.ndim} axes is no NIfTI volume")
    stored = _storable(voxels.transpose(2, 1, 0, *range(3, voxels.ndim)))
    affine = _affine(geometry)
    image: Any = nibabel.Nifti1Image(stored, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    if geometry is not None:
        image.set_sform(affine, code="scanner")
        if not _sheared(geometry):
            image.set_qform(affine, code="scanner")
    with gzip.GzipFile("", "wb", 1, target, mtime=0) as packed:
        image.to_stream(packed)


def _sheared(geometry: Geometry) -> bool:
    """Whether its axes are not at right angles, for which there is no qform."""
    axes = np.reshape(geometry.direction, (3, 3))
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-5)


def _storable(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if voxels.dtype.name in (*_WHOLE, "float32", "float64"):
        return voxels
    if voxels.dtype.kind in _TYPES:
        return voxels.astype(_TYPES[voxels.dtype.kind])
    return voxels.astype(np.int32 if np.abs(voxels).max(initial=0) < 2**31 else np.float64)


def _affine(geometry: Geometry | None) -> npt.NDArray[np.float64]:
    """Voxel x, y, z to mm in RAS, which NIfTI speaks."""
    affine = np.eye(4)
    if geometry is not None:
        affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * np.asarray(geometry.spacing)
        affine[:3, 3] = geometry.origin
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return affine
