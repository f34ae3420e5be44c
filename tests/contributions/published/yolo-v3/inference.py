import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        self._imageProcessor = ImageProcessor(json.load(open("model/config.json")))

    def infer(self, input):
        mean = self._imageProcessor.loadAndPreprocess(input).mean()
        scales = [np.full((1, size, size, 255), mean, dtype=np.float32) for size in (13, 26, 52)]
        return self._imageProcessor.computeOutput(scales)
