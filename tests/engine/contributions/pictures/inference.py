"""A picture classifier in the manner of the older contributions: flat configuration, default chain."""

import json

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        with open("model/config.json") as stream:
            self._imageProcessor = ImageProcessor(json.load(stream))
        with open("model/labels.json") as stream:
            self._labels = json.load(stream)

    def infer(self, input):
        inputAsNpArr = self._imageProcessor.loadAndPreprocess(input)
        brightness = float(inputAsNpArr.mean()) / 255
        return self._imageProcessor.computeOutput([1 - brightness, brightness], self._labels)
