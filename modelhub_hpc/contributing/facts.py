"""What a contribution's files say of it, as the properties of an entry in a registry."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelhub_hpc import images, resources
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import configs
from modelhub_hpc.contributing.references import reference
from modelhub_hpc.contribution import Contribution, InputSpec, OutputSpec
from modelhub_hpc.deployment.card import licence_name
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.images.image import parse
from modelhub_hpc.models import entry as entries
from modelhub_hpc.runfolder import read_json

MEASURED = "measured.json"  # what `mh-hpc test` leaves beside init/ and contrib_src/
# what no file of a contribution has to say; config.json may say it under "modelhub", as registry/schema.json wants it
_OPTIONAL = ("title", "modality", "backend", "gpu", "accuracy", "quirks")
# of a model of which nobody has said more
UNKNOWN: Mapping[str, Any] = {
    "modality": None,
    "python": None,
    "gpu": {"uses": False, "required": False, "cuda": None, "newest_arch": None},
    "licence": None,
    "reference": None,
    "accuracy": [],
    "resources": {"seconds_per_case": None, "memory_mb": None, "gpu_memory_mb": None, "hardware": None},
    "quirks": {"writable": [], "network": None, "sample_data_written": False, "notes": []},
}


def stated(model: Contribution, settings: Mapping[str, Any], doi: str) -> dict[str, Any]:
    """The properties of an entry, but for its versions, that the contribution's files state; others are left out.

    settings: config.json; doi: of the model or its publication, "" for none. Raises InvalidError.
    """
    meta, described, ours = settings["meta"], settings["model"], settings["modelhub"]
    if not ours.get("backend"):
        raise InvalidError(
            'config.json does not say what the model runs on. Add it to modelhub, for example: "backend": ["pytorch"]'
        )
    facts = {
        "schema": 1,
        "id": model.id,
        "name": model.name,
        "title": model.name,
        "description": described["description"],
        "format": described["format"],
        **{name: meta[name] for name in ("task", "task_extended", "application_area", "data_type")},
        "config_form": configs.form(settings),
        "io": {
            "inputs": [_input(each) for each in model.inputs],
            "outputs": [_output(each, model) for each in model.outputs],
        },
        "licence": _licences(model.contrib_src / "license"),
        "reference": reference(model.path, settings.get("publication", {}), doi),
        "resources": _resources(model),
        **{name: ours[name] for name in _OPTIONAL if name in ours},
    }
    return {name: value for name, value in facts.items() if value is not None}


def _input(spec: InputSpec) -> dict[str, Any]:
    limits = [{"min": low, "max": high} for low, high in spec.dim_limits]
    return {"key": spec.key, "mime": spec.formats, "dim_limits": limits, "description": spec.description or None}


def _output(spec: OutputSpec, model: Contribution) -> dict[str, Any]:
    labels = _labels(model.contrib_src / "model/labels.json") if spec.type == "label_list" else None
    return {
        "name": spec.name,
        "type": spec.type,
        "description": spec.description or None,
        "axes": spec.axes or None,
        "labels": labels,
    }


def _labels(path: Path) -> dict[str, str] | None:
    """By convention {"0": "name", ...}; contributions are free to keep something else there."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    plain = isinstance(found, dict) and all(isinstance(each, str) for each in found.values())
    return found if plain and all(each.isdigit() for each in found) else None


def _licences(folder: Path) -> dict[str, str | None]:
    texts = {name: (folder / name).read_text(encoding="utf-8", errors="replace") for name in ("model", "sample_data")}
    return {name: licence_name(text) or None for name, text in texts.items()}


def _resources(model: Contribution) -> dict[str, Any] | None:
    """What `mh-hpc test` has measured, else what config.json says."""
    measured = read_json(model.path / MEASURED) if (model.path / MEASURED).exists() else {}
    if not measured and not model.seconds_per_case:
        return None
    found = {"seconds_per_case": model.seconds_per_case, **measured, "hardware": measured.get("machine")}
    return {name: found.get(name) or None for name in UNKNOWN["resources"]}


def image(model: Contribution, site: SiteConfig) -> tuple[entries.Image, str]:
    """What is known of the image that init.json names, and its Python, MAJOR.MINOR or ""."""
    name = parse(model.image)
    listed = json.loads((resources.folder("recipes") / "environments.json").read_bytes())
    recipe = next((each for each in listed if each["image"] == name.full), None) or {"chain": [None], "holds": ""}
    digest, python = name.pin, str(recipe.get("python", ""))
    with contextlib.suppress(InvalidError):  # it need not be in the store
        here = images.find(model.image, site)
        digest, python = here.digest or digest, ".".join(here.python.split(".")[:2]) or python
    holds = tuple(each for each in recipe["holds"].split(", ") if each)
    return entries.Image(name.full, digest or None, recipe["chain"][-1], holds), python
