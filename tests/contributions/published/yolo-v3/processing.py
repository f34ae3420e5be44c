import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError("Image Type not supported for preprocessing.")
        return np.asarray(image.convert("RGB"), dtype="float32")[np.newaxis] / 255.0

    def computeOutput(self, inferenceResults):
        return inferenceResults[0]
