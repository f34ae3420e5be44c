"""A small contribution in which all is right, for tests that put mistakes into it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from grounds import IMAGE
from PIL import Image

CONFIG: dict[str, Any] = {
    "id": "3c1b8f0e-6f5d-4a52-9c3a-6a1d3f0f2b11",
    "meta": {
        "name": "bright",
        "application_area": "Testing",
        "task": "Classification",
        "task_extended": "Tells bright pictures from dark ones",
        "data_type": "Image/Photo",
    },
    "model": {
        "description": "The mean of all pixels, and the pixels.",
        "provenance": "Made for tests.",
        "architecture": "None",
        "learning_type": "None",
        "format": ".py",
        "io": {
            "input": {
                "format": ["image/png"],
                "single": {"format": ["image/png"], "dim_limits": [{"min": 1, "max": 4}, {"min": 4}, {"min": 4}]},
            },
            "output": [
                {"name": "brightness", "type": "label_list", "description": "How bright the picture is."},
                {"name": "pixels", "type": "heatmap", "description": "The picture, (y, x)."},
            ],
        },
    },
    "modelhub": {"version": "1.0.0"},
}
RUN = """import os

from modelhubapi import webservice
from inference import Model


if __name__ == "__main__":
    webservice.start(Model(), os.path.dirname(os.path.realpath(__file__)))
"""
MODELAPI = """import os

from modelhubapi import ModelHubAPI
from inference import Model

model = ModelHubAPI(Model(), os.path.dirname(os.path.realpath(__file__)))
"""
PROCESSING = """import numpy

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):
    def computeOutput(self, inferenceResults):
        pixels = inferenceResults[0].mean(axis=0) / 255
        level = float(pixels.mean())
        labels = [{"label": "bright", "probability": level}, {"label": "dark", "probability": 1 - level}]
        return [labels, numpy.asarray(pixels, "float32")]
"""
INFERENCE = """import json

from modelhublib.model import ModelBase

from processing import ImageProcessor


class Model(ModelBase):
    def __init__(self):
        with open("model/config.json") as stream:
            self._imageProcessor = ImageProcessor(json.load(stream))

    def infer(self, input):
        return self._imageProcessor.computeOutput(self._imageProcessor.loadAndPreprocess(input))
"""
SAMPLES = {"light.png": 250, "shade.png": 60}


def config(change: Callable[[dict[str, Any]], object] | None = None) -> dict[str, Any]:
    """The configuration, changed."""
    made = copy.deepcopy(CONFIG)
    if change is not None:
        change(made)
    return made


def write(folder: Path, name: str = "bright") -> Path:
    """The contribution, in a new folder of that name."""
    root = folder / name
    texts = {
        "README.md": "# bright\n",
        "init/init.json": json.dumps({"docker_id": IMAGE, "external_contrib_files": []}),
        "contrib_src/run.py": RUN,
        "contrib_src/modelapi.py": MODELAPI,
        "contrib_src/processing.py": PROCESSING,
        "contrib_src/inference.py": INFERENCE,
        "contrib_src/model/config.json": json.dumps(config(lambda c: c["meta"].update(name=name))),
        "contrib_src/license/model": "Do with the model what you like.\n",
        "contrib_src/license/sample_data": "Do with the samples what you like.\n",
    }
    for place, text in texts.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
    (root / "contrib_src/sample_data").mkdir()
    for sample, level in SAMPLES.items():
        picture(root / "contrib_src/sample_data" / sample, level)
    return root


def picture(path: Path, level: int, side: int = 8) -> None:
    ramp = np.linspace(0, level, side * side).reshape(side, side)
    Image.fromarray(ramp.astype(np.uint8)).save(path)
