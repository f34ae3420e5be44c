"""DICOM files that lack the preamble and the letters DICM by which others know them."""

import struct


def is_bare(path):
    """True if the file at path begins like a DICOM dataset right away. Raises IOError."""
    with open(path, "rb") as stream:
        return starts_dataset(stream.read(8))


def starts_dataset(head):
    """True if the bytes of head begin with an element of group 2 or 8 that is not absurdly long."""
    if len(head) < 8:
        return False
    group, _, vr, short = struct.unpack("<HH2sH", head[:8])
    implicit = struct.unpack("<I", head[4:8])[0]
    explicit = vr.isalpha() and vr.isupper()
    return group in (2, 8) and (explicit and short < 1024 or implicit < 1024)
