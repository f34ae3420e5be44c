"""Writes the 899 held-out handwritten digits as PNG files, with their labels in labels.csv.

    python make_images.py DIR [--one-of-each]

The digits come with scikit-learn (1,797 scans of 8 x 8 pixels with 17 grey levels); the file name holds the
place in that set. Every pixel becomes a square of 8 x 8 pixels, so that people can see something; averaging
the squares gives the scan back exactly.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

TRAINING_COUNT = 898
ENLARGED = 8


def load_pixels() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All scans as grey values 0 to 255, (1797, 8, 8), ink bright, and their labels 0 to 9, (1797,)."""
    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Writes one scan (8, 8) as an 8-bit PNG of 64 x 64 pixels."""
    Image.fromarray(pixels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)).save(path, format="PNG")


def one_of_each(labels: NDArray[np.int64]) -> list[int]:
    """The first held-out index of every class."""
    return [TRAINING_COUNT + int(np.argmax(labels[TRAINING_COUNT:] == label)) for label in range(10)]


def main() -> None:
    """Writes the images; labels.csv only with the whole set, since sample folders hold images alone."""
    parser = argparse.ArgumentParser(description="Write the held-out digits as PNG files and labels.csv.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--one-of-each", action="store_true", help="ten images, no labels.csv")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = load_pixels()
    chosen = one_of_each(labels) if arguments.one_of_each else range(TRAINING_COUNT, len(labels))
    rows = [(f"digit-{index:04d}.png", int(labels[index])) for index in chosen]
    for (name, _), index in zip(rows, chosen):
        write_image(arguments.folder / name, pixels[index])
    if not arguments.one_of_each:
        with open(arguments.folder / "labels.csv", "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([("file", "label"), *rows])
    print(f"{len(rows)} images in {arguments.folder}")


if __name__ == "__main__":
    main()
