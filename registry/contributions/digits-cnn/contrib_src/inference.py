"""Runs the digits-cnn network with onnxruntime."""

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
        """Return [{"label", "probability"}, ...] in the order of the classes for the image file input."""
        image = self._imageProcessor.loadAndPreprocess(input)
        results = self._session.run(["probabilities"], {"image": image})
        return self._imageProcessor.computeOutput(results[0])


def session_options():
    """As many threads as OMP_NUM_THREADS allows: onnxruntime itself does not read it. Unset: all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count(os.environ.get("OMP_NUM_THREADS", ""))
    options.inter_op_num_threads = 1
    return options


def thread_count(text):
    """The outermost number of a list such as "4" or "4,2"; 0 (the library decides) when there is none."""
    first = text.split(",")[0].strip()
    return int(first) if first.isdigit() else 0
