import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        pixels = self._imageProcessor.loadAndPreprocess(input)
        weights = np.load("./model/weights.npy")
        return self._imageProcessor.computeOutput(pixels.mean(axis=(0, 1)).dot(weights[:, :7]).astype(np.float32))
