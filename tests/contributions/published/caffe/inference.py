import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Transformer(object):
    """As a framework's own: height, width, channels -> 1, channels, height, width, in 0 to 255."""

    def preprocess(self, pixels):
        return (255 * pixels).transpose((2, 0, 1))[np.newaxis]


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)
        self._weights = np.load("model/weights.npy")
        self._transformer = Transformer()

    def infer(self, input):
        pixels = self._imageProcessor.loadAndPreprocess(input)
        data = self._transformer.preprocess(pixels)
        scores = data.mean(axis=(2, 3)).dot(self._weights)
        return self._imageProcessor.computeOutput(scores / scores.sum())
