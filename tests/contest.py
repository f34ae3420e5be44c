"""Models whose order is known beforehand, patients and digits with what is true of them, and benchmarks of these."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import SimpleITK
from grounds import REPO

BRATS = REPO / "registry/contributions/phantom-brats"
DIGITS = REPO / "registry/contributions/digits-cnn"
HASTY = REPO / "tests/contributions/hasty/model.onnx"
HERE = ("--runtime", "host", "--executor", "inline")

# everything lies four voxels beside its place, and nothing enhances
SPOILED = """

class ImageProcessor(ImageProcessor):
    def computeOutput(self, inferenceResults):
        labels = numpy.roll(super().computeOutput(inferenceResults), 4, axis=2)
        return numpy.where(labels == 4, 1, labels).astype(numpy.uint8)
"""
# digits that lie two pixels beside their place are taken for others
SHAKEN = """

class ImageProcessor(ImageProcessor):
    def _preprocessAfterConversionToNumpy(self, npArr):
        return numpy.roll(super()._preprocessAfterConversionToNumpy(npArr), 2, axis=3)
"""


def variant(folder: Path, of: Path, name: str, more: str = "") -> Path:
    """A model of that name like another one, its processing ending in `more`."""
    model = folder / name
    shutil.copytree(of, model, ignore=shutil.ignore_patterns("__pycache__", "sample_data"))
    file = model / "contrib_src/model/config.json"
    config = json.loads(file.read_bytes())
    config["meta"]["name"], config["id"] = name, config["id"][:-4] + f"{sum(name.encode()) % 10000:04d}"
    file.write_text(json.dumps(config))
    with open(model / "contrib_src/processing.py", "a", encoding="utf-8") as stream:
        stream.write(more)
    return model


def models(folder: Path) -> tuple[str, str, str]:
    """phantom-brats, the same after less training, and spoiled: the best first."""
    hasty = variant(folder, BRATS, "hasty")
    shutil.copy(HASTY, hasty / "contrib_src/model/model.onnx")
    return "phantom-brats", str(hasty), str(variant(folder, BRATS, "spoiled", SPOILED))


def script(model: Path, name: str) -> ModuleType:
    """A module that lies beside a contribution; those of others have the same names, and no trace of it is left."""
    before = {each: sys.modules.pop(each, None) for each in (name, "phantom")}
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(model))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(model))
        sys.dont_write_bytecode = written
        for each, module in before.items():
            sys.modules.pop(each, None)
            if module is not None:
                sys.modules[each] = module


def patients(folder: Path, count: int) -> Path:
    """Phantom patients in folder/data, and their true labels in folder/truth; the table of these."""
    maker = script(BRATS, "make_samples")
    rows = []
    for number in range(count):
        phantom, name = maker.patient(number), f"patient-{number:02d}"
        maker.write(phantom, folder / "data" / name)
        image = SimpleITK.GetImageFromArray(phantom.labels)
        image.SetSpacing(phantom.grid.spacing.tolist())
        image.SetOrigin(phantom.grid.origin.tolist())
        image.SetDirection(phantom.grid.direction.ravel().tolist())
        (folder / "truth").mkdir(exist_ok=True)
        SimpleITK.WriteImage(image, str(folder / "truth" / f"{name}.nii.gz"))
        rows.append((name, f"{name}.nii.gz"))
    return table(folder / "truth/reference.csv", ("case_id", "reference"), rows)


def digits(folder: Path, count: int) -> Path:
    """The first held-out digits in folder/data; the table of their labels."""
    maker = script(DIGITS, "make_images")
    pixels, labels = maker.load_pixels()
    (folder / "data").mkdir(parents=True)
    rows = []
    for index in range(maker.TRAINING_COUNT, maker.TRAINING_COUNT + count):
        name = f"digit-{index:04d}.png"
        maker.write_image(folder / "data" / name, pixels[index])
        rows.append((name, str(labels[index])))
    return table(folder / "labels.csv", ("file", "label"), rows)


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def records(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def labels_of(path: Path) -> np.ndarray:
    """z, y, x"""
    found: np.ndarray = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return found
