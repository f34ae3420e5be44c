"""Marks what is brighter than a threshold, as masks in several orders of axes, in Python 2.7 and 3."""
import json

import numpy

from modelhublib.model import ModelBase
from modelhublib.processor import ImageProcessorBase

THRESHOLDS = 100, 200


class Model(ModelBase):
    def __init__(self):
        with open("model/config.json") as stream:
            self._processor = ImageProcessorBase(json.load(stream))

    def infer(self, input):
        voxels = self._processor.loadAndPreprocess(input)[0]
        labels = sum((voxels > limit).astype("int16") for limit in THRESHOLDS)
        share = (voxels / 255.0).clip(0, 1).astype("float64")
        return [labels, labels.T.astype("float32"), numpy.stack([1 - share, share]), labels, labels > 0]
