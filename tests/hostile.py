"""Write inputs as studies and attackers bring them, each with what the check must say of it."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)


@dataclass(frozen=True)
class Expectation:
    """`path` is surrogateescape text; `kind` is that of the InputError, None where the input is sound."""

    path: str
    ok: bool
    kind: str | None


Write = Callable[[str], None]
MAKERS: dict[str, tuple[str, str | None, Write]] = {}


def hostile(name: str, file_name: str, kind: str | None) -> Callable[[Write], Write]:
    """Register a writer: its case, its file's name, and the kind of its error (None: sound)."""

    def register(write: Write) -> Write:
        MAKERS[name] = (file_name, kind, write)
        return write

    return register


def make_all(folder: str | os.PathLike[str]) -> dict[str, Expectation]:
    """Write every hostile input, each in a folder of its own, so that names cannot clash."""
    return {name: make(name, folder) for name in MAKERS}


def make(name: str, folder: str | os.PathLike[str]) -> Expectation:
    """Write one of them."""
    file_name, kind, write = MAKERS[name]
    home = os.path.join(os.fspath(folder), name)
    os.makedirs(home)
    path = os.path.join(home, file_name)
    write(path)
    if name == "mode_000" and os.geteuid() == 0:
        kind = None  # root reads what nobody may
    return Expectation(path, kind is None, kind)


def put(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


# Pictures


def png(size: tuple[int, int] = (16, 12), mode: str = "L") -> bytes:
    """A PNG of noise, (width, height)."""
    return _picture(size, mode, "PNG")


def _picture(size: tuple[int, int], mode: str, kind: str) -> bytes:
    width, height = size
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(7).integers(0, 256, (height, width, channels), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise.squeeze()).save(out, kind)
    return out.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, idat: bytes, interlace: int = 0) -> bytes:
    """An 8 bit grey PNG with these compressed scan lines."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", idat) + png_chunk(b"IEND", b"")


@lru_cache(maxsize=None)
def zeros(count: int) -> bytes:
    """`count` zero bytes, zlib-compressed without holding them."""
    stream, out, block = zlib.compressobj(6), io.BytesIO(), bytes(1 << 20)
    for _ in range(count >> 20):
        out.write(stream.compress(block))
    out.write(stream.compress(bytes(count % (1 << 20))))
    return out.getvalue() + stream.flush()


_SOUND_PNG = {
    "png_ok": "ok.png",
    "png_rgb_named_upper": "OK.PNG",
    "name_space": "a b.png",
    "name_newline": "a\nb.png",
    "name_quotes": "a\"b'c.png",
    "name_unicode": "größe-日本-\u202e.png",
    "name_dash": "-rf.png",
    "name_shell": "$(id);`id`.png",
    "name_not_utf8": os.fsdecode(b"\xff\xfe.png"),
    "name_comma": "a,b:c.png",
    "name_long": "x" * 251 + ".png",
    "png_without_extension": "scan",
    "png_named_jpg": "scan.jpg",
}
for _name, _file in _SOUND_PNG.items():
    hostile(_name, _file, None)(lambda path: put(path, png()))
for _kind, _ext in (("JPEG", "jpg"), ("BMP", "bmp"), ("GIF", "gif"), ("TIFF", "tif"), ("WEBP", "webp")):
    _data = _picture((64, 48), "RGB", _kind)
    hostile(f"{_ext}_ok", f"ok.{_ext}", None)(partial(put, data=_data))
    hostile(f"{_ext}_truncated", f"cut.{_ext}", "truncated")(partial(put, data=_data[: len(_data) * 2 // 3]))


@hostile("png_interlaced", "adam7.png", None)
def _(path: str) -> None:
    """8 x 8, interlaced: 1 + 1 + 2 + 2 + 4 + 4 + 8 ... bytes in seven passes."""
    rows = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    put(path, png_of(8, 8, zlib.compress(b"".join((b"\0" + bytes(w)) * h for w, h in rows)), interlace=1))


@hostile("png_truncated", "cut.png", "truncated")
def _(path: str) -> None:
    put(path, png((64, 64))[:-500])


@hostile("png_60_bytes", "cut60.png", "truncated")
def _(path: str) -> None:
    put(path, png((64, 64))[:60])


@hostile("png_no_iend", "noend.png", "truncated")
def _(path: str) -> None:
    put(path, png()[:-12])


@hostile("png_bad_crc", "crc.png", "damaged")
def _(path: str) -> None:
    data = bytearray(png((64, 64)))
    data[len(data) // 2] ^= 0xFF
    put(path, bytes(data))


@hostile("png_few_lines", "few.png", "truncated")
def _(path: str) -> None:
    put(path, png_of(100, 100, zlib.compress(bytes(101 * 60))))


@hostile("png_bomb", "bomb.png", "too-big")
def _(path: str) -> None:
    put(path, png_of(20000, 20000, zeros(20000 * 20001)))


@hostile("png_huge_header", "huge.png", "too-big")
def _(path: str) -> None:
    put(path, png_of(2**31 - 1, 2**31 - 1, zlib.compress(bytes(10))))


@hostile("png_small_header_bomb", "inner.png", None)
def _(path: str) -> None:
    put(path, png_of(8, 8, zeros(1 << 28)))  # readers stop after the announced lines, so must the check


@hostile("text_named_png", "notes.png", "damaged")
def _(path: str) -> None:
    put(path, b"patient 12: see other folder\n")


@hostile("jpeg_without_pixels", "head.jpg", "truncated")
def _(path: str) -> None:
    put(path, _picture((64, 64), "RGB", "JPEG")[:100])


# What is no plain file


@hostile("empty", "empty.png", "empty")
def _(path: str) -> None:
    put(path, b"")


@hostile("missing", "gone.png", "missing")
def _(path: str) -> None:
    """Nothing is written."""


@hostile("fifo", "pipe.png", "not-a-file")
def _(path: str) -> None:
    os.mkfifo(path)


@hostile("folder_named_png", "folder.png", "not-a-file")
def _(path: str) -> None:
    os.mkdir(path)


@hostile("link_dangling", "dangling.png", "missing")
def _(path: str) -> None:
    os.symlink("nowhere.png", path)


@hostile("link_loop", "loop.png", "unreadable")
def _(path: str) -> None:
    os.symlink(os.path.basename(path), path)


@hostile("link_ok", "link.png", None)
def _(path: str) -> None:
    put(path + ".target", png())
    os.symlink(os.path.basename(path) + ".target", path)


@hostile("mode_000", "secret.png", "unreadable")
def _(path: str) -> None:
    put(path, png())
    os.chmod(path, 0)


# NIfTI


def nifti(voxels: np.ndarray[Any, Any], path: str) -> None:
    """Save voxels (x, y, z) with 1 x 2 x 3 mm spacing at (10, 20, 30) RAS."""
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)  # type: ignore[no-untyped-call]


def _voxels(dtype: str = "int16") -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(0, 100, (12, 10, 8)).astype(dtype)


def nifti_bytes(packed: bool = False) -> bytes:
    data: bytes = nibabel.Nifti1Image(_voxels(), np.eye(4)).to_bytes()  # type: ignore[no-untyped-call]
    return gzip.compress(data) if packed else data


def _with_dims(dims: tuple[int, ...], payload: bytes = b"", code: int = 2) -> bytes:
    """A header that announces `dims` (rank first) of uint8 voxels."""
    head = bytearray(nifti_bytes()[:352])
    struct.pack_into("<8h", head, 40, *(*dims, *[1] * (8 - len(dims))))
    struct.pack_into("<hh", head, 70, code, 8)
    return bytes(head) + payload


def _patched(offset: int, value: float) -> bytes:
    data = bytearray(nifti_bytes())
    struct.pack_into("<f", data, offset, value)
    return bytes(data)


@hostile("nii_ok", "ok.nii", None)
def _(path: str) -> None:
    nifti(_voxels(), path)


@hostile("nii_gz_ok", "ok.nii.gz", None)
def _(path: str) -> None:
    nifti(_voxels("float32"), path)


@hostile("nii2_ok", "two.nii", None)
def _(path: str) -> None:
    nibabel.save(nibabel.Nifti2Image(_voxels(), np.eye(4)), path)  # type: ignore[no-untyped-call]


@hostile("nii_pair_ok", "pair.hdr", None)
def _(path: str) -> None:
    nibabel.save(nibabel.Nifti1Pair(_voxels(), np.eye(4)), path)  # type: ignore[no-untyped-call]


@hostile("nii_pair_without_img", "pair.hdr", "missing")
def _(path: str) -> None:
    nibabel.save(nibabel.Nifti1Pair(_voxels(), np.eye(4)), path)  # type: ignore[no-untyped-call]
    os.unlink(path[:-4] + ".img")


@hostile("nii_nan", "nan.nii.gz", None)
def _(path: str) -> None:
    voxels = _voxels("float32")
    voxels[0, 0, 0], voxels[1, 1, 1], voxels[2, 2, 2] = np.nan, np.inf, -np.inf
    nifti(voxels, path)


@hostile("nii_slope_nan", "slope.nii", None)
def _(path: str) -> None:
    put(path, _patched(112, float("nan")))  # what writers put there to say: not scaled


@hostile("nii_slope_inf", "slope.nii", "damaged")
def _(path: str) -> None:
    put(path, _patched(112, float("inf")))


@hostile("nii_truncated", "cut.nii", "truncated")
def _(path: str) -> None:
    put(path, nifti_bytes()[:900])


@hostile("nii_header_only", "head.nii", "truncated")
def _(path: str) -> None:
    put(path, nifti_bytes()[:100])


@hostile("nii_gz_truncated", "cut.nii.gz", "truncated")
def _(path: str) -> None:
    put(path, nifti_bytes(packed=True)[:-200])


@hostile("nii_gz_of_truncated", "cut.nii.gz", "truncated")
def _(path: str) -> None:
    put(path, gzip.compress(nifti_bytes()[:900]))


@hostile("nii_gz_bad_crc", "crc.nii.gz", "damaged")
def _(path: str) -> None:
    data = bytearray(nifti_bytes(packed=True))
    data[-6] ^= 0xFF
    put(path, bytes(data))


@hostile("nii_huge_dims", "huge.nii", "too-big")
def _(path: str) -> None:
    put(path, _with_dims((3, 30000, 30000, 30000)))


@hostile("nii_negative_dims", "negative.nii", "damaged")
def _(path: str) -> None:
    put(path, _with_dims((3, -12, 10, 8), bytes(960)))


@hostile("nii_unknown_type", "type.nii", "damaged")
def _(path: str) -> None:
    put(path, _with_dims((3, 12, 10, 8), bytes(960), code=999))


@hostile("nii_singular", "singular.nii", "damaged")
def _(path: str) -> None:
    data = bytearray(nifti_bytes())
    struct.pack_into("<12f", data, 280, *[0.0] * 12)
    put(path, bytes(data))


@hostile("nii_plain_named_gz", "plain.nii.gz", "damaged")
def _(path: str) -> None:
    put(path, nifti_bytes())


@hostile("nii_gz_named_plain", "packed.nii", "damaged")
def _(path: str) -> None:
    put(path, nifti_bytes(packed=True))


@hostile("nii_garbage_named_gz", "garbage.nii.gz", "damaged")
def _(path: str) -> None:
    put(path, b"\x1f\x8b" + bytes(range(256)) * 4)


@hostile("nii_bomb", "bomb.nii.gz", "too-big")
def _(path: str) -> None:
    put(path, _gzip_zeros(_with_dims((3, 1000, 1000, 300)), 300_000_000))


@hostile("nii_hidden_bomb", "hidden.nii.gz", "damaged")
def _(path: str) -> None:
    put(path, _gzip_zeros(_with_dims((3, 12, 10, 8)), 300_000_000))


@lru_cache(maxsize=None)
def _gzip_zeros(head: bytes, count: int) -> bytes:
    block, out = bytes(1 << 20), io.BytesIO()
    with gzip.open(out, "wb", compresslevel=6) as file:
        file.write(head)
        for _ in range(count >> 20):
            file.write(block)
        file.write(bytes(count % (1 << 20)))
    return out.getvalue()


# numpy


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


class Evil:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/an-array-ran-code",)


def _npy_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@hostile("npy_ok", "ok.npy", None)
def _(path: str) -> None:
    put(path, npy_bytes(_voxels("float32")))


@hostile("npy_object", "object.npy", "unsupported")
def _(path: str) -> None:
    put(path, npy_bytes(np.array([{"a": 1}, None], dtype=object)))


@hostile("npy_evil", "evil.npy", "unsupported")
def _(path: str) -> None:
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    put(path, _npy_header(text) + pickle.dumps(Evil()))


@hostile("npy_pickle", "pickle.npy", "damaged")
def _(path: str) -> None:
    put(path, pickle.dumps(Evil()))


@hostile("npy_huge_header", "huge.npy", "too-big")
def _(path: str) -> None:
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    put(path, _npy_header(text) + bytes(80))


@hostile("npy_code_header", "code.npy", "damaged")
def _(path: str) -> None:
    put(path, _npy_header(b"__import__('os').system('touch /tmp/an-array-ran-code')\n") + bytes(80))


@hostile("npy_truncated", "cut.npy", "truncated")
def _(path: str) -> None:
    put(path, npy_bytes(_voxels("float32"))[:-100])


@hostile("npz_ok", "ok.npz", None)
def _(path: str) -> None:
    np.savez_compressed(path, image=_voxels())


@hostile("npz_object", "object.npz", "unsupported")
def _(path: str) -> None:
    np.savez(path, image=np.array([{}, None], dtype=object))


@hostile("npz_truncated", "cut.npz", "damaged")
def _(path: str) -> None:
    np.savez(path + ".npz", image=_voxels())
    put(path, Path(path + ".npz").read_bytes()[:-300])
    os.unlink(path + ".npz")


@hostile("npz_bomb", "bomb.npz", "too-big")
def _(path: str) -> None:
    put(path, _npz_zeros())


@lru_cache(maxsize=None)
def _npz_zeros() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(_npy_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (300000000,), }\n"))
        for _ in range(300):
            member.write(bytes(1_000_000))
    return out.getvalue()


# DICOM


def dicom(
    path: str, series: str = "1.2.3", number: int = 1, implicit: bool = False, **changes: Any
) -> Dataset:
    """Write one CT slice of 16 x 12 pixels at z = 2.5 mm x number; a change to None removes the element."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "CT", series, "1.2"
    data.PatientName, data.InstanceNumber = "Nobody", number
    data.ImagePositionPatient, data.ImageOrientationPatient = [-8.0, -6.0, 2.5 * number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [0.5, 0.75], 2.5
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 12, 16, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = np.random.default_rng(number).integers(0, 999, (12, 16), dtype=np.uint16).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    dcmwrite(path, data, enforce_file_format=True)
    return data


def _rle(path: str, cut: int = 0) -> None:
    data = dicom(path)
    data.compress(RLELossless, generate_instance_uid=False)
    dcmwrite(path, data, enforce_file_format=True)
    put(path, Path(path).read_bytes()[:-cut] if cut else Path(path).read_bytes())


def dicom_series(folder: str, series: str = "1.2.3", count: int = 5) -> None:
    """Write slices whose names order them otherwise than their positions do."""
    os.makedirs(folder, exist_ok=True)
    for i in range(1, count + 1):
        dicom(os.path.join(folder, f"{series}-{(i * 7) % 11:02d}.dcm"), series, i)


@hostile("dicom_ok", "ok.dcm", None)
def _(path: str) -> None:
    dicom(path)


@hostile("dicom_implicit_ok", "IM000001", None)
def _(path: str) -> None:
    dicom(path, implicit=True)


@hostile("dicom_rle_ok", "rle.dcm", None)
def _(path: str) -> None:
    _rle(path)


@hostile("dicom_rle_truncated", "rle.dcm", "truncated")
def _(path: str) -> None:
    _rle(path, cut=60)


def _deflated(path: str, **changes: Any) -> None:
    data = dicom(path, **changes)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dcmwrite(path, data, enforce_file_format=True)


@hostile("dicom_deflated_ok", "deflated.dcm", None)
def _(path: str) -> None:
    _deflated(path)


@hostile("dicom_deflated_short", "deflated.dcm", "truncated")
def _(path: str) -> None:
    _deflated(path, PixelData=bytes(8))


@hostile("dicom_deflated_bomb", "deflated.dcm", "too-big")
def _(path: str) -> None:
    _deflated(path, PixelData=bytes(80_000_000))


@hostile("dicom_no_pixels", "nopixels.dcm", "no-pixels")
def _(path: str) -> None:
    dicom(path, PixelData=None)


@hostile("dicom_short_pixels", "short.dcm", "truncated")
def _(path: str) -> None:
    dicom(path, PixelData=bytes(8))


@hostile("dicom_huge_frames", "frames.dcm", "too-big")
def _(path: str) -> None:
    dicom(path, NumberOfFrames=1_000_000_000)


@hostile("dicom_missing_frames", "frames.dcm", "truncated")
def _(path: str) -> None:
    dicom(path, NumberOfFrames=3)


@hostile("dicom_no_rows", "norows.dcm", "damaged")
def _(path: str) -> None:
    dicom(path, Rows=None)


@hostile("dicom_truncated", "cut.dcm", "truncated")
def _(path: str) -> None:
    dicom(path)
    put(path, Path(path).read_bytes()[:-100])


@hostile("dicom_truncated_header", "cut.dcm", "truncated")
def _(path: str) -> None:
    dicom(path)
    put(path, Path(path).read_bytes()[:420])


@hostile("dicom_no_preamble", "nopreamble.dcm", None)
def _(path: str) -> None:
    dicom(path)
    put(path, Path(path).read_bytes()[132:])


@hostile("dicom_sr", "report.dcm", "no-pixels")
def _(path: str) -> None:
    dicom(path, SOPClassUID=EnhancedSRStorage, Modality="SR", PixelData=None, Rows=None, Columns=None)


@hostile("text_named_dcm", "notes.dcm", "damaged")
def _(path: str) -> None:
    put(path, b"patient 12: see other folder, there is nothing in this one\n" * 4)


@hostile("dicom_series", "series", None)
def _(path: str) -> None:
    dicom_series(path)


@hostile("dicom_two_series", "mixed", None)
def _(path: str) -> None:
    dicom_series(path, "1.2.3")
    dicom_series(path, "1.2.4")


@hostile("dicom_series_one_cut", "series", "truncated")
def _(path: str) -> None:
    dicom_series(path)
    last = sorted(os.listdir(path))[-1]
    put(os.path.join(path, last), Path(path, last).read_bytes()[:-100])


@hostile("dicom_series_sizes", "series", "damaged")
def _(path: str) -> None:
    dicom_series(path)
    dicom(os.path.join(path, "odd.dcm"), number=9, Rows=6)


@hostile("folder_empty", "series", "empty")
def _(path: str) -> None:
    os.mkdir(path)


# NRRD and MetaImage

_NRRD = (
    "NRRD0004\n# comment\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 10 8\n"
    "space directions: (1,0,0) (0,2,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
    "encoding: {}\n"
    "space origin: (-10,-20,30)\n{}"
)
_MHA = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = {}\n{}"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -10 -20 30\nElementSpacing = 1 2 3\n"
    "DimSize = 12 10 8\n"
    "ElementType = MET_SHORT\nElementDataFile = {}\n"
)


def nrrd(path: str, encoding: str = "raw", data_file: str = "", cut: int = 0) -> None:
    """Write 12 x 10 x 8 voxels of 1 x 2 x 3 mm at LPS (-10, -20, 30)."""
    voxels = _voxels().tobytes(order="F")
    packed = gzip.compress(voxels) if encoding == "gzip" else voxels
    packed = packed[: len(packed) - cut]
    head = _NRRD.format(encoding, f"data file: {data_file}\n" if data_file else "\n").encode()
    if data_file:
        put(os.path.join(os.path.dirname(path), data_file), packed)
    put(path, head if data_file else head + packed)


def mha(
    path: str, packed: bool = False, data_file: str = "LOCAL", cut: int = 0, announced: int | None = None
) -> None:
    """The same as MetaImage; announced: the size that the header gives of its compressed data, 0 for none."""
    voxels = _voxels().tobytes(order="F")
    data = zlib.compress(voxels) if packed else voxels
    size = len(data) if announced is None else announced
    data = data[: len(data) - cut]
    head = _MHA.format(
        packed, f"CompressedDataSize = {size}\n" if packed and size else "", data_file
    ).encode()
    if data_file != "LOCAL":
        put(os.path.join(os.path.dirname(path), data_file), data)
    put(path, head + data if data_file == "LOCAL" else head)


_NRRDS: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
    ("nrrd_ok", "ok.nrrd", None, {}),
    ("nrrd_gzip_ok", "gz.nrrd", None, {"encoding": "gzip"}),
    ("nrrd_detached_ok", "head.nhdr", None, {"data_file": "voxels.raw"}),
    ("nrrd_truncated", "cut.nrrd", "truncated", {"cut": 100}),
    ("nrrd_gzip_truncated", "cut.nrrd", "truncated", {"encoding": "gzip", "cut": 100}),
    ("nrrd_detached_truncated", "head.nhdr", "truncated", {"data_file": "voxels.raw", "cut": 1}),
)
_MHAS: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
    ("mha_ok", "ok.mha", None, {}),
    ("mha_packed_ok", "packed.mha", None, {"packed": True}),
    ("mhd_ok", "head.mhd", None, {"data_file": "voxels.raw"}),
    ("mha_truncated", "cut.mha", "truncated", {"cut": 100}),
    ("mha_packed_truncated", "cut.mha", "truncated", {"packed": True, "cut": 100}),
    ("mha_packed_no_size", "packed.mha", "damaged", {"packed": True, "announced": 0}),
    ("mha_packed_small_size", "packed.mha", "damaged", {"packed": True, "announced": 100}),
    ("mhd_truncated", "head.mhd", "truncated", {"data_file": "voxels.raw", "cut": 1}),
)
for _name, _file, _fault, _options in _NRRDS:
    hostile(_name, _file, _fault)(partial(nrrd, **_options))
for _name, _file, _fault, _options in _MHAS:
    hostile(_name, _file, _fault)(partial(mha, **_options))


@hostile("nrrd_outside", "out.nhdr", "unsupported")
def _(path: str) -> None:
    put(path, _NRRD.format("raw", "data file: ../../../../../../etc/passwd\n").encode())


@hostile("mhd_missing_data", "head.mhd", "missing")
def _(path: str) -> None:
    put(path, _MHA.format(False, "", "gone.raw").encode())


@hostile("nrrd_huge", "huge.nrrd", "too-big")
def _(path: str) -> None:
    put(path, _NRRD.format("raw", "\n").replace("12 10 8", "90000 90000 90000").encode() + bytes(100))
