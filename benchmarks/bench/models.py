"""The models that are measured: contributions of this folder, and the networks that are made for some of them."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from bench import REPO, networks

CONTRIBUTIONS = REPO / "benchmarks/contributions"
_FRAMES = {"squeezenet": "classifier", "resnet50": "classifier", "resnet50-fp16": "classifier", "unet3d": "unet3d"}
NAMES = ("null", "null-png", "sleep", *_FRAMES)


def make(name: str, folder: Path) -> Path:
    """The contribution of this name as `folder`/name, with its network: the same bytes each time."""
    made = folder / name
    shutil.copytree(CONTRIBUTIONS / _FRAMES.get(name, name), made, ignore=shutil.ignore_patterns("__pycache__"))
    if name in _FRAMES:
        _name(made / "contrib_src/model/config.json", name)
        networks.write(name, made / "contrib_src/model/model.onnx")
    return made


def _name(config_json: Path, name: str) -> None:
    config = json.loads(config_json.read_text())
    config["id"] = str(uuid.uuid5(uuid.UUID(config["id"]), name))
    config["meta"]["name"] = name
    config_json.write_text(json.dumps(config, indent=2) + "\n")
