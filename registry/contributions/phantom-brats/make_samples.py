"""Writes phantom patients as NIfTI files: the sample that comes with the model, or as many as you like.

    python make_samples.py                 contrib_src/sample_data, and the thumbnail
    python make_samples.py DIR --count 20  DIR/patient-00/t1.nii.gz ..., and truth.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK
from PIL import Image

from phantom import CONTRASTS, Phantom, make, random_grid

CONTRIB_SRC = Path(__file__).resolve().parent / "contrib_src"
SEED = 2_000_000  # neither trained on nor measured with
SAMPLE_SIZE = 22, 24, 20
SIZE = 24, 28, 20
TINTS = {1: (60, 90, 255), 2: (60, 220, 90), 4: (255, 80, 60)}


def patient(number: int, size: tuple[int, int, int] = SIZE) -> Phantom:
    """Always the same one for a number; odd ones have a mirrored grid."""
    random = np.random.default_rng(SEED + number)
    grid = random_grid(random, size)
    if (np.linalg.det(grid.direction) < 0) != (number % 2 == 1):
        grid.direction[:, 0] *= -1
    return make(random, grid)


def write(phantom: Phantom, folder: Path) -> None:
    """Writes t1.nii.gz, t1c.nii.gz, t2.nii.gz and flair.nii.gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTRASTS:
        image = SimpleITK.GetImageFromArray(np.rint(phantom.images[name]).astype(np.int16))
        image.SetSpacing(phantom.grid.spacing.tolist())
        image.SetOrigin(phantom.grid.origin.tolist())
        image.SetDirection(phantom.grid.direction.ravel().tolist())
        SimpleITK.WriteImage(image, str(folder / f"{name}.nii.gz"))


def write_sample() -> None:
    """One patient in a folder, the JSON file that names its volumes, and the thumbnail."""
    phantom = patient(0, SAMPLE_SIZE)
    samples = CONTRIB_SRC / "sample_data"
    write(phantom, samples / "patient")
    named = {
        name: {"format": ["application/nii-gzip"], "fileurl": f"patient/{name}.nii.gz"} for name in CONTRASTS
    }
    case = {"format": ["application/json"], **named}
    (samples / "sample.json").write_text(json.dumps(case, indent=4) + "\n", encoding="utf-8")
    thumbnail(phantom).save(CONTRIB_SRC / "model" / "thumbnail.jpg", quality=85)


def thumbnail(phantom: Phantom) -> Image.Image:
    """The slice with most of the tumour in FLAIR, its parts tinted."""
    z = int((phantom.labels > 0).sum(axis=(1, 2)).argmax())
    grey = phantom.images["flair"][z]
    colours = np.stack([grey * (255 / grey.max())] * 3, axis=-1)
    for label, tint in TINTS.items():
        inside = phantom.labels[z] == label
        colours[inside] = 0.5 * colours[inside] + 0.5 * np.array(tint)
    return Image.fromarray(colours.astype(np.uint8)).resize((192, 192), Image.Resampling.BICUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write phantom patients as NIfTI files.")
    parser.add_argument("folder", type=Path, nargs="?", help="default: the sample of the contribution")
    parser.add_argument("--count", type=int, default=20, help="patients (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.folder is None:
        write_sample()
        return
    truth = {}
    for number in range(arguments.count):
        phantom = patient(number)
        write(phantom, arguments.folder / f"patient-{number:02d}")
        truth[f"patient-{number:02d}"] = phantom.centre.tolist()
    (arguments.folder / "truth.json").write_text(json.dumps(truth, indent=4) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
