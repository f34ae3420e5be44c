"""Inputs of natural size, the same bytes each time."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

CONTRASTS = ("t1", "t1c", "t2", "flair")
_PHOTO = 375, 500  # rows and columns, the usual size of photographs in ImageNet
_BRAIN = 155, 240, 240  # z, y, x, the size of every volume in BraTS
_PER_FOLDER = 1000
_KINDS = 64  # pictures that differ; further files are copies, which cost the same to read and to decode
_SEED = 20261125


def photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of 500 x 375 pixels and about 100 kB, with detail at every scale as photographs have it."""
    random = np.random.RandomState(_SEED)
    return _write(folder, ".jpg", count, [_jpeg(_clouds(random, (*_PHOTO, 3))) for _ in range(min(count, _KINDS))])


def digits(folder: Path, count: int) -> list[Path]:
    """PNGs of 28 x 28 grey pixels."""
    random = np.random.RandomState(_SEED)
    return _write(folder, ".png", count, [_png(random) for _ in range(min(count, _KINDS))])


def brains(folder: Path, count: int, size: tuple[int, int, int] = _BRAIN) -> Path:
    """Four contrasts per case as int16 .nii.gz, half of it background; returns the table of cases. size: z, y, x."""
    random = np.random.RandomState(_SEED)
    rows = []
    for number in range(count):
        case = folder / f"case{number:03d}"
        case.mkdir(parents=True)
        paths = {name: str(case / f"{name}.nii.gz") for name in CONTRASTS}
        for path in paths.values():
            Path(path).write_bytes(_nifti(_head(random, size)))
        rows.append({"case_id": case.name, **paths})
    table = folder / "cases.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["case_id", *CONTRASTS])
        writer.writeheader()
        writer.writerows(rows)
    return table


def _write(folder: Path, suffix: str, count: int, pictures: list[bytes]) -> list[Path]:
    paths = []
    for number, picture in zip(range(count), itertools.cycle(pictures)):
        path = folder / f"{number // _PER_FOLDER:03d}" / f"{number:06d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        paths.append(path)
    return paths


def _clouds(random: np.random.RandomState, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise of every scale, the coarse louder than the fine: uint8 of this shape (rows, columns, bands)."""
    rows, columns, bands = shape
    total: np.ndarray = np.zeros(shape, np.float32)
    for size, loudness in _octaves(min(rows, columns)):
        grid = random.uniform(-loudness, loudness, (rows // size + 2, columns // size + 2, bands))
        layers = [Image.fromarray(grid[..., band].astype(np.float32)) for band in range(bands)]
        scaled = [layer.resize((columns, rows), Image.Resampling.BICUBIC) for layer in layers]
        total += np.stack([np.asarray(layer) for layer in scaled], axis=-1)
    return _bytes(128 + 1.2 * total)


def _octaves(longest: int) -> Iterator[tuple[int, float]]:
    size = 1
    while size < longest:
        yield size, 18.0 * size**0.25
        size *= 2


def _jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _png(random: np.random.RandomState) -> bytes:
    grid = Image.fromarray(random.uniform(-200, 300, (7, 7)).astype(np.float32))
    pixels = np.asarray(grid.resize((28, 28), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray(_bytes(pixels)).save(stream, "PNG")
    return stream.getvalue()


def _bytes(pixels: np.ndarray) -> np.ndarray:
    whole: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return whole


def _head(random: np.random.RandomState, size: tuple[int, int, int]) -> np.ndarray:
    """An ellipsoid of noisy tissue in the dark: int16 of this size (z, y, x)."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, side)) for side in size)]
    inside = sum((axis / 0.9) ** 2 for axis in axes) < 1
    tissue = 400 + 60 * np.sin(5 * axes[0]) * np.cos(4 * axes[1]) + 50 * axes[2]
    noise = random.randint(0, 64, size, np.int16)
    return np.where(inside, tissue + noise, 0).astype(np.int16)


def _nifti(voxels: np.ndarray) -> bytes:
    image = nibabel.Nifti1Image(voxels.transpose(), np.eye(4))  # type: ignore[no-untyped-call]
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
