import json

import numpy as np
from PIL import Image

from modelhublib.processor import ImageProcessorBase


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError("Image Type not supported for preprocessing.")
        image = image.convert("L").resize((64, 64))
        pixels = np.zeros((1, 1, 64, 64), dtype=np.float32)
        for x in range(64):
            for y in range(64):
                pixels[0, 0, y, x] = image.getpixel((x, y))
        return pixels

    def computeOutput(self, inferenceResults):
        probs = softmax(np.squeeze(inferenceResults))
        with open("model/labels.json") as stream:
            labels = json.load(stream)
        return [{"label": labels[str(i)], "probability": float(p)} for i, p in enumerate(probs)]
