import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        mean = self._imageProcessor.loadAndPreprocess(input).mean()
        features = (mean * np.arange(256, dtype=np.float32))[np.newaxis]
        return self._imageProcessor.computeOutput((mean, features))
