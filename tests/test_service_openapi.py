"""The OpenAPI document: of the routes that are there, and what a generator of requests makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import pytest
import schemathesis
from grounds import OBEDIENT, REPO
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from servekit import Endpoint, serving

from modelhub_hpc.config import SiteConfig
from modelhub_hpc.service import Service, ServiceSettings, openapi
from modelhub_hpc.service.app import create_app
from modelhub_hpc.service.served import find

METHODS = {"get", "post", "put", "patch", "delete"}
DIGITS = REPO / "registry/contributions/digits-cnn/contrib_src/sample_data"
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
QUICK = list(hypothesis.HealthCheck)
FOR_PEOPLE = ("pages", "static")  # blueprints whose routes are no interface for programs


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("openapi")
    with serving(folder, "digits-cnn", "--allow-root", DIGITS, MH_HPC_WORKERS="1") as started:
        yield started


@pytest.fixture(scope="module")
def job(server: Endpoint) -> str:
    return str(server.post("/jobs", json={"model": "digits-cnn", "inputs": [str(DIGITS)]}).json()["id"])


@pytest.fixture(scope="module")
def described(server: Endpoint) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=server.headers)


def operations(document: Any) -> set[tuple[str, str]]:
    return {(path, method) for path, item in document["paths"].items() for method in METHODS & set(item)}


@pytest.mark.parametrize("models", [["digits-cnn"], ["digits-cnn", str(OBEDIENT)]], ids=["one", "several"])
def test_every_route_is_described_and_every_description_has_its_route(tmp_path: Path, models: list[str]) -> None:
    site = SiteConfig(runtime="host", executor="local", workers=1, scratch_dir=tmp_path)
    settings = ServiceSettings(site=site, jobs_site=site, token=None, folder=tmp_path, jobs=tmp_path / "runs")
    service = Service(settings, find(models, site))
    try:
        found = set()
        for rule in create_app(service).url_map.iter_rules():
            if not rule.endpoint.split(".")[0].startswith(FOR_PEOPLE):
                path = re.sub("<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule)
                path = re.sub("^/models/[^/]+/api/", "/models/{model}/api/", path)
                found |= {(path, method.lower()) for method in rule.methods or () if method.lower() in METHODS}
    finally:
        service.close()
    described = operations(openapi.document())
    if len(models) > 1:
        described = {(path, method) for path, method in described if not path.startswith("/api/")}
    assert found == described


def test_what_the_document_refers_to_is_there(server: Endpoint) -> None:
    document = server.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1") and document == openapi.document()
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place: Any = document
        for part in reference.split("/"):
            place = place[part]
    for each in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(each)
    ids = [item[method]["operationId"] for item in document["paths"].values() for method in METHODS & set(item)]
    assert len(ids) == len(set(ids))


def test_what_a_job_tells_is_what_the_document_says(server: Endpoint, job: str) -> None:
    root, draft = {"components": openapi.document()["components"]}, jsonschema.Draft202012Validator
    found = {"Job": [server.get(f"/jobs/{job}").json()]}
    list(server.get(f"/jobs/{job}/events").iter_lines())  # until it is over
    found["Job"].append(server.get(f"/jobs/{job}").json())
    found["Result"] = [json.loads(line) for line in server.get(f"/jobs/{job}/results").text.splitlines()]
    found["File"] = server.get(f"/jobs/{job}/files").json()["files"]
    found["Problem"] = [server.get("/jobs/x").json()]
    found["Prediction"] = [server.get("/api/predict_sample?filename=digit-0898.png").json()]
    for name, values in found.items():
        for value in values:
            jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}", **root}, draft)
    assert len(found["Result"]) == 10 and len(found["File"]) == 3


@pytest.mark.parametrize("operation", sorted(operations(openapi.document())), ids=lambda each: f"{each[1]} {each[0]}")
def test_no_request_that_is_generated_breaks_the_server(
    described: Any, operation: tuple[str, str], server: Endpoint, job: str
) -> None:
    path, method = operation
    names = {"job_id": job, "model": "digits-cnn"}  # which nothing that is generated would hit
    if path.endswith("/events"):
        return  # a stream lasts as long as its job, and has tests of its own

    @hypothesis.given(described[path][method].as_strategy())
    @hypothesis.settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=QUICK)
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=server.headers, checks=CHECKS)
        known = {name: value for name, value in names.items() if name in case.path_parameters}
        if known and method == "get":
            case.path_parameters.update(known)
            case.call_and_validate(headers=server.headers, checks=CHECKS)
        if operation == ("/jobs", "post") and isinstance(case.body, dict):
            case.body["model"] = "digits-cnn"
            case.call_and_validate(headers=server.headers, checks=CHECKS)

    ask()
