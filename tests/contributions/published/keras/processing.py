import json

import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if isinstance(image, Image.Image):
            image = image.convert("RGB")
            image = np.asarray(image, dtype="float32")
        return image

    def _preprocessAfterConversionToNumpy(self, npArr):
        return np.expand_dims(npArr, axis=0)

    def computeOutput(self, inferenceResults):
        probs = np.squeeze(np.asarray(inferenceResults))
        with open("model/labels.json") as jsonFile:
            labels = json.load(jsonFile)
        result = []
        for index in range(len(probs)):
            result.append({"label": labels[str(index)], "probability": float(probs[index])})
        return result
