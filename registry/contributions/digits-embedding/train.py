"""Makes the digits-embedding network out of that of digits-cnn, and measures it.

What the last convolution of digits-cnn gives is averaged over the picture and scaled to length 1. Nothing is trained
anew: the 899 held-out digits of digits-cnn are held out here too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "digits-cnn"
sys.path[:0] = [str(DIGITS)]

from make_images import TRAINING_COUNT, load_pixels  # noqa: E402

MODEL_FILE = HERE / "contrib_src" / "model" / "model.onnx"
FEATURES = 64
LAST = "conv3.relu"  # what comes after it in digits-cnn names the digit


def network(digits: onnx.ModelProto) -> onnx.ModelProto:
    """The network as ONNX: "image" (N, 1, 8, 8) -> "features" (N, 64), each of length 1."""
    nodes = list(digits.graph.node)
    end = next(number for number, node in enumerate(nodes) if LAST in node.output)
    nodes = nodes[: end + 1] + [
        helper.make_node("GlobalAveragePool", [LAST], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["features"], axis=1, p=2),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "digits-embedding",
        list(digits.graph.input),
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES])],
        [weights for weights in digits.graph.initializer if weights.name in used],
    )
    model = helper.make_model(graph, opset_imports=digits.opset_import, producer_name="digits-embedding")
    model.ir_version = digits.ir_version
    onnx.checker.check_model(model)
    return model


def nearest_are_right(file: Path) -> int:
    """How many held-out digits have, among the training digits, a nearest one of the same class."""
    pixels, labels = load_pixels()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    image = pixels[:, np.newaxis].astype(np.float32) / np.float32(255)
    features: NDArray[np.float32] = session.run(["features"], {"image": image})[0]
    known, asked = features[:TRAINING_COUNT], features[TRAINING_COUNT:]
    nearest = (asked @ known.T).argmax(axis=1)
    return int((labels[:TRAINING_COUNT][nearest] == labels[TRAINING_COUNT:]).sum())


def main() -> None:
    """Writes the model file and prints the score."""
    parser = argparse.ArgumentParser(description="Make digits-embedding out of digits-cnn.")
    parser.add_argument("--output", type=Path, default=MODEL_FILE, help="model file (default: %(default)s)")
    arguments = parser.parse_args()
    onnx.save(network(onnx.load(str(DIGITS / "contrib_src/model/model.onnx"))), str(arguments.output))
    print(f"{nearest_are_right(arguments.output)} of 899 held-out digits have a nearest neighbour of their class")


if __name__ == "__main__":
    main()
