"""Grey values that do not depend on the scanner."""

import numpy


def normalised(volume):
    """Return a volume with mean 0 and standard deviation 1 over the head, which is what is brighter than air."""
    head = volume[volume > 0.4 * volume.mean()]
    if head.size == 0 or head.std() == 0:
        return numpy.zeros(volume.shape, numpy.float32)
    return ((volume - head.mean()) / head.std()).astype(numpy.float32)
