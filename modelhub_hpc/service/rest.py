"""ModelHub's REST interface to one model: the engine's own routes, in front of sessions instead of a loaded model."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flask

from modelhub_hpc import resources, strictjson
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.oncall import Answer
from modelhub_hpc.service.sessions import Inputs, SessionPool
from modelhub_hpc.service.settings import ServiceSettings


def engine(name: str) -> Any:
    """A module of the engine's HTTP interface, the only part of the engine that the host runs itself."""
    folder = str(resources.folder("engine"))
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"modelhubapi.{name}")


def handler(
    model: Contribution, sessions: SessionPool, requests: Path, outputs: Path, settings: ServiceSettings
) -> Any:
    """The engine's RequestHandler for a model. requests: where each gets a private folder; outputs: of arrays."""
    restapi, api = engine("restapi"), engine("pythonapi").ModelHubAPI(None, str(model.contrib_src))
    api.output_folder = str(outputs)
    limits = restapi.RestLimits(max_upload_mb=settings.max_upload_bytes / 2**20, allow_urls=settings.url_inputs)

    def predict(given: str | Mapping[str, Any], url_root: str) -> str:
        answer = sessions.predict(_pairs(given))
        fields: dict[str, Any] = api.answer(_named(answer), answer.result.seconds, url_root=url_root)
        notes = {"notes": list(answer.result.notes)} if answer.result.notes else {}
        return strictjson.dumps({**fields, **notes})

    return restapi.RequestHandler(api, limits, str(requests), predict)


def blueprint(handler: Any, name: str) -> flask.Blueprint:
    """Its routes, to be registered under a prefix that ends in /api; name: one that no other blueprint has."""
    routes: flask.Blueprint = engine("routes").make_blueprint(handler, name)
    return routes


def _pairs(given: str | Mapping[str, Any]) -> Inputs:
    if isinstance(given, str):
        return (("single", given),)
    return tuple((key, entry["fileurl"]) for key, entry in given.items() if isinstance(entry, dict))


def _named(answer: Answer) -> list[Any]:
    """The outputs as the engine has them."""
    values = {name: output.array for name, output in answer.arrays.items()}
    output = engine("outputs").Output
    return [output(o.name, o.type, o.description, values.get(o.name, o.prediction)) for o in answer.result.outputs]
