"""Runs a 3-D U-Net with onnxruntime."""
import json
import os

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
        """Return the class of each voxel, uint8 (z, y, x), for {"t1": {"fileurl": path}, "t1c": ..., ...}."""
        image, size = self._imageProcessor.loadContrasts(input)
        results = self._session.run(["segmentation"], {"image": image})
        return self._imageProcessor.computeOutput(results[0], size)


def session_options():
    """As many threads as OMP_NUM_THREADS allows: onnxruntime itself does not read it. Unset: all cores."""
    options = onnxruntime.SessionOptions()
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    options.intra_op_num_threads = int(first) if first.isdigit() else 0
    options.inter_op_num_threads = 1
    return options
