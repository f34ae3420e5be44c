"""The OpenAPI document, which is what requests are held to: bodies by its schemas."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from modelhub_hpc import __version__
from modelhub_hpc.service.refused import Refused


@functools.cache
def document() -> dict[str, Any]:
    """The document; it is everybody's and not to be changed."""
    found: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8"))
    found["info"]["version"] = __version__
    of_one = {path: item for path, item in found["paths"].items() if path.startswith("/api/")}
    found["paths"].update({f"/models/{{model}}{path}": _of_named_model(item) for path, item in of_one.items()})
    return found


def _of_named_model(item: dict[str, Any]) -> dict[str, Any]:
    """The same route of a server with several models."""
    renamed = copy.deepcopy(item)
    renamed["parameters"] = [*item.get("parameters", ()), {"$ref": "#/components/parameters/Model"}]
    for operation in (renamed[method] for method in renamed if method != "parameters"):
        operation["operationId"] += "OfModel"
    return renamed


def check(value: object, schema: str) -> None:
    """Refused (422) with the place of the first mistake if the value is not what that schema of the document says."""
    mistake = jsonschema.exceptions.best_match(_validator(schema).iter_errors(value))
    if mistake is not None:
        place = "".join(f"/{part}" for part in mistake.absolute_path) or "the body"
        raise Refused(422, f"{place}: {mistake.message[:200]}")


@functools.cache
def _validator(schema: str) -> Any:
    root = {"$ref": f"#/components/schemas/{schema}", "components": document()["components"]}
    return jsonschema.Draft202012Validator(root)
