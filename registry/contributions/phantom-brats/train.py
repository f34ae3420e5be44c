"""Trains the phantom-brats network on phantoms that it makes, and writes it as ONNX, with numpy alone.

The phantoms that measure it are made from seeds that training never uses.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "contrib_src"), str(HERE.parents[1] / "training")]

import convnet  # noqa: E402
from normalisation import normalised  # noqa: E402
from phantom import CONTRASTS, CORE, ENHANCING, OEDEMA, Phantom, make, random_grid  # noqa: E402

SEED = 4
STEPS = 800
BATCH = 2
SIZE = 24, 24, 24
HELD_OUT = 50
HELD_OUT_SEED = 1_000_000
LAYOUT = convnet.Layout(axes=3, inputs=4, layers=((10, 1), (10, 2), (10, 1)), classes=4)
LABELS = np.array([0, CORE, OEDEMA, ENHANCING], np.uint8)  # by class
IMPORTANCE = np.array([0.3, 1.0, 0.6, 0.7], np.float32)
MODEL_FILE = HERE / "contrib_src" / "model" / "model.onnx"
REGIONS = {"whole tumour": (1, 2, 4), "tumour core": (1, 4), "enhancing tumour": (4,)}


def network_input(phantom: Phantom) -> convnet.Floats:
    """(z, y, x, contrast), as the contribution preprocesses images."""
    return np.stack([normalised(phantom.images[name]) for name in CONTRASTS], axis=-1)


def batches(random: np.random.Generator) -> Iterator[tuple[convnet.Floats, convnet.Labels]]:
    """Ever new phantoms: images and classes."""
    while True:
        phantoms = [make(random, random_grid(random, SIZE)) for _ in range(BATCH)]
        classes = np.searchsorted(LABELS, np.stack([phantom.labels for phantom in phantoms]))
        yield np.stack([network_input(phantom) for phantom in phantoms]), classes


def held_out() -> Iterator[Phantom]:
    """The phantoms that measure the network, each with a grid of its own size."""
    for number in range(HELD_OUT):
        random = np.random.default_rng(HELD_OUT_SEED + number)
        yield make(random, random_grid(random))


def scores(found: NDArray[np.uint8], phantom: Phantom) -> dict[str, float]:
    """The Dice score of each region."""
    truth = phantom.labels
    return {name: convnet.dice(np.isin(found, labels), np.isin(truth, labels)) for name, labels in REGIONS.items()}


def measure(weights: convnet.Weights) -> dict[str, float]:
    """Mean Dice scores over the held-out phantoms."""
    found = []
    for phantom in held_out():
        classes = convnet.probabilities(LAYOUT, weights, network_input(phantom)[np.newaxis])[0].argmax(axis=-1)
        found.append(scores(LABELS[classes], phantom))
    return {region: float(np.mean([each[region] for each in found])) for region in REGIONS}


def main() -> None:
    """Trains, writes the model file and prints the scores."""
    parser = argparse.ArgumentParser(description="Train phantom-brats and write it as ONNX.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=MODEL_FILE, help="model file (default: %(default)s)")
    arguments = parser.parse_args()
    phantoms = batches(np.random.default_rng(SEED))
    weights = convnet.train(LAYOUT, phantoms, arguments.steps, IMPORTANCE, rate=6e-3, seed=SEED)
    onnx.save(convnet.onnx_model(LAYOUT, weights, "phantom-brats"), str(arguments.output))
    for region, score in measure(weights).items():
        print(f"{region:16}  mean Dice on {HELD_OUT} held-out phantoms  {score:.3f}")


if __name__ == "__main__":
    main()
