# Stripes or checks, by correlation with three patterns: written as models were in 2018, for Python 2.
import json
import os

import numpy

from modelhublib.model import ModelBase
from processing import ImageProcessor


class Model(ModelBase):

    def __init__(self):
        print "loading the network"
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)
        # part of the environment image, where only root may look
        self._weights = numpy.load("/root/weights/w.npy")
        # for intermediate pictures
        os.mkdir("/temp/stripes")

    def infer(self, input):
        pixels = self._imageProcessor.loadAndPreprocess(input)
        # all that a batch has left so far, as some contributions collect their inputs
        with open("/working/seen.txt", "a") as stream:
            print >> stream, input
        print "seen so far:", len(open("/working/seen.txt").readlines())
        responses = self._weights * pixels.reshape(1, -1)
        return self._imageProcessor.computeOutput(responses)
