import json

import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if isinstance(image, Image.Image):
            return np.array(image.convert("RGB"))[:, :, ::-1].copy()
        raise IOError("Image Type not supported for preprocessing.")

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr[np.newaxis].astype(np.float32)

    def computeOutput(self, inferenceResults):
        labels = json.load(open("model/labels.json"))
        return [dict(label=labels[str(i)], probability=p) for i, p in enumerate(inferenceResults[0].tolist())]
