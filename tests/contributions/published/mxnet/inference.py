import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor, NDArray


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)
        self._weights = np.load("model/weights.npy")

    def infer(self, input):
        batch = self._imageProcessor.loadAndPreprocess(input)
        assert batch.asnumpy().shape == (1, 3, 32, 32)
        scores = batch.asnumpy().mean(axis=(2, 3)).dot(self._weights)
        return self._imageProcessor.computeOutput(NDArray(scores / scores.sum()))
