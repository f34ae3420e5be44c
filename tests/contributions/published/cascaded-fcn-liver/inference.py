import json

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        return self._imageProcessor.computeOutput(self._imageProcessor.loadAndPreprocess(input) > 500)
