"""Segments by thresholds, and does what should be noticed where the first voxel of its input asks for it."""
import json

from modelhublib.model import ModelBase
from modelhublib.processor import ImageProcessorBase

CROPPED, NAN_HEAT, NAN_SCORE, RAISE = 1, 2, 3, 4
NAN = float("nan")


class Model(ModelBase):
    def __init__(self):
        with open("model/config.json") as stream:
            self._processor = ImageProcessorBase(json.load(stream))

    def infer(self, input):
        ct = self._processor.loadAndPreprocess(input["ct"]["fileurl"], "ct")[0]
        wish, ct[0, 0, 0] = ct[0, 0, 0], 0
        if wish == RAISE:
            raise ValueError("<b>told</b> to fail: \x1b[31m" + 3 * "x" + "<script>document.title = 'taken'</script>")
        mask = (ct > 100).astype("uint8") + (ct > 200).astype("uint8")
        heat = (ct / 255.0).astype("float32")
        if wish == NAN_HEAT:
            heat[0, 0, :3] = NAN
        top = NAN if wish == NAN_SCORE else 0.75
        labels = [{"label": "</script><i>odd</i>\x07", "probability": top}, {"label": "even", "probability": 0.25}]
        return [mask[1:] if wish == CROPPED else mask, heat, labels]
