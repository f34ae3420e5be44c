"""Networks with the real cost of computation, and weights that a seed made: ONNX, the same bytes each time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR = 17, 8  # as old as the oldest onnxruntime that the images hold can read
_SEED = 20261125
Shape = list[int | str | None]
_PRODUCER = "modelhub-hpc benchmarks"


class _Net:
    """A graph that grows node by node. Methods take and return names of tensors, channels first."""

    def __init__(self, name: str, half: bool = False) -> None:
        self._name = name
        self._float = np.float16 if half else np.float32
        self._random = np.random.RandomState(_SEED)  # whose numbers are the same in every version of numpy
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, pad: int = 0, rank: int = 2,
             gain: float = 1.0) -> str:
        """channels: in, out; gain: 1 keeps the size of a rectified signal."""
        shape = (channels[1], channels[0], *[kernel] * rank)
        scale = gain * math.sqrt(2.0 / (channels[0] * kernel**rank))
        weights = self.constant((self._random.standard_normal(shape) * scale).astype(self._float))
        bias = self.constant((self._random.standard_normal(channels[1]) * 0.01).astype(self._float))
        return self.add("Conv", x, weights, bias, kernel_shape=[kernel] * rank, strides=[stride] * rank,
                        pads=[pad] * 2 * rank)

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def pool(self, x: str, pad: int = 0, ceil: bool = False) -> str:
        return self.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[pad] * 4, ceil_mode=int(ceil))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        weights = (self._random.standard_normal((inputs, outputs)) / math.sqrt(inputs)).astype(self._float)
        return self.add("MatMul", x, self.constant(weights))

    def model(self, last: str, shapes: tuple[Shape, Shape], output: tuple[str, int]) -> onnx.ModelProto:
        """The whole. shapes: of input and output; output: its name and its element type."""
        self._nodes.append(helper.make_node("Identity", [last], [output[0]]))
        given = helper.make_tensor_value_info("image", TensorProto.FLOAT, shapes[0])
        made = helper.make_tensor_value_info(output[0], output[1], shapes[1])
        graph = helper.make_graph(self._nodes, self._name, [given], [made], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name=_PRODUCER)
        model.ir_version = _IR
        return model


def squeezenet() -> onnx.ModelProto:
    """SqueezeNet 1.1 (Iandola and others, 2016) of 1.2 million weights.

    float32 (n, 3, 224, 224) -> 1,000 probabilities.
    """
    net = _Net("squeezenet")
    x = net.pool(net.relu(net.conv("image", (3, 64), 3, stride=2)), ceil=True)
    width = 64
    for squeezed, expanded, pooled in ((16, 64, False), (16, 64, True), (32, 128, False), (32, 128, True),
                                       (48, 192, False), (48, 192, False), (64, 256, False), (64, 256, False)):
        narrow = net.relu(net.conv(x, (width, squeezed), 1))
        both = [net.relu(net.conv(narrow, (squeezed, expanded), kernel, pad=kernel // 2)) for kernel in (1, 3)]
        x = net.add("Concat", *both, axis=1)
        x = net.pool(x, ceil=True) if pooled else x
        width = 2 * expanded
    x = net.relu(net.conv(x, (width, 1000), 1))
    x = net.add("Softmax", net.add("Flatten", net.add("GlobalAveragePool", x)), axis=1)
    return net.model(x, (["n", 3, 224, 224], ["n", 1000]), ("probabilities", TensorProto.FLOAT))


def resnet50(half: bool = False) -> onnx.ModelProto:
    """ResNet-50 (He and others, 2015), its normalisations folded into the convolutions; 25.5 million weights.

    float32 (n, 3, 224, 224) -> 1,000 probabilities; half: everything between is float16.
    """
    net = _Net("resnet50", half)
    x = net.add("Cast", "image", to=TensorProto.FLOAT16) if half else "image"
    x = net.pool(net.relu(net.conv(x, (3, 64), 7, stride=2, pad=3)), pad=1)
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            x = _bottleneck(net, x, (width, 64 * 2**stage), stride=2 if stage and not block else 1)
            width = 256 * 2**stage
    x = net.linear(net.add("Flatten", net.add("GlobalAveragePool", x)), width, 1000)
    x = net.add("Cast", x, to=TensorProto.FLOAT) if half else x
    x = net.add("Softmax", x, axis=1)
    return net.model(x, (["n", 3, 224, 224], ["n", 1000]), ("probabilities", TensorProto.FLOAT))


def _bottleneck(net: _Net, x: str, channels: tuple[int, int], stride: int) -> str:
    """channels: in, and of the middle; four times those of the middle come out."""
    width, middle = channels
    y = net.relu(net.conv(x, (width, middle), 1))
    y = net.relu(net.conv(y, (middle, middle), 3, stride=stride, pad=1))
    y = net.conv(y, (middle, 4 * middle), 1, gain=0.2)  # sixteen of them add up
    kept = x if width == 4 * middle else net.conv(x, (width, 4 * middle), 1, stride=stride)
    return net.relu(net.add("Add", y, kept))


def unet3d() -> onnx.ModelProto:
    """A 3-D U-Net of three levels.

    float32 (1, 4, z, y, x), sides multiples of 4 -> class of each voxel, uint8 (z, y, x).
    """
    net = _Net("unet3d")
    widths = (6, 12, 24)
    skipped = []
    x, width = "image", 4
    for level, wide in enumerate(widths):
        x = net.relu(net.conv(x, (width, wide), 3, stride=2 if level else 1, pad=1, rank=3))
        x = net.relu(net.conv(x, (wide, wide), 3, pad=1, rank=3))
        skipped.append((x, wide))
        width = wide
    for kept, wide in reversed(skipped[:-1]):
        upsampled = net.add("Resize", x, "", net.constant(np.array([1, 1, 2, 2, 2], np.float32)), mode="nearest")
        x = net.add("Concat", upsampled, kept, axis=1)
        x = net.relu(net.conv(x, (width + wide, wide), 3, pad=1, rank=3))
        width = wide
    x = net.conv(x, (width, 4), 1, rank=3)
    x = net.add("Cast", net.add("ArgMax", x, axis=1, keepdims=0), to=TensorProto.UINT8)
    x = net.add("Squeeze", x, net.constant(np.array([0], np.int64)))
    return net.model(x, ([1, 4, "z", "y", "x"], ["z", "y", "x"]), ("segmentation", TensorProto.UINT8))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "squeezenet": squeezenet,
    "resnet50": resnet50,
    "resnet50-fp16": lambda: resnet50(half=True),
    "unet3d": unet3d,
}


def write(name: str, path: Path) -> None:
    """Make the network of this name and write it as an ONNX file."""
    path.write_bytes(NETWORKS[name]().SerializeToString(deterministic=True))
