"""Write the weights of the model in tests/contributions/legacy27, as an .npy file, without numpy.

    python make_weights.py w.npy

float32, axes (class, pixel): three patterns of 8 x 8 pixels, each pixel +1/64 or -1/64.
"""

import array
import sys

SIDE = 8
PATTERNS = (lambda y, x: y, lambda y, x: x, lambda y, x: x + y)  # horizontal and vertical stripes, chequered


def weights():
    """Return the values in the order of the file."""
    return array.array("f", [(-1) ** pattern(y, x) / SIDE ** 2
                             for pattern in PATTERNS for y in range(SIDE) for x in range(SIDE)])


def header():
    """Return what an .npy file of version 1 begins with: 128 bytes."""
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" % (len(PATTERNS), SIDE ** 2)
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode("ascii") + b"\n"


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as stream:
        stream.write(header() + weights().tobytes())
