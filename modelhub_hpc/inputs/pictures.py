"""Check PNG, JPEG and the other 2-D picture formats."""

from __future__ import annotations

import re
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from modelhub_hpc.errors import InputError, shown
from modelhub_hpc.inputs.rawfiles import (
    BLOCK,
    InputLimits,
    damaged,
    demand_elements,
    size_of,
    truncated,
)

if TYPE_CHECKING:
    from PIL import Image

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHUNK_NAME = re.compile(rb"[A-Za-z]{4}")
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_DECODED_WHOLE = 40_000_000  # pixels up to which a rarer format is decoded to see that it is complete
# What Pillow's readers are known to raise on garbage.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
)


def _demand_size(path: str, width: int, height: int, channels: int, limits: InputLimits) -> None:
    if width < 1 or height < 1:
        raise damaged(path, f"its header says {width} x {height} pixels")
    if width * height > limits.max_pixels:
        what = f"{width} x {height} pixels; the limit is {limits.max_pixels:,}"
        raise InputError("too-big", f"{shown(path)}: {what}")
    demand_elements(path, width * height * channels, 1, limits)


@dataclass
class _Inflating:
    """Counts the bytes of PNG scan lines without keeping them."""

    expected: int
    found: int = 0

    def __post_init__(self) -> None:
        self._stream = zlib.decompressobj()

    def feed(self, data: bytes) -> None:
        while data and self.found < self.expected and not self._stream.eof:
            self.found += len(self._stream.decompress(data, BLOCK))
            data = self._stream.unconsumed_tail
        # A full buffer can hide what is left inside the stream.
        while self.found < self.expected and (more := self._stream.decompress(b"", BLOCK)):
            self.found += len(more)


def check_png(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """Walk the chunks: checksums, IEND, and as many scan lines as the header announces."""
    file.seek(8)
    lines: _Inflating | None = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise truncated(path, "the PNG ends without its IEND chunk")
        length, name = struct.unpack(">I4s", head)
        if not _CHUNK_NAME.fullmatch(name):
            raise damaged(path, f"no PNG chunk at byte {file.tell() - 8}")
        if lines is None:
            if name != b"IHDR" or length != 13:
                raise damaged(path, "the PNG does not begin with its header")
            lines = _Inflating(_png_bytes(file, path, limits))
        _check_chunk(file, path, name, length, lines)
        if name == b"IEND":
            break
    if lines.found < lines.expected:
        raise truncated(path, f"the PNG holds {lines.found:,} of {lines.expected:,} bytes of pixels")


def _check_chunk(file: IO[bytes], path: str, name: bytes, length: int, lines: _Inflating) -> None:
    checksum, left = zlib.crc32(name), length
    try:
        while left:
            block = file.read(min(left, BLOCK))
            if not block:
                raise truncated(path, f"the PNG ends inside its {name.decode()} chunk")
            checksum, left = zlib.crc32(block, checksum), left - len(block)
            if name == b"IDAT":
                lines.feed(block)
    except zlib.error as error:
        raise damaged(path, f"the PNG's pixels can't be unpacked ({error})") from error
    stored = file.read(4)
    if len(stored) < 4:
        raise truncated(path, f"the PNG ends inside its {name.decode()} chunk")
    if int.from_bytes(stored, "big") != checksum:
        raise damaged(path, f"wrong checksum in the PNG's {name.decode()} chunk")


def _png_bytes(file: IO[bytes], path: str, limits: InputLimits) -> int:
    """How many bytes the scan lines take unpacked; reads IHDR and goes back to it."""
    head = file.read(13)
    file.seek(-len(head), 1)
    if len(head) < 13:
        raise truncated(path, "the PNG ends inside its header")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", head)
    if colour not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16) or interlace > 1:
        raise damaged(path, f"the PNG's header has colour type {colour}, {depth} bits")
    _demand_size(path, width, height, _PNG_CHANNELS[colour], limits)
    bits = depth * _PNG_CHANNELS[colour]
    if not interlace:
        return int(height * (1 + (width * bits + 7) // 8))
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7]
    return sum(h * (1 + (w * bits + 7) // 8) for w, h in sizes if w > 0 and h > 0)


def check_jpeg(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """Walk the segments up to the end marker; pixels are not decoded, since no decoder tells damage there.

    That marker does not occur in compressed pixels: a file that ends with it is whole, and they need not be read.
    """
    file.seek(2)
    sized = False
    while True:
        marker = _next_marker(file, path)
        if marker == 0xD9:
            break
        if marker in (0x01, *range(0xD0, 0xD8)):
            continue
        body = _segment(file, path)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(body) < 6:
                raise damaged(path, "the JPEG's frame header is too short")
            height, width, channels = struct.unpack(">xHHB", body[:6])
            _demand_size(path, width, height or 1, channels, limits)  # 0: the height follows in a DNL segment
            sized = True
        elif marker == 0xDA:
            if _ends_with_marker(file):
                break
            _skip_scan(file, path)
    if not sized:
        raise damaged(path, "the JPEG has no frame")


def _ends_with_marker(file: IO[bytes]) -> bool:
    here = file.tell()
    file.seek(-2, os.SEEK_END)
    found = file.read(2) == b"\xff\xd9"
    file.seek(here)
    return found


def _next_marker(file: IO[bytes], path: str) -> int:
    first = file.read(2)
    while first[1:] == b"\xff":
        first = first[1:] + file.read(1)
    if len(first) < 2:
        raise truncated(path, "the JPEG ends without its end marker")
    if first[0] != 0xFF:
        raise damaged(path, f"no JPEG segment at byte {file.tell() - 2}")
    return first[1]


def _segment(file: IO[bytes], path: str) -> bytes:
    length = int.from_bytes(file.read(2), "big")
    body = file.read(max(length - 2, 0))
    if length < 2 or len(body) < length - 2:
        raise truncated(path, "the JPEG ends inside a segment")
    return body


def _skip_scan(file: IO[bytes], path: str) -> None:
    """Leave the file at the marker that ends the compressed pixels."""
    while True:
        start = file.tell()
        block = file.read(BLOCK)
        found = _MARKER_IN_SCAN.search(block)
        if found:
            file.seek(start + found.start())
            return
        if len(block) < BLOCK:
            raise truncated(path, "the JPEG ends without its end marker")
        file.seek(-1, 1)  # the last byte may be the first half of a marker


def check_picture(file: IO[bytes], path: str, limits: InputLimits) -> None:
    """Any other format that Pillow reads: BMP, GIF, TIFF, WebP."""
    from PIL import Image  # here, since PNG and JPEG do without it

    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > size_of(file):
        raise truncated(
            path,
            f"it should have {int.from_bytes(head[4:8], 'little') + 8:,} bytes, it has {size_of(file):,}",
        )
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are judged here
        try:
            with Image.open(file) as image:
                _demand_size(path, image.width, image.height, len(image.getbands()), limits)
                _demand_strips(image, path, size_of(file))
                if image.width * image.height <= _DECODED_WHOLE:
                    image.load()
        except Image.DecompressionBombError as error:
            raise InputError("too-big", f"{shown(path)}: {error}") from error
        except _PILLOW_ERRORS as error:
            raise _pillow_fault(path, error) from error


def _demand_strips(image: Image.Image, path: str, size: int) -> None:
    """The parts of a TIFF lie inside the file; images too large to decode here are judged by this alone."""
    tags = getattr(image, "tag_v2", None) or {}
    for offsets, counts in ((273, 279), (324, 325)):
        ends = [offset + count for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()))]
        if ends and max(ends) > size:
            raise truncated(path, f"its pixels should reach to byte {max(ends):,}, the file has {size:,}")


def _pillow_fault(path: str, error: BaseException) -> InputError:
    what = " ".join(str(error).split()) or type(error).__name__
    short = isinstance(error, EOFError) or "truncated" in what or "not enough" in what
    return truncated(path, what) if short else damaged(path, what)
