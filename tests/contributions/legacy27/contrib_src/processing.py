import json

import numpy
from PIL import Image

from modelhublib.processor import ImageProcessorBase

SIDE = 8


class ImageProcessor(ImageProcessorBase):

    def __init__(self, config):
        super(ImageProcessor, self).__init__(config)
        self._labels = json.load(open("model/labels.json"))
        mean = self._imageLoader.load("model/mean.png")
        self._mean = self._imageToNumpyConverter.convert(mean)

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError, "stripes are looked for in pictures only"
        small = image.convert("L").resize((SIDE, SIDE), Image.BOX)
        small.save("/temp/stripes/small.png")
        return self._imageLoader.load("/temp/stripes/small.png")

    def _preprocessAfterConversionToNumpy(self, npArr):
        return (npArr - self._mean) / 128

    def computeOutput(self, inferenceResults):
        scores = 20 * numpy.abs(inferenceResults.sum(axis=1))
        exponents = numpy.exp(scores - scores.max())
        probabilities = exponents / exponents.sum()
        result = []
        for i in xrange(len(probabilities)):
            result.append({"label": self._labels[str(i)], "probability": float(probabilities[i])})
        return [result, inferenceResults.reshape(-1, SIDE, SIDE)]
