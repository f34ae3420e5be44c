"""Judge one input file before a model sees it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import IO

from modelhub_hpc.inputs.dicoms import (
    check_dicom,
    check_series,
    geometry_of_dicom,
    geometry_of_series,
    series_files,
    series_of,
)
from modelhub_hpc.errors import InputError
from modelhub_hpc.inputs.geometry import Geometry
from modelhub_hpc.inputs.numpyfiles import check_npy, check_npz
from modelhub_hpc.inputs.pictures import check_jpeg, check_picture, check_png
from modelhub_hpc.inputs.rawfiles import InputLimits, damaged, open_regular, os_error
from modelhub_hpc.contribution import InputSpec
from modelhub_hpc.inputs.textheaders import check_mha, check_nrrd, geometry_of_mha, geometry_of_nrrd
from modelhub_hpc.inputs.volumes import check_nifti, geometry_of_nifti, non_finite_of_nifti

__all__ = [
    "KNOWN_TYPES",
    "Geometry",
    "InputLimits",
    "accepts",
    "check",
    "extension",
    "geometry",
    "identity",
    "identity_or_zero",
    "is_dicom",
    "kind_of",
    "knows",
    "mime",
    "non_finite",
    "series_files",
    "series_of",
    "sniff",
]

_MIME = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jpe": "image/jpeg",
    ".jfif": "image/jpeg",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
    ".nii": "application/nii",
    ".nii.gz": "application/nii-gzip",
    ".nrrd": "application/nrrd",
    ".nhdr": "application/nrrd",
    ".mha": "application/mha",
    ".mhd": "application/mha",
    ".dcm": "application/dicom",
    ".dicom": "application/dicom",
    ".ima": "application/dicom",
    ".npy": "application/octet-stream",
    ".npz": "application/octet-stream",
}
_SPELLINGS = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/tif": "image/tiff",
    "image/x-ms-bmp": "image/bmp",
    "application/nii-gzip": "application/nii",
    "application/nii-gz": "application/nii",
    "application/nifti": "application/nii",
    "application/x-nifti": "application/nii",
    "application/mhd": "application/mha",
    "application/metaimage": "application/mha",
    "application/x-nrrd": "application/nrrd",
    "application/nhdr": "application/nrrd",
    "application/dcm": "application/dicom",
    "image/dicom": "application/dicom",
    "application/npy": "application/octet-stream",
    "application/x-npy": "application/octet-stream",
}
# Never opened to see what they are: tables, texts and archives that lie beside images.
_NOT_IMAGES = frozenset(
    ".txt .csv .tsv .json .jsonl .xml .md .rst .pdf .html .htm .log .py .ipynb .sh .zip .tar .tgz .bz2 .xz"
    " .7z .yaml .yml .toml .ini .cfg .doc .docx .xls .xlsx .ods .h5 .hdf5 .pkl .pt .pth .onnx .mat .sif"
    " .db .raw .img .bval .bvec .mp4 .avi .mov .wav .part .tmp".split()
)
_ANY = frozenset(_SPELLINGS.get(kind, kind) for kind in _MIME.values())
KNOWN_TYPES = frozenset(_MIME.values())
_SNIFF_BYTES = 352


def identity(path: str) -> tuple[int, int]:
    """Bytes and newest mtime in ns; of a folder, over the files in it. InputError missing or unreadable."""
    try:
        info = os.stat(path)
        if not stat.S_ISDIR(info.st_mode):
            return info.st_size, info.st_mtime_ns
        with os.scandir(path) as entries:
            infos = [entry.stat() for entry in entries if entry.is_file()]
    except OSError as error:
        raise os_error(path, error) from error
    return sum(i.st_size for i in infos), max((i.st_mtime_ns for i in infos), default=info.st_mtime_ns)


def identity_or_zero(path: str) -> tuple[int, int]:
    """`identity`, and zeros for a file that is not there: it fails when its turn comes."""
    try:
        return identity(path)
    except InputError:
        return 0, 0


def extension(path: str) -> str:
    """The lower-case extension with its dot, `.nii.gz` as one, "" without."""
    name = path[path.rfind("/") + 1 :].lower().lstrip(".")
    dot = name.rfind(".")
    ext = name[dot:] if dot > 0 else ""
    return ".nii.gz" if ext == ".gz" and name.endswith(".nii.gz") else ext


def mime(path: str) -> str | None:
    """The type that the name promises, None for an unknown one; looks at no file."""
    return _MIME.get(extension(path))


def knows(type: str) -> bool:
    """Whether files can be known to be of this MIME type, however it is spelled; image/* is known too."""
    name = type.strip().lower()
    return _SPELLINGS.get(name, name) in _ANY or name in {f"{kind.split('/')[0]}/*" for kind in _ANY}


def accepts(spec: InputSpec, path: str) -> bool:
    """Whether the model input takes such a file: by name, or by first bytes where that says nothing."""
    wanted = _wanted(spec.formats)
    ext = extension(path)
    kind = _MIME.get(ext)
    if kind is None and ext not in _NOT_IMAGES:
        kind = sniff(path)
    return kind is not None and _SPELLINGS.get(kind, kind) in wanted


def is_dicom(path: str) -> bool:
    """Whether a file is DICOM by its name, or by its first bytes where the name says nothing."""
    ext = extension(path)
    kind = _MIME.get(ext) or (None if ext in _NOT_IMAGES else sniff(path))
    return kind == "application/dicom"


@lru_cache(maxsize=64)
def _wanted(formats: tuple[str, ...]) -> frozenset[str]:
    names = {_SPELLINGS.get(name.strip().lower(), name.strip().lower()) for name in formats}
    if not names:
        return _ANY
    return frozenset(names | {kind for kind in _ANY if kind.split("/")[0] + "/*" in names})


def sniff(path: str) -> str | None:
    """The type that the first bytes show; None where they show none or cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        return kind_of(os.read(handle, _SNIFF_BYTES)) if regular else None
    except OSError:
        return None
    finally:
        os.close(handle)


def kind_of(head: bytes) -> str | None:
    """The type of a file that begins with these bytes (352 of them decide)."""
    if head[128:132] == b"DICM":
        return "application/dicom"
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "application/nii"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "image/bmp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"NRRD00", "application/nrrd"),
    (b"\x93NUMPY", "application/octet-stream"),
    (b"ObjectType", "application/mha"),
    (b"NDims", "application/mha"),
)

Check = Callable[[IO[bytes], str, InputLimits], object]
_CHECKS: dict[str, Check] = {
    "image/png": check_png,
    "image/jpeg": check_jpeg,
    "image/bmp": check_picture,
    "image/gif": check_picture,
    "image/tiff": check_picture,
    "image/webp": check_picture,
    "application/nii": check_nifti,
    "application/nrrd": check_nrrd,
    "application/mha": check_mha,
    "application/dicom": check_dicom,
    "application/octet-stream": check_npy,
    "application/zip": check_npz,
}


def check(path: str, limits: InputLimits) -> None:
    """Raise InputError where a file, or a folder with a DICOM series, is not a whole and harmless input.

    Content decides, then the name. Of a file that is of no known type it is only asked to be readable and
    not empty. Reads it once at most, holds some MB of it at a time.
    """
    if mime(path) in (None, "application/dicom") and os.path.isdir(path):
        _in_folder(check_series, path, limits)
        return
    with open_regular(path, limits) as file:
        try:
            kind = _kind(file, path)
            if kind is not None:
                _CHECKS[kind](file, path, limits)
        except OSError as error:
            raise os_error(path, error) from error


def _in_folder(look: Callable[[str, InputLimits], None], path: str, limits: InputLimits) -> None:
    try:
        look(path, limits)
    except OSError as error:
        raise os_error(path, error) from error


def _kind(file: IO[bytes], path: str) -> str | None:
    """The type to check a file as; InputError damaged where its name promises one that its content isn't."""
    head = file.read(_SNIFF_BYTES)
    promised = _MIME.get(extension(path))
    promised = _SPELLINGS.get(promised, promised) if promised else None
    found = kind_of(head)
    if promised == "application/octet-stream" and head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "application/zip"
    if found is not None or promised is None:
        return found
    if promised in ("application/nii", "application/dicom"):
        return promised  # may be packed, or lack its mark; their checks find out
    raise damaged(path, f"not {_NAMES[promised]}: starts with {head[:12]!r}")


_NAMES = {
    "image/png": "a PNG",
    "image/jpeg": "a JPEG",
    "image/bmp": "a BMP",
    "image/gif": "a GIF",
    "image/tiff": "a TIFF",
    "image/webp": "a WebP",
    "application/nrrd": "an NRRD file",
    "application/mha": "a MetaImage",
    "application/octet-stream": "a numpy array",
}


def non_finite(path: str) -> int | None:
    """How many voxels of a float NIfTI are NaN or infinite, read block by block; None for any other file."""
    if _SPELLINGS.get(mime(path) or "", mime(path)) != "application/nii" and sniff(path) != "application/nii":
        return None
    limits = InputLimits()
    with open_regular(path, limits) as file:
        return non_finite_of_nifti(file, path, limits)


def geometry(path: str, files: Sequence[str] = ()) -> Geometry | None:
    """Where the voxels of a NIfTI, NRRD, MetaImage, DICOM file or series folder lie; None of any other.

    files: those of the series, where its folder holds more. InputError where a file can't be read.
    """
    if files or os.path.isdir(path):
        return geometry_of_series(path, files)
    limits = InputLimits()
    with open_regular(path, limits) as file:
        kind = _kind(file, path)
        if kind == "application/nii":
            return geometry_of_nifti(file, path, limits)
        readers = {
            "application/nrrd": geometry_of_nrrd,
            "application/mha": geometry_of_mha,
            "application/dicom": geometry_of_dicom,
        }
        return readers[kind](file, path) if kind in readers else None
