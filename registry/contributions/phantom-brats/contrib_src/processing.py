"""What lies between the four volumes of a patient and the phantom-brats network."""

import numpy
import SimpleITK
from modelhublib.processor import ImageProcessorBase

from normalisation import normalised

CONTRASTS = ("t1", "t1c", "t2", "flair")
LABELS = numpy.array([0, 1, 2, 4], numpy.uint8)  # by class of the network


class ImageProcessor(ImageProcessorBase):
    """Four volumes on one grid -> float32 (1, 4, z, y, x); network's result -> labels (z, y, x)."""

    def loadContrasts(self, input):
        """Return the network's input; IOError where the volumes do not lie on one grid."""
        images = [self._load(input[name]["fileurl"], name) for name in CONTRASTS]
        for name, image in zip(CONTRASTS, images):
            if not isinstance(image, SimpleITK.Image) or image.GetDimension() != 3:
                raise IOError("%s is no volume" % name)
            if not _on_one_grid(images[0], image):
                raise IOError("%s does not lie on the grid of t1: register the contrasts first" % name)
        arrays = [normalised(SimpleITK.GetArrayFromImage(image).astype(numpy.float32)) for image in images]
        return numpy.stack(arrays)[numpy.newaxis]

    def computeOutput(self, inferenceResults):
        """Return the label of the most probable class of each voxel."""
        return LABELS[inferenceResults[0].argmax(axis=0)]


def _on_one_grid(one, other):
    if one.GetSize() != other.GetSize():
        return False
    tolerance = 0.01 * min(one.GetSpacing())
    last = [size - 1 for size in one.GetSize()]
    corners = [(0, 0, 0), tuple(last), (last[0], 0, 0), (0, last[1], 0)]
    places = [(one.TransformIndexToPhysicalPoint(each), other.TransformIndexToPhysicalPoint(each)) for each in corners]
    return all(abs(a - b) <= tolerance for here, there in places for a, b in zip(here, there))
