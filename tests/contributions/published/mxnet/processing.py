import json

import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class NDArray(object):
    """The array of a framework: no numpy array, but one can be had of it."""

    def __init__(self, array):
        self._array = array

    def asnumpy(self):
        return self._array


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError("Image Type not supported for preprocessing.")
        pixels = np.asarray(image.convert("RGB").resize((32, 32)), dtype=np.float32)
        return pixels.transpose((2, 0, 1))[np.newaxis]

    def _preprocessAfterConversionToNumpy(self, npArr):
        return NDArray(npArr)

    def computeOutput(self, inferenceResults):
        labels = json.load(open("model/labels.json"))
        probs = np.squeeze(inferenceResults.asnumpy())
        return [{"label": str(labels[str(i)]), "probability": float(p)} for i, p in enumerate(probs)]
