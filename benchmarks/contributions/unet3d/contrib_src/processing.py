"""What lies between the four volumes of a patient and the U-Net."""
import numpy
import SimpleITK
from modelhublib.processor import ImageProcessorBase

CONTRASTS = ("t1", "t1c", "t2", "flair")
MULTIPLE = 4  # of what the sides of the network's input must be


class ImageProcessor(ImageProcessorBase):
    """Four volumes of one size -> float32 (1, 4, z, y, x), padded; the network's result -> classes (z, y, x)."""

    def loadContrasts(self, input):
        """Return the network's input and the size of the volumes in it."""
        arrays = [self._normalised(self._load(input[name]["fileurl"], name)) for name in CONTRASTS]
        size = arrays[0].shape
        padding = [(0, -side % MULTIPLE) for side in size]
        return numpy.stack([numpy.pad(array, padding, "constant") for array in arrays])[numpy.newaxis], size

    def _normalised(self, image):
        """Zero mean and deviation one within the brain, zero outside of it."""
        array = SimpleITK.GetArrayFromImage(image).astype(numpy.float32)
        brain = array > 0
        inside = array[brain]
        if inside.size:
            array[brain] = (inside - inside.mean()) / max(float(inside.std()), 1e-6)
        return array

    def computeOutput(self, inferenceResults, size):
        return numpy.ascontiguousarray(inferenceResults[:size[0], :size[1], :size[2]])
