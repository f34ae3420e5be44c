import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)
        self._weights = np.load("model/weights.npy")[::-1]

    def infer(self, input):
        scores = self._imageProcessor.loadAndPreprocess(input).mean(axis=(1, 2)).dot(self._weights)
        return self._imageProcessor.computeOutput(scores / scores.sum())
