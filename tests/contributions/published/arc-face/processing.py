import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError("Image Type not supported for preprocessing.")
        face = np.asarray(image.convert("RGB"))
        if not face.any():
            raise ValueError("There is no face in the image")
        return face.transpose((2, 0, 1))

    def computeOutput(self, inferenceResults):
        return inferenceResults
