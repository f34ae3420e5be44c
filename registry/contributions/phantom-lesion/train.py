"""Trains the phantom-lesion network on phantoms that it makes, and writes it as ONNX, with numpy alone.

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
from phantom import Phantom, make  # noqa: E402
from windowing import windowed  # noqa: E402

SEED = 7
STEPS = 1000
BATCH = 8
HELD_OUT = 200
HELD_OUT_SEED = 1_000_000
LAYOUT = convnet.Layout(axes=2, inputs=1, layers=((12, 1), (12, 2), (12, 4), (12, 1)), classes=2)
IMPORTANCE = np.array([0.3, 1.0], np.float32)
MODEL_FILE = HERE / "contrib_src" / "model" / "model.onnx"


def network_input(phantom: Phantom) -> convnet.Floats:
    """(y, x, 1), as the contribution preprocesses slices."""
    values: convnet.Floats = windowed(phantom.hounsfield)[..., np.newaxis]
    return values


def batches(random: np.random.Generator) -> Iterator[tuple[convnet.Floats, convnet.Labels]]:
    """Ever new phantoms: images and classes."""
    while True:
        phantoms = [make(random) for _ in range(BATCH)]
        images = np.stack([network_input(phantom) for phantom in phantoms])
        yield images, np.stack([phantom.lesions for phantom in phantoms]).astype(np.int64)


def held_out() -> Iterator[Phantom]:
    """The phantoms that measure the network, each of its own size; every fourth has no lesion."""
    for number in range(HELD_OUT):
        random = np.random.default_rng(HELD_OUT_SEED + number)
        rows, columns = (int(n) for n in random.integers(60, 97, 2))
        yield make(random, (rows, columns), lesions=number % 4)


def pooled_dice(found: list[NDArray[np.bool_]], phantoms: list[Phantom]) -> float:
    """The Dice score over the pixels of all phantoms together: those without a lesion count what is found there."""
    everything = np.concatenate([each.ravel() for each in found])
    return convnet.dice(everything, np.concatenate([phantom.lesions.ravel() for phantom in phantoms]))


def measure(weights: convnet.Weights) -> float:
    """The Dice score on the held-out phantoms."""
    phantoms = list(held_out())
    inputs = (network_input(phantom)[np.newaxis] for phantom in phantoms)
    return pooled_dice([convnet.probabilities(LAYOUT, weights, x)[0, ..., 1] >= 0.5 for x in inputs], phantoms)


def main() -> None:
    """Trains, writes the model file and prints the score."""
    parser = argparse.ArgumentParser(description="Train phantom-lesion and write it as ONNX.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=MODEL_FILE, help="model file (default: %(default)s)")
    arguments = parser.parse_args()
    phantoms = batches(np.random.default_rng(SEED))
    weights = convnet.train(LAYOUT, phantoms, arguments.steps, IMPORTANCE, rate=8e-3, seed=SEED)
    onnx.save(convnet.onnx_model(LAYOUT, weights, "phantom-lesion"), str(arguments.output))
    print(f"Dice on {HELD_OUT} held-out slices: {measure(weights):.3f}")


if __name__ == "__main__":
    main()
