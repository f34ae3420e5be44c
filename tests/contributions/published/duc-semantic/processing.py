import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError("Image Type not supported for preprocessing.")
        self._im = np.asarray(image.convert("RGB"))
        self._result_shape = self._im.shape[:2]
        self._rgb_mean = self._im.mean(axis=(0, 1))
        return self._im.transpose((2, 0, 1))[np.newaxis].astype(np.float32)
