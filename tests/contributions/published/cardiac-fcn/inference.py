import json

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        print "loading the network"
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        batch = self._imageProcessor.loadAndPreprocess(input)
        return self._imageProcessor.computeOutput(batch > 500)
