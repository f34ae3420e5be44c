"""A model that decodes its picture, and does nothing with it."""
import json

from modelhublib.model import ModelBase
from modelhublib.processor import ImageProcessorBase


class Model(ModelBase):
    def __init__(self):
        with open("model/config.json") as stream:
            self._imageProcessor = ImageProcessorBase(json.load(stream))

    def infer(self, input):
        self._imageProcessor.loadAndPreprocess(input)
        return [0.1] * 10
