"""A segmentation of two inputs in the manner of the newer contributions: nested configuration, own loader."""

import json

import numpy

from modelhublib.imageconverters import NumpyToNumpyConverter
from modelhublib.imageloaders import ImageLoader
from modelhublib.model import ModelBase
from modelhublib.processor import ImageProcessorBase


class Stack(object):
    """An image type that no loader of the engine knows."""

    def __init__(self, array):
        self.array = array


class StackLoader(ImageLoader):

    def _load(self, input):
        return Stack(numpy.load(input))

    def _getImageDimensions(self, image):
        return image.array.shape


class ImageProcessor(ImageProcessorBase):

    def __init__(self, config):
        self._config = config
        self._imageLoader = StackLoader(config)
        self._imageToNumpyConverter = NumpyToNumpyConverter()

    def _preprocessBeforeConversionToNumpy(self, image):
        return image.array


class Model(ModelBase):

    def __init__(self):
        with open("model/config.json") as stream:
            self._imageProcessor = ImageProcessor(json.load(stream))

    def infer(self, input):
        assert input["format"] == ["application/json"]
        first, second = [self._imageProcessor.loadAndPreprocess(input[key]["fileurl"], id=key)
                         for key in ("t1", "t2")]
        return [(first > second).astype("uint8"), {"above": numpy.int64((first > second).sum())}]
