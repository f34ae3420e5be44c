import gzip
import struct

import numpy as np

TYPES = {2: np.uint8, 4: np.int16, 16: np.float32}


def read(path):
    """The voxels of a .nii.gz, x first, and its affine."""
    with gzip.open(path, "rb") as stream:
        data = stream.read()
    shape = struct.unpack("<8h", data[40:56])[1:4]
    kind = TYPES[struct.unpack("<h", data[70:72])[0]]
    start = int(struct.unpack("<f", data[108:112])[0])
    voxels = np.frombuffer(data, dtype=kind, offset=start).reshape(shape, order="F")
    affine = np.array(struct.unpack("<12f", data[280:328])).reshape(3, 4)
    return voxels, np.vstack([affine, [0, 0, 0, 1]])
