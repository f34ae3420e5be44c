import json

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        self._imageProcessor = ImageProcessor(json.load(open("model/config.json")))

    def infer(self, input):
        batch = self._imageProcessor.loadAndPreprocess(input)
        return self._imageProcessor.computeOutput(batch[0, :, :, 0])
