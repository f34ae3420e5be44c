"""ModelHub's REST over sessions: every route and shape that old clients know."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import pytest
import requests
from grounds import REPO
from servekit import Endpoint, serving

MODELS = REPO / "registry/contributions"
DIGITS = MODELS / "digits-cnn/contrib_src"
PAIR = REPO / "tests/contributions/pair"
MEAN = REPO / "tests/contributions/mean"
SAMPLE = sorted((DIGITS / "sample_data").glob("*.png"))[0]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server of one model, as ModelHub's were: no token, and /api."""
    with serving(tmp_path_factory.mktemp("one"), "digits-cnn", "--no-auth") as server:
        yield server


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serving(tmp_path_factory.mktemp("many"), "digits-cnn", PAIR, MEAN) as server:
        yield server


@pytest.fixture(params=["one", "many"])
def api(request: pytest.FixtureRequest) -> tuple[Endpoint, str]:
    """Both ways in to the same model: the server, and where its /api lies."""
    server: Endpoint = request.getfixturevalue(request.param)
    return server, "/api" if request.param == "one" else "/models/digits-cnn/api"


def strict(response: requests.Response, status: int = 200) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.content, parse_constant=refuse)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_descriptions_are_those_of_the_contribution(api: tuple[Endpoint, str]) -> None:
    server, root = api
    config = json.loads((DIGITS / "model/config.json").read_text())
    assert strict(server.get(f"{root}/get_config")) == config
    assert strict(server.get(f"{root}/get_model_io")) == config["model"]["io"]
    legal = strict(server.get(f"{root}/get_legal"))
    assert set(legal) == {"modelhub_license", "modelhub_acknowledgements", "model_license", "sample_data_license"}
    assert legal["model_license"] == (DIGITS / "license/model").read_text()


def test_a_missing_licence_is_an_error_with_the_others_beside(many: Endpoint) -> None:
    legal = strict(many.get("/models/pair/api/get_legal"), 400)
    assert "Apache License" in legal["modelhub_license"] and "license" in legal["error"]


def test_samples_are_addresses_that_can_be_fetched(api: tuple[Endpoint, str]) -> None:
    server, root = api
    addresses = strict(server.get(f"{root}/get_samples?query=does-no-harm"))
    assert addresses == [f"{server.url}{root}/samples/{path.name}" for path in sorted(SAMPLE.parent.glob("*.png"))]
    assert server.get(addresses[0]).content == SAMPLE.read_bytes()
    assert server.get(addresses[0]).headers["Content-Type"] == "image/png"


def test_no_samples_is_an_error(many: Endpoint) -> None:
    assert "error" in strict(many.get("/models/mean/api/get_samples"), 400)


def test_thumbnails_are_files_of_the_model(api: tuple[Endpoint, str]) -> None:
    server, root = api
    given = server.get(f"{root}/thumbnail/config.json")
    assert given.content == (DIGITS / "model/config.json").read_bytes()
    assert server.get(f"{root}/thumbnail/nothing.jpg").status_code == 404


def test_the_model_is_a_zip_with_its_folder(api: tuple[Endpoint, str]) -> None:
    server, root = api
    answer = server.get(f"{root}/get_model_files")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="digits-cnn_model.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist()[0] == "model/"
        assert archive.read("model/config.json") == (DIGITS / "model/config.json").read_bytes()


def check_digits(answer: Any) -> None:
    assert set(answer) == {"output", "timestamp", "processing_time", "model"}
    config = json.loads((DIGITS / "model/config.json").read_text())
    assert answer["model"] == {"id": config["id"], "name": "digits-cnn"}
    assert re.fullmatch(r"\d{4}(-\d\d){5}-\d{6}", answer["timestamp"])
    assert isinstance(answer["processing_time"], float) and answer["processing_time"] >= 0
    (output,) = answer["output"]
    assert {name: output[name] for name in ("name", "type", "shape", "description")} == {
        "name": "probabilities", "type": "label_list", "shape": [10],
        "description": "Probability of each of the ten digits.",
    }  # fmt: skip
    assert sum(each["probability"] for each in output["prediction"]) == pytest.approx(1, abs=1e-4)


def test_a_sample_is_predicted_as_its_upload_is(api: tuple[Endpoint, str]) -> None:
    server, root = api
    by_name = strict(server.get(f"{root}/predict_sample", params={"filename": SAMPLE.name}))
    uploaded = strict(server.post(f"{root}/predict", files={"file": (SAMPLE.name, SAMPLE.read_bytes())}))
    check_digits(by_name)
    check_digits(uploaded)
    assert by_name["output"] == uploaded["output"]


def test_content_decides_what_an_upload_is(api: tuple[Endpoint, str]) -> None:
    server, root = api
    check_digits(strict(server.post(f"{root}/predict", files={"file": ("a.tmp", SAMPLE.read_bytes())})))
    refused = strict(server.post(f"{root}/predict", files={"file": ("a.png", b"text")}), 400)
    assert refused["error"].startswith("Incorrect file type.")


@pytest.mark.parametrize("query", ["", "?fileurl=", "?fileurl=file:///etc/passwd", "?fileurl=/etc/passwd"])
def test_what_is_no_address_is_refused(api: tuple[Endpoint, str], query: str) -> None:
    server, root = api
    assert strict(server.get(f"{root}/predict{query}"), 400)["error"]


def test_addresses_are_not_fetched_unless_the_server_was_told_to(api: tuple[Endpoint, str]) -> None:
    server, root = api
    refused = strict(server.get(f"{root}/predict?fileurl=http://example.org/a.png"), 403)
    assert "upload" in refused["error"]


def test_what_is_not_there(api: tuple[Endpoint, str]) -> None:
    server, root = api
    assert strict(server.get(f"{root}/predict_sample?filename=nothing.png"), 404)["error"]
    assert strict(server.get(f"{root}/samples/nothing.png"), 404)["error"]
    assert strict(server.get(f"{root}/nothing"), 404)["error"]
    assert strict(server.ask("DELETE", f"{root}/get_config"), 405)["error"]
    assert "GET" in server.ask("DELETE", f"{root}/get_config").headers["Allow"]
    assert strict(server.post(f"{root}/predict"), 400)["error"]


def test_several_inputs_by_name_and_arrays_that_can_be_fetched(many: Endpoint) -> None:
    first, second = np.arange(6.0).reshape(2, 3), np.full((2, 3), 7.0)
    files = {"first": ("a.npy", npy(first)), "second": ("b.npy", npy(second))}
    sums, both = strict(many.post("/models/pair/api/predict", files=files))["output"]
    assert sums["prediction"] == [15.0, 42.0] and sums["shape"] == [2]
    assert both["shape"] == [2, 2, 3]
    assert re.fullmatch(rf"{re.escape(many.url)}/models/pair/api/output/[\w-]+\.h5", both["prediction"])
    with h5py.File(io.BytesIO(many.get(both["prediction"]).content)) as file:
        np.testing.assert_array_equal(file["both"], np.stack([first, second]))
        assert file["both"].attrs["type"] == b"float64"
    assert many.get(both["prediction"], headers={}).status_code == 401


def test_arrays_that_nobody_fetches_are_removed(many: Endpoint) -> None:
    files = {key: ("a.npy", npy(np.ones((2, 2)))) for key in ("first", "second")}
    address = strict(many.post("/models/pair/api/predict", files=files))["output"][1]["prediction"]
    (file,) = (many.log.parent / "scratch").glob(f"mh-hpc-serve*/outputs/pair/{address.rpartition('/')[2]}")
    os.utime(file, (0, 0))
    deadline = time.monotonic() + 30
    while many.get(address).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert many.get(address).status_code == 404 and not file.exists()


def test_an_input_that_lacks_is_named(many: Endpoint) -> None:
    refused = strict(many.post("/models/pair/api/predict", files={"first": ("a.npy", npy(np.ones(2)))}), 400)
    assert "second" in refused["error"]


def test_json_names_no_file_of_the_server(many: Endpoint) -> None:
    named = {"first": {"fileurl": "/etc/passwd"}, "second": {"fileurl": "/etc/passwd"}}
    refused = strict(many.post("/models/pair/api/predict", files={"file": ("a.json", json.dumps(named))}), 400)
    assert refused["error"] == "/etc/passwd is neither an http(s) address nor a file of sample_data"


def test_models_have_no_common_api(many: Endpoint) -> None:
    assert many.get("/api/get_config").status_code == 404


CURL = [
    'curl -X GET "{url}/api/get_config"',
    'curl "{url}/api/get_legal"',
    'curl "{url}/api/get_samples"',
    'curl -X POST -F "file=@{file}" "{url}/api/predict"',
    'curl "{url}/api/predict_sample?filename={name}"',
]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("line", CURL)
def test_lines_of_curl(one: Endpoint, many: Endpoint, line: str) -> None:
    """As they have always been where nobody has to know a token, and with it added where one has."""
    bare = line.format(url=one.url, file=SAMPLE, name=SAMPLE.name) + " -sSf"
    closed = line.replace("/api/", "/models/digits-cnn/api/").format(url=many.url, file=SAMPLE, name=SAMPLE.name)
    for command in (bare, f'{closed} -sSf -H "Authorization: Bearer {many.token}"'):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "error" not in json.loads(done.stdout)
    assert subprocess.run(["bash", "-c", f"{closed} -sSf"], capture_output=True).returncode == 22


def test_nothing_of_requests_stays(one: Endpoint) -> None:
    folder = one.log.parent / "scratch"
    assert not [path for path in folder.glob("mh-hpc-serve*/requests/*/*") if path.exists()]


def test_the_lack_of_a_token_is_said_loudly(one: Endpoint) -> None:
    assert "NO TOKEN IS ASKED" in one.log.read_text() and one.token is None


def test_urls_with_a_token_in_them(many: Endpoint) -> None:
    assert strict(many.get(f"/models/mean/api/get_config?token={many.token}", headers={}))["meta"]["name"] == "mean"
    log = many.log.read_text()
    assert "GET /models/mean/api/get_config 200" in log and many.token and many.token not in log
