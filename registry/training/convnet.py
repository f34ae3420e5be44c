"""Small fully convolutional networks that label every pixel or voxel: trained with numpy, written as ONNX.

Training scripts of contributions use it; a model at work needs nothing of it. Arrays are (batch, *space, channel),
space being y, x or z, y, x, here, and (batch, channel, *space) in the ONNX file, as its operators want it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Weights = dict[str, Floats]

_WIDTH = 3  # of every kernel along each axis; the last layer's is 1


@dataclass(frozen=True)
class Layout:
    """The layers of a network. axes: 2 or 3; layers: (channels, dilation) of each convolution but the last."""

    axes: int
    inputs: int
    layers: tuple[tuple[int, int], ...]
    classes: int


def initial_weights(layout: Layout, random: np.random.Generator) -> Weights:
    """He-initialised kernels (window, in, out) and zero biases (out), by ONNX name."""
    weights: Weights = {}
    n_in = layout.inputs
    shapes = [(_WIDTH**layout.axes, channels) for channels, _ in layout.layers] + [(1, layout.classes)]
    for number, (window, n_out) in enumerate(shapes):
        scale = math.sqrt(2 / (window * n_in))
        weights[f"conv{number}.weight"] = (random.standard_normal((window, n_in, n_out)) * scale).astype(np.float32)
        weights[f"conv{number}.bias"] = np.zeros(n_out, np.float32)
        n_in = n_out
    return weights


def probabilities(layout: Layout, weights: Weights, x: Floats) -> Floats:
    """The probability of each class everywhere: (batch, *space, inputs) -> (batch, *space, classes)."""
    return _forward(layout, weights, x)[0]


def loss_and_gradients(
    layout: Layout, weights: Weights, x: Floats, labels: Labels, importance: Floats
) -> tuple[float, Weights]:
    """The mean cross-entropy over all places, weighted by the importance of their class, and its gradients."""
    output, kept = _forward(layout, weights, x)
    share = importance[labels]
    share = share / share.sum()
    right = labels[..., np.newaxis]
    loss = -float((np.log(np.take_along_axis(output, right, -1)[..., 0] + 1e-12) * share).sum())
    slope = output.copy()
    np.put_along_axis(slope, right, np.take_along_axis(slope, right, -1) - 1, -1)
    slope *= share[..., np.newaxis]
    return loss, _backward(layout, weights, kept, slope)


def _forward(layout: Layout, weights: Weights, x: Floats) -> tuple[Floats, list[tuple[Floats, Floats]]]:
    """The output, and what gradients need of every layer but the last: its windows and its result."""
    kept = []
    for number, (_, dilation) in enumerate(layout.layers):
        windows = _windows(x, layout.axes, dilation)
        kernel = weights[f"conv{number}.weight"]
        y = windows @ kernel.reshape(-1, kernel.shape[-1]) + weights[f"conv{number}.bias"]
        x = np.maximum(y, 0)
        kept.append((windows, x))
    last = len(layout.layers)
    z = x @ weights[f"conv{last}.weight"][0] + weights[f"conv{last}.bias"]
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True), kept


def _backward(layout: Layout, weights: Weights, kept: list[tuple[Floats, Floats]], slope: Floats) -> Weights:
    last = len(layout.layers)
    gradients = {f"conv{last}.weight": _outer(kept[-1][1], slope)[np.newaxis], f"conv{last}.bias": _total(slope)}
    slope = slope @ weights[f"conv{last}.weight"][0].T
    for number in reversed(range(last)):
        windows, y = kept[number]
        slope = slope * (y > 0)
        kernel = weights[f"conv{number}.weight"]
        gradients[f"conv{number}.weight"] = _outer(windows, slope).reshape(kernel.shape)
        gradients[f"conv{number}.bias"] = _total(slope)
        if number:
            mirrored = kernel[::-1].transpose(0, 2, 1).reshape(-1, kernel.shape[1])
            slope = _windows(slope, layout.axes, layout.layers[number][1]) @ mirrored
    return gradients


def _windows(x: Floats, axes: int, dilation: int) -> Floats:
    """The zero-padded neighbourhood of every place: (batch, *space, window * channel)."""
    padded = np.pad(x, [(0, 0), *[(dilation, dilation)] * axes, (0, 0)])
    parts = [
        padded[(slice(None), *(slice(start, start + size) for start, size in zip(corner, x.shape[1:])))]
        for corner in product(range(0, _WIDTH * dilation, dilation), repeat=axes)
    ]
    return np.concatenate(parts, axis=-1)


def _outer(x: Floats, slope: Floats) -> Floats:
    summed: Floats = x.reshape(-1, x.shape[-1]).T @ slope.reshape(-1, slope.shape[-1])
    return summed


def _total(slope: Floats) -> Floats:
    total: Floats = slope.reshape(-1, slope.shape[-1]).sum(axis=0)
    return total


class Adam:
    """The Adam step, in place."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._mean = {name: np.zeros_like(value) for name, value in weights.items()}
        self._square = {name: np.zeros_like(value) for name, value in weights.items()}
        self._count = 0

    def step(self, gradients: Weights, rate: float) -> None:
        """Moves the weights against the gradients."""
        self._count += 1
        now = np.float32(rate * math.sqrt(1 - 0.999**self._count) / (1 - 0.9**self._count))
        for name, g in gradients.items():
            self._mean[name] += 0.1 * (g - self._mean[name])
            self._square[name] += 0.001 * (g * g - self._square[name])
            self._weights[name] -= now * self._mean[name] / (np.sqrt(self._square[name]) + 1e-8)


def train(
    layout: Layout, batches: Iterator[tuple[Floats, Labels]], steps: int, importance: Floats, rate: float, seed: int
) -> Weights:
    """Weights after so many batches; the rate rises at first and then falls to zero."""
    weights = initial_weights(layout, np.random.default_rng(seed))
    optimizer = Adam(weights)
    for number in range(steps):
        x, labels = next(batches)
        progress = number / steps
        loss, gradients = loss_and_gradients(layout, weights, x, labels, importance)
        optimizer.step(gradients, rate * min(1.0, progress * 20) * 0.5 * (1 + math.cos(math.pi * progress)))
        if number % 50 == 0:
            print(f"step {number:5d}  loss {loss:.4f}", flush=True)
    return weights


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    sizes = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / sizes if sizes else 1.0


def onnx_model(layout: Layout, weights: Weights, name: str) -> onnx.ModelProto:
    """The network as ONNX: "image" (N, channel, *space) -> "probabilities" (N, class, *space), for any size."""
    nodes, value = [], "image"
    dilations = [dilation for _, dilation in layout.layers]
    for number, dilation in enumerate([*dilations, 1]):
        width = _WIDTH if number < len(dilations) else 1
        pad = dilation if width > 1 else 0
        nodes.append(
            helper.make_node(
                "Conv",
                [value, f"conv{number}.weight", f"conv{number}.bias"],
                [f"conv{number}"],
                kernel_shape=[width] * layout.axes,
                dilations=[dilation] * layout.axes,
                pads=[pad] * 2 * layout.axes,
            )
        )
        value = f"conv{number}"
        if width > 1:
            nodes.append(helper.make_node("Relu", [value], [value + ".relu"]))
            value += ".relu"
    nodes.append(helper.make_node("Softmax", [value], ["probabilities"], axis=1))
    space = ["Z", "Y", "X"][-layout.axes :]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", layout.inputs, *space])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", layout.classes, *space])],
        [numpy_helper.from_array(_as_onnx(layout, array), key) for key, array in weights.items()],
    )
    # An old operator set and file version, so that old runtimes can load it too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name=name)
    model.ir_version = 7
    onnx.checker.check_model(model)
    return model


def _as_onnx(layout: Layout, array: Floats) -> Floats:
    """A kernel (window, in, out) as (out, in, *window); a bias as it is."""
    if array.ndim == 1:
        return array
    width = _WIDTH if len(array) > 1 else 1
    shaped = array.transpose(2, 1, 0).reshape(array.shape[2], array.shape[1], *[width] * layout.axes)
    return np.ascontiguousarray(shaped)
