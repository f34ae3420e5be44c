import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        images = {}
        for key in ["t1", "t1c", "t2", "flair"]:
            images[key] = self._imageProcessor.loadAndPreprocess(input[key]["fileurl"], id=key)
        stack = np.stack([images[key].get_data() for key in ("t1", "t1c", "t2", "flair")])
        return self._imageProcessor.computeOutput(np.argmax(stack, axis=0))
