import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        batch = self._imageProcessor.loadAndPreprocess(input)
        bright = batch[0].transpose((1, 2, 0)) > self._imageProcessor._rgb_mean
        result = np.zeros(self._imageProcessor._result_shape + (3,), dtype=np.uint8)
        result[bright] = 255
        return result
