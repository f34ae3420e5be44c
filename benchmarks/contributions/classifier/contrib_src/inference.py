"""Runs a classifier of 1,000 classes with onnxruntime: on a GPU where there is one and the image can use it."""
import json
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: E402
from modelhublib.model import ModelBase  # noqa: E402

from processing import ImageProcessor  # noqa: E402

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class Model(ModelBase):
    """The network, loaded once."""

    def __init__(self):
        with open("model/config.json") as stream:
            config = json.load(stream)
        self._imageProcessor = ImageProcessor(config)
        usable = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession("model/model.onnx", session_options(), providers=usable)

    def infer(self, input):
        """Return [{"label", "probability"}, ...] in the order of the classes for the image file input."""
        return self.infer_batch([input])[0]

    def infer_batch(self, inputs):
        """Return what infer returns for each of several image files, in their order."""
        images = self._imageProcessor.loadBatch(inputs)
        results = self._session.run(["probabilities"], {"image": images})[0]
        return [self._imageProcessor.computeOutput(result) for result in results]


def session_options():
    """As many threads as OMP_NUM_THREADS allows: onnxruntime itself does not read it. Unset: all cores."""
    options = onnxruntime.SessionOptions()
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    options.intra_op_num_threads = int(first) if first.isdigit() else 0
    options.inter_op_num_threads = 1
    return options
