import numpy as np
import SimpleITK

from modelhublib.processor import ImageProcessorBase


class Tensor(object):
    """The array of a framework."""

    def __init__(self, array):
        self.data = array


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if isinstance(image, SimpleITK.Image):
            return SimpleITK.GetArrayFromImage(image)
        raise IOError("Image Type not supported for preprocessing.")

    def _preprocessAfterConversionToNumpy(self, npArr):
        return Tensor(npArr[np.newaxis, np.newaxis])

    def computeOutput(self, inferenceResults):
        names = ("no artifact", "artifact")
        return [{"label": name, "probability": float(p)} for name, p in zip(names, inferenceResults)]
