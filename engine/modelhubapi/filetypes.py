"""What kind of file an upload is: by its content where that says it, by its name where it doesn't."""

import collections
import mimetypes
import struct
import zlib

from modelhublib.dicom import starts_dataset

Kind = collections.namedtuple("Kind", "extension mimes")

# The first MIME type of each is the usual one; the others are found in configurations, too.
_NIFTI = ("application/nii", "application/nifti", "application/x-nifti",
          "image/nii", "image/nifti", "image/x.nifti")
PNG = Kind(".png", ("image/png",))
JPEG = Kind(".jpg", ("image/jpeg", "image/jpg", "image/pjpeg"))
GIF = Kind(".gif", ("image/gif",))
BMP = Kind(".bmp", ("image/bmp", "image/x-ms-bmp"))
TIFF = Kind(".tif", ("image/tiff", "image/tif"))
WEBP = Kind(".webp", ("image/webp",))
DICOM = Kind(".dcm", ("application/dicom", "image/dicom"))
NPY = Kind(".npy", ("application/octet-stream", "application/npy", "application/x-npy", "application/numpy"))
NPZ = Kind(".npz", ("application/octet-stream", "application/npz", "application/x-npz", "application/zip"))
NIFTI = Kind(".nii", _NIFTI)
NIFTI_GZ = Kind(".nii.gz", ("application/nii-gzip", "application/nii-gz", "application/gzip",
                            "application/x-gzip") + _NIFTI)
NRRD = Kind(".nrrd", ("application/nrrd", "application/x-nrrd", "image/nrrd"))
MHA = Kind(".mha", ("application/mha", "application/x-mha", "image/x-metaimage", "application/metaimage"))
JSON = Kind(".json", ("application/json", "text/json"))

# Kinds whose content always shows: a file with such a name and other content is not one.
_SIGNATURES = (
    (PNG, b"\x89PNG\r\n\x1a\n"), (JPEG, b"\xff\xd8\xff"), (GIF, b"GIF87a"), (GIF, b"GIF89a"), (BMP, b"BM"),
    (TIFF, b"II*\0"), (TIFF, b"MM\0*"), (TIFF, b"II+\0"), (TIFF, b"MM\0+"),
    (NPY, b"\x93NUMPY"), (NRRD, b"NRRD"), (MHA, b"ObjectType"), (MHA, b"Comment"),
    (MHA, b"NDims"), (NPZ, b"PK\3\4"))
_SHOWING = tuple(kind for kind, _ in _SIGNATURES) + (WEBP, NIFTI, NIFTI_GZ)
KINDS = _SHOWING + (DICOM, JSON)
_BY_EXTENSION = dict((kind.extension, kind) for kind in KINDS)
_BY_EXTENSION.update({".jpeg": JPEG, ".jpe": JPEG, ".tiff": TIFF, ".dicom": DICOM})
_UNKNOWN = Kind("", ("application/octet-stream",))

_HEAD_BYTES = 4096


def kind_of(path, name=""):
    """Return the Kind of the file at path; name is what its sender called it. Raises IOError."""
    with open(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    named = _kind_by_name(name)
    shown = _kind_by_content(head)
    if shown is not None:
        return shown
    if named in _SHOWING or (named is DICOM and not starts_dataset(head)):
        return _UNKNOWN
    if named is not None:
        return named
    if head.lstrip()[:1] == b"{":
        return JSON
    return DICOM if starts_dataset(head) else _UNKNOWN


def is_accepted(kind, formats):
    """True if one of the MIME types of kind is among formats, where "image/*" is any image; no formats means all."""
    allowed = [str(mime).lower() for mime in formats]
    return not allowed or any(mime in allowed or mime.split("/")[0] + "/*" in allowed for mime in kind.mimes)


def _kind_by_content(head):
    for kind, signature in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[128:132] == b"DICM":
        return DICOM
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if _is_nifti(head):
        return NIFTI
    if head[:2] == b"\x1f\x8b" and _is_nifti(_unpacked(head)):
        return NIFTI_GZ
    return None


def _kind_by_name(name):
    name = name.lower()
    extension = ".nii.gz" if name.endswith(".nii.gz") else name[name.rfind("."):] if "." in name else ""
    if extension in _BY_EXTENSION:
        return _BY_EXTENSION[extension]
    mime = mimetypes.guess_type("x" + extension)[0]
    return Kind(extension, (mime,)) if mime and extension[1:].isalnum() else None


def _is_nifti(head):
    if len(head) < 348:
        return False
    sizes = struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4])
    return (348 in sizes and head[344:348] in (b"n+1\0", b"ni1\0")) or (540 in sizes and head[4:7] == b"n+2")


def _unpacked(head):
    """Return the beginning of what gzip packed, as far as head reaches; empty for what gzip did not pack."""
    try:
        return zlib.decompressobj(31).decompress(head, _HEAD_BYTES)
    except zlib.error:
        return b""
