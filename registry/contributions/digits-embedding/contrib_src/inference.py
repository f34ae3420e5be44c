"""Runs the digits-embedding network with onnxruntime."""

import json
import os

# Some builds of onnxruntime report usage to their maker; a model has no business to do so. Read at import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: E402
from modelhublib.model import ModelBase  # noqa: E402

from processing import ImageProcessor  # noqa: E402


class Model(ModelBase):
    """The network, loaded once."""

    def __init__(self):
        with open("model/config.json") as stream:
            config = json.load(stream)
        self._imageProcessor = ImageProcessor(config)
        self._session = onnxruntime.InferenceSession(
            "model/model.onnx", session_options(), providers=["CPUExecutionProvider"])

    def infer(self, input):
        """Return the features of the image file input: float32 (64,), of length 1."""
        image = self._imageProcessor.loadAndPreprocess(input)
        results = self._session.run(["features"], {"image": image})
        return self._imageProcessor.computeOutput(results[0])


def session_options():
    """As many threads as OMP_NUM_THREADS allows: onnxruntime itself does not read it. Unset: all cores."""
    options = onnxruntime.SessionOptions()
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    options.intra_op_num_threads = int(first) if first.isdigit() else 0
    options.inter_op_num_threads = 1
    return options
