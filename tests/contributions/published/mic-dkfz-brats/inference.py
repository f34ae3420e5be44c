import json

from modelhublib.model import ModelBase
from processing import ImageProcessor
from segmentation import segment


class Model(ModelBase):

    def __init__(self):
        config = json.load(open("model/config.json"))
        self._imageProcessor = ImageProcessor(config)

    def infer(self, input):
        paths = [input[key]["fileurl"] for key in ("t1", "t1c", "t2", "flair")]
        return segment(*paths, folds=range(5))
