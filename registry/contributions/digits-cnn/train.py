"""Trains the digits-cnn network and writes it as ONNX, with numpy alone.

The first 898 of scikit-learn's 1,797 handwritten digits are for training. The other 899 are read once, after
training, to measure the accuracy that the model card states. With --validate the last 180 of the training
digits are held back instead; settings were chosen with that alone.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from make_images import TRAINING_COUNT, load_pixels

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

SEED = 20
EPOCHS = 60
BATCH = 32
PEAK_RATE = 3e-3
VALIDATION_COUNT = 180
MODEL_FILE = Path(__file__).resolve().parent / "contrib_src" / "model" / "model.onnx"
# (name, output channels, input channels) of the three 3x3 convolutions; the last layer is linear.
CONVOLUTIONS = (("conv1", 16, 1), ("conv2", 32, 16), ("conv3", 64, 32))
LINEAR_INPUTS = 64 * 4 * 4


def initial_weights(random: np.random.Generator) -> dict[str, Floats]:
    """He-initialised weights by ONNX name: kernels (out, in, 3, 3), the linear layer (10, inputs), biases."""
    weights: dict[str, Floats] = {}
    for name, n_out, n_in in CONVOLUTIONS:
        scale = math.sqrt(2 / (9 * n_in))
        weights[name + ".weight"] = (random.standard_normal((n_out, n_in, 3, 3)) * scale).astype(np.float32)
        weights[name + ".bias"] = np.zeros(n_out, np.float32)
    scale = math.sqrt(1 / LINEAR_INPUTS)
    weights["linear.weight"] = (random.standard_normal((10, LINEAR_INPUTS)) * scale).astype(np.float32)
    weights["linear.bias"] = np.zeros(10, np.float32)
    return weights


# ---- layers: forward and backward, arrays are (batch, channel, row, column) ----------------------


def windows(x: Floats) -> Floats:
    """The 3x3 neighbourhoods of a zero-padded x as rows: (batch*row*column, channel*9)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.ascontiguousarray(view.transpose(0, 2, 3, 1, 4, 5)).reshape(-1, x.shape[1] * 9)


def convolve(x: Floats, kernel: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """ReLU of the same-size convolution of x, and the windows that its gradient needs."""
    columns = windows(x)
    y = columns @ kernel.reshape(len(kernel), -1).T + bias
    shape = (x.shape[0], x.shape[2], x.shape[3], len(kernel))
    return np.maximum(y, 0).reshape(shape).transpose(0, 3, 1, 2), columns


def convolve_gradient(
    dy: Floats, y: Floats, columns: Floats, kernel: Floats
) -> tuple[Floats, Floats, Floats]:
    """Gradients with respect to the input, the kernel and the bias."""
    rows = (dy * (y > 0)).transpose(0, 2, 3, 1).reshape(-1, len(kernel))
    flipped = np.ascontiguousarray(kernel[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    dy_masked = rows.reshape(y.shape[0], y.shape[2], y.shape[3], -1).transpose(0, 3, 1, 2)
    dx = windows(dy_masked) @ flipped.reshape(len(flipped), -1).T
    dx = dx.reshape(y.shape[0], y.shape[2], y.shape[3], -1).transpose(0, 3, 1, 2)
    return dx, (rows.T @ columns).reshape(kernel.shape), rows.sum(axis=0)


def pool(x: Floats) -> Floats:
    """Maxima of the 2x2 blocks of x."""
    y: Floats = x.reshape(x.shape[0], x.shape[1], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max(axis=(3, 5))
    return y


def pool_gradient(dy: Floats, x: Floats, y: Floats) -> Floats:
    """The gradient goes to the positions that held the maximum."""

    def spread(a: Floats) -> Floats:
        return a.repeat(2, axis=2).repeat(2, axis=3)

    dx: Floats = spread(dy) * (x == spread(y))
    return dx


def softmax(z: Floats) -> Floats:
    """Rows of probabilities."""
    e: Floats = np.exp(z - z.max(axis=1, keepdims=True))
    e /= e.sum(axis=1, keepdims=True)
    return e


def probabilities(weights: dict[str, Floats], x: Floats) -> Floats:
    """Class probabilities (batch, 10) of images (batch, 1, 8, 8) with values 0 to 1."""
    y, _ = convolve(x, weights["conv1.weight"], weights["conv1.bias"])
    y, _ = convolve(y, weights["conv2.weight"], weights["conv2.bias"])
    y, _ = convolve(pool(y), weights["conv3.weight"], weights["conv3.bias"])
    return softmax(y.reshape(len(x), -1) @ weights["linear.weight"].T + weights["linear.bias"])


def gradients(weights: dict[str, Floats], x: Floats, labels: Labels, keep: Floats) -> dict[str, Floats]:
    """Gradients of the mean cross-entropy; keep (batch, inputs) is the dropout mask of the linear layer."""
    y1, c1 = convolve(x, weights["conv1.weight"], weights["conv1.bias"])
    y2, c2 = convolve(y1, weights["conv2.weight"], weights["conv2.bias"])
    small = pool(y2)
    y3, c3 = convolve(small, weights["conv3.weight"], weights["conv3.bias"])
    flat = y3.reshape(len(x), -1) * keep
    dz = softmax(flat @ weights["linear.weight"].T + weights["linear.bias"])
    dz[np.arange(len(x)), labels] -= 1
    dz /= len(x)
    result = {"linear.weight": dz.T @ flat, "linear.bias": dz.sum(axis=0)}
    d3 = ((dz @ weights["linear.weight"]) * keep).reshape(y3.shape)
    d2, result["conv3.weight"], result["conv3.bias"] = convolve_gradient(d3, y3, c3, weights["conv3.weight"])
    d2 = pool_gradient(d2, y2, small)
    d1, result["conv2.weight"], result["conv2.bias"] = convolve_gradient(d2, y2, c2, weights["conv2.weight"])
    _, result["conv1.weight"], result["conv1.bias"] = convolve_gradient(d1, y1, c1, weights["conv1.weight"])
    return result


# ---- training -----------------------------------------------------------------------------------


def distort(x: Floats, random: np.random.Generator) -> Floats:
    """Images (batch, 1, 8, 8) turned, scaled, sheared and shifted a little, as other hands would write."""
    n = len(x)
    angle, shear = random.uniform(-0.2, 0.2, n), random.uniform(-0.2, 0.2, n)
    scale_y, scale_x = random.uniform(0.85, 1.15, (2, n))
    shift = random.uniform(-0.8, 0.8, (2, n, 1, 1))
    grid_y, grid_x = np.meshgrid(np.arange(8) - 3.5, np.arange(8) - 3.5, indexing="ij")
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    source_y = (cos * grid_y - sin * grid_x) * scale_y[:, None, None] + 3.5 + shift[0]
    along_x = (sin * grid_y + cos * grid_x) * scale_x[:, None, None]
    source_x = along_x + shear[:, None, None] * grid_y + 3.5 + shift[1]
    return sample(x, source_y, source_x)


def sample(x: Floats, at_y: NDArray[np.float64], at_x: NDArray[np.float64]) -> Floats:
    """Bilinear values of x (batch, 1, 8, 8) at positions (batch, 8, 8) in pixels; zero outside."""
    padded = np.pad(x[:, 0], ((0, 0), (2, 2), (2, 2)))
    at_y, at_x = np.clip(at_y + 2, 0, 10.999), np.clip(at_x + 2, 0, 10.999)
    y0, x0 = at_y.astype(int), at_x.astype(int)
    fy, fx = at_y - y0, at_x - x0
    i = np.arange(len(x))[:, None, None]
    top = padded[i, y0, x0] * (1 - fx) + padded[i, y0, x0 + 1] * fx
    bottom = padded[i, y0 + 1, x0] * (1 - fx) + padded[i, y0 + 1, x0 + 1] * fx
    values: Floats = (top * (1 - fy) + bottom * fy).astype(np.float32)
    return values[:, None]


class Adam:
    """The Adam step with decoupled weight decay, in place."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._weights = weights
        self._mean = {name: np.zeros_like(value) for name, value in weights.items()}
        self._square = {name: np.zeros_like(value) for name, value in weights.items()}
        self._count = 0

    def step(self, gradient: dict[str, Floats], rate: float) -> None:
        """Moves the weights against the gradient."""
        self._count += 1
        rate_now = rate * math.sqrt(1 - 0.999**self._count) / (1 - 0.9**self._count)
        for name, g in gradient.items():
            self._mean[name] += 0.1 * (g - self._mean[name])
            self._square[name] += 0.001 * (g * g - self._square[name])
            decay = 1 - rate * 0.01 if name.endswith("weight") else 1.0
            self._weights[name] *= np.float32(decay)
            root = np.sqrt(self._square[name]) + 1e-8
            self._weights[name] -= np.float32(rate_now) * self._mean[name] / root


def train(x: Floats, labels: Labels) -> dict[str, Floats]:
    """Weights trained on images (count, 1, 8, 8) and labels (count,); seeded."""
    random = np.random.default_rng(SEED)
    weights = initial_weights(random)
    optimizer = Adam(weights)
    steps_per_epoch = len(x) // BATCH
    total = EPOCHS * steps_per_epoch
    for epoch in range(EPOCHS):
        order = random.permutation(len(x))
        for number in range(steps_per_epoch):
            chosen = order[number * BATCH : (number + 1) * BATCH]
            progress = (epoch * steps_per_epoch + number) / total
            rate = PEAK_RATE * min(1.0, progress * 20) * 0.5 * (1 + math.cos(math.pi * progress))
            keep = (random.random((len(chosen), LINEAR_INPUTS)) < 0.7).astype(np.float32) / np.float32(0.7)
            optimizer.step(gradients(weights, distort(x[chosen], random), labels[chosen], keep), rate)
    return weights


def accuracy(weights: dict[str, Floats], x: Floats, labels: Labels) -> float:
    """The fraction of images whose most probable class is the label."""
    return float((probabilities(weights, x).argmax(axis=1) == labels).mean())


# ---- export -------------------------------------------------------------------------------------


def onnx_model(weights: dict[str, Floats]) -> onnx.ModelProto:
    """The network as ONNX: input "image" (N, 1, 8, 8), output "probabilities" (N, 10)."""
    nodes = []
    value = "image"
    for name, _, _ in CONVOLUTIONS:
        inputs = [value, name + ".weight", name + ".bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [name], [name + ".relu"]))
        value = name + ".relu"
        if name == "conv2":
            nodes.append(helper.make_node("MaxPool", [value], ["pool"], kernel_shape=[2, 2], strides=[2, 2]))
            value = "pool"
    nodes += [
        helper.make_node("Flatten", [value], ["flat"]),
        helper.make_node("Gemm", ["flat", "linear.weight", "linear.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits-cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    # An old operator set and file version, so that old runtimes can load it too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="digits-cnn")
    model.ir_version = 7
    onnx.checker.check_model(model)
    return model


def as_network_input(pixels: NDArray[np.uint8]) -> Floats:
    """(count, 8, 8) grey values -> (count, 1, 8, 8) in 0 to 1, as the contribution preprocesses them."""
    x: Floats = pixels[:, None].astype(np.float32) / np.float32(255)
    return x


def main() -> None:
    """Trains, writes the model file and prints the accuracy; with --validate only prints."""
    parser = argparse.ArgumentParser(description="Train digits-cnn and write it as ONNX.")
    parser.add_argument("--validate", action="store_true", help="hold back 180 digits, write nothing")
    parser.add_argument("--output", type=Path, default=MODEL_FILE, help="model file (default: %(default)s)")
    arguments = parser.parse_args()
    pixels, labels = load_pixels()
    x = as_network_input(pixels)
    split = TRAINING_COUNT - VALIDATION_COUNT if arguments.validate else TRAINING_COUNT
    weights = train(x[:split], labels[:split])
    if arguments.validate:
        held = slice(split, TRAINING_COUNT)
        measured = accuracy(weights, x[held], labels[held])
        print(f"accuracy on {VALIDATION_COUNT} held-back training digits: {measured:.4f}")
        return
    onnx.save(onnx_model(weights), str(arguments.output))
    held = slice(TRAINING_COUNT, None)
    print(f"accuracy on {split} training digits: {accuracy(weights, x[:split], labels[:split]):.4f}")
    print(f"accuracy on {len(x) - split} held-out digits: {accuracy(weights, x[held], labels[held]):.4f}")


if __name__ == "__main__":
    main()
