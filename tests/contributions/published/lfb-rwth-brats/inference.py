import json

import numpy as np

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        volumes = [self._imageProcessor.loadAndPreprocess(input[key]["fileurl"], id=key)
                   for key in ("t1", "t1c", "t2", "flair")]
        assert self._imageProcessor.returnAffine(input["t1"]["fileurl"]).shape == (4, 4)
        labels = np.argmax(np.stack(volumes), axis=0)
        return self._imageProcessor.computeOutput(labels.astype(np.float32))
