import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if isinstance(image, Image.Image):
            return image.convert("L").resize((256, 256))
        raise IOError("Image Type not supported for preprocessing.")

    def _preprocessAfterConversionToNumpy(self, npArr):
        return np.moveaxis(npArr, 1, -1)[:, :, :, 0][..., np.newaxis] / 255

    def computeOutput(self, inferenceResults):
        return inferenceResults
