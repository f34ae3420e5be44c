import json

import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if isinstance(image, Image.Image):
            return np.array(image.convert("RGB")).astype(float) / 255
        raise IOError("Image Type not supported for preprocessing.")

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr

    def computeOutput(self, inferenceResults):
        with open("model/labels.json") as stream:
            labels = json.load(stream)
        return [{"label": labels[str(i)], "probability": float(p)} for i, p in enumerate(inferenceResults[0])]
