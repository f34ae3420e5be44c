"""What pages are made of, without a browser: settings that strangers type, results that go, outputs of every shape."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounds import OBEDIENT, REPO
from hostile import dicom_series
from markupsafe import escape
from servekit import Endpoint, serving

from modelhub_hpc import viewing
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.record import ArrayOutput, CaseResult, Output
from modelhub_hpc.service import Service, ServiceSettings
from modelhub_hpc.service.app import create_app
from modelhub_hpc.service.pages import graph
from modelhub_hpc.service.pages import kept as keeping
from modelhub_hpc.service.pages.composing import looks
from modelhub_hpc.service.pages.kept import Given, Kept, Results
from modelhub_hpc.service.pages.sections import sections
from modelhub_hpc.service.pages.stages import Stage, stages
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import find
from modelhub_hpc.service.sessions import Answer

FLAIR = REPO / "registry/contributions/phantom-brats/contrib_src/sample_data/patient/flair.nii.gz"
DIGIT = REPO / "registry/contributions/digits-cnn/contrib_src/sample_data/digit-0898.png"
ODD_NAME = '"><img src=x onerror=alert(1)>'
MEAN = REPO / "tests/contributions/mean"
HOSTILE = '<script>alert("&")</script>'


def answer(**values: Any) -> Answer:
    """An answer whose outputs are called after their types; arrays are arrays."""
    outputs, arrays = [], {}
    for name, value in values.items():
        stored = isinstance(value, np.ndarray)
        outputs.append(Output(name, name, "", value.shape if stored else (), None if stored else value))
        if stored:
            arrays[name] = ArrayOutput(value, name)
    return Answer(CaseResult("a", 0, "done", tuple(outputs), 0.5, 1, None, (), "here", 0.0), arrays)


def keep(folder: Path, path: Path = FLAIR, **values: Any) -> Kept:
    folder.mkdir(exist_ok=True)
    results = Results(folder / "results", 1 << 30)
    return results.find(results.keep("model", [Given("single", path.name, path, True)], answer(**values)))


# -- results are kept for a while --------------------------------------------------------------------------------


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    upload = tmp_path / "upload.png"
    upload.write_bytes(DIGIT.read_bytes())
    results = Results(tmp_path / "results", 1 << 30)
    given = [Given("a/../b", "my file.png", upload, False)]
    key = results.keep("model", given, answer(vector=np.arange(3.0), custom={"a": [1, None]}))
    again = Results.__new__(Results)
    again.__dict__.update({**results.__dict__, "_recent": {}})
    found = again.find(key)
    assert found.given[0].path.is_relative_to(found.folder / "inputs") and not upload.exists()
    assert (found.title, found.seconds) == ("my file.png", 0.5)
    assert found.arrays["vector"].tolist() == [0.0, 1.0, 2.0]
    assert [each.prediction for each in found.outputs] == [None, {"a": [1, None]}]


def test_the_oldest_go_and_nothing_is_found_by_guessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST", 3)
    results = Results(tmp_path / "results", 1 << 30)
    given = [Given("single", "a.png", DIGIT, True)]
    keys = [results.keep("model", given, answer(custom=number)) for number in range(4)]
    assert [key in os.listdir(tmp_path / "results") for key in keys] == [False, True, True, True]
    old = tmp_path / "results" / keys[1]
    os.utime(old, (time.time() - 2 * keeping.KEEP_S,) * 2)
    results.keep("model", given, answer(custom=4))
    for key in (*keys[:2], "..", ".", "", "../results", "a" * 22, keys[2][:-1]):
        with pytest.raises(Refused) as refused:
            results.find(key)
        assert refused.value.status == 404
    assert DIGIT.exists()  # samples are the model's


def test_room_for_results_is_bounded(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", 100_000)
    given = [Given("single", "a.png", DIGIT, True)]
    for number in range(4):
        results.keep("model", given, answer(custom=np.full(10_000, number, np.float32)))
    assert 1 <= len(os.listdir(tmp_path / "results")) <= 3


# -- settings are strangers' ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e400", "", "x", "99999999999999999999", HOSTILE, "²", "0x10"])
def test_whatever_a_query_says_there_is_something_to_see(value: str, tmp_path: Path) -> None:
    seen = looks(keep(tmp_path, mask_image=np.ones((22, 24, 20), np.uint8)), 0)
    names = ("plane", "slice", "level", "width", "preset", "o0", "o1", "was")
    (stage,) = stages(seen, {f"v0-{name}": value for name in names})
    assert 0 <= stage.index < stage.slices and stage.width > 0 and 0 <= stage.strengths[0] <= 100
    assert stage.blended().shape == (*stage.view.extent(stage.plane)[1:], 3)


def test_the_blend_is_what_its_parts_and_their_strength_make(tmp_path: Path) -> None:
    shape = looks(keep(tmp_path, custom=1), 0).views[0].size
    mask = np.zeros(shape, np.uint8)
    mask[:, :, : shape[2] // 2] = 1
    seen = looks(keep(tmp_path / "other", mask_image=mask), 0)
    stage = Stage.of(seen, 0, {"v0-o0": "30"})
    ground = stage.view.ground(stage.plane, stage.index, stage.window).astype(float)
    over = stage.view.overlay(stage.view.layers[0], stage.plane, stage.index)
    share = 0.3 * (over[..., 3:] > 0)
    wanted = ground[..., np.newaxis] * (1 - share) + over[..., :3] * share
    assert np.abs(stage.blended() - wanted).max() <= 0.51 and share.any() and not share.all()


# -- outputs are models' --------------------------------------------------------------------------------------------

ODD: list[dict[str, Any]] = [
    {"label_list": [{"label": HOSTILE, "probability": None}]},
    {"label_list": []},
    {"label_list": "none"},
    {"vector": [1, "a"]},
    {"vector": np.zeros(0)},
    {"vector": np.full(5000, np.nan)},
    {"vector": np.array([["a"]])},
    {"mask_image": np.zeros((3, 3), np.int64)},
    {"mask_image": np.array([[np.nan, 2**40], [-1, np.inf]])},
    {"mask_image": [[0, 1], [1, 0]]},
    {"heatmap": np.zeros((9, 9, 9, 9))},
    {"heatmap": np.array(1.0)},
    {"image": np.zeros((5, 6, 4), np.float16)},
    {"image": np.array([[True, False], [False, True]])},
    {"contour": [[[0, 0, 10**9], [1, 1, 0]]]},
    {"contour": {"a": 1}},
    {"custom": {HOSTILE: [[[[{}]]]], "b": {"c": None}}},
    {"custom": None},
    {"custom": [{"a": 1}, {"a": HOSTILE}]},
    {"custom": np.array([1 + 2j])},
    {"custom": np.array(["a", HOSTILE])},
    {"unheard": 3, "mask_image": np.ones((2, 2))},
]


@pytest.mark.parametrize("values", ODD, ids=lambda values: " ".join(values))
@pytest.mark.parametrize("path", [FLAIR, DIGIT, REPO / "setup.cfg"], ids=["volume", "picture", "none"])
def test_outputs_of_every_shape_are_shown_somehow(values: dict[str, Any], path: Path, tmp_path: Path) -> None:
    kept = keep(tmp_path, path, **values)
    seen = looks(kept, 0)
    assert [each.output.name for each in sections(kept, seen)] == list(values)
    for stage in stages(seen, {}):
        assert stage.blended().ndim == 3
        for outline in stage.view.outlines:
            assert isinstance(stage.view.drawn(outline, stage.plane, stage.index), str)
    assert (seen.refusal != "") == (path.name == "setup.cfg")


# -- over a real server ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("pages"), "digits-cnn", "phantom-lesion", MEAN) as endpoint:
        yield endpoint


def page(server: Endpoint, path: str) -> tuple[int, str]:
    response = server.get(path, headers={**server.headers, "Accept": "text/html"})
    return response.status_code, response.text


@pytest.mark.parametrize("given", [HOSTILE, "%00", "../../etc/passwd", "a" * 3000, "ünïcödé", "%ff"])
def test_pages_hold_nothing_that_strangers_make_them_say(given: str, server: Endpoint) -> None:
    for path in (f"/?q={given}&task={given}", f"/models/{given}", f"/models/digits-cnn/samples/{given}.png",
                 f"/models/digits-cnn/netron/{given}", f"/models/digits-cnn/netron/data/{given}", f"/results/{given}",
                 f"/runs/{given}"):  # fmt: skip
        status, text = page(server, path)
        assert status < 500 and "<script>alert" not in text and "root:" not in text, path


def test_slices_that_are_not_there_are_not_found(server: Endpoint) -> None:
    sent = server.post("/models/phantom-lesion/try", data={"sample": "slice-01.dcm"})
    result = sent.headers["Location"]
    assert server.get(f"{result}/0/0/axial/0/ground.png").headers["Content-Type"] == "image/png"
    for path in ("1/0/axial/0", "0/9/axial/0", "0/0/oblique/0", "0/0/axial/1", "0/0/coronal/0", "0/0/axial/-1"):
        assert server.get(f"{result}/{path}/ground.png").status_code == 404
    for name in ("layer-9.png", "outline-1.svg", "other.png"):
        assert server.get(f"{result}/0/0/axial/0/{name}").status_code == 404
    for name in ("9.nii.gz", "2.nii.gz", "other.h5"):
        assert server.get(f"{result}/files/{name}").status_code == 404


def test_a_sample_that_is_none_and_a_form_without_a_file_are_told(server: Endpoint) -> None:
    assert page(server, "/models/digits-cnn/try")[0] == 200
    wrong = server.post("/models/digits-cnn/try", data={"sample": "../model/model.onnx"})
    assert wrong.status_code == 404
    empty = server.post("/models/digits-cnn/try", headers={**server.headers, "Accept": "text/html"})
    assert empty.status_code == 400 and "Choose a file first." in empty.text


def test_several_dicom_files_are_one_series(server: Endpoint, tmp_path: Path) -> None:
    dicom_series(str(tmp_path / "series"))
    slices = [("input-0", (path.name, path.read_bytes())) for path in sorted((tmp_path / "series").iterdir())]
    sent = server.post("/models/mean/try", files=slices)
    status, text = page(server, sent.headers["Location"])
    assert status == 200 and "5 slices" in text and "axial slice of 5 slices" in text
    voxels = viewing.read(str(tmp_path / "series")).voxels
    said = server.get(f"{sent.headers['Location']}/files/result.json").json()["outputs"][0]["prediction"]
    assert said == pytest.approx([voxels.mean()]) and len(voxels) == 5
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    other = server.post("/models/mean/try", files=[*slices, ("input-0", ("a.npy", (tmp_path / "a.npy").read_bytes()))])
    assert other.status_code == 400 and "slices of one DICOM series" in other.text
    assert server.post("/models/phantom-lesion/try", files=slices).status_code == 400


def test_the_graph_page_is_of_its_own_site_and_its_netron_tells_nobody(server: Endpoint) -> None:
    response = server.get("/models/digits-cnn/netron/")
    assert 'content="0.0.0"' in response.text and 'name="date"' not in response.text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "http" not in policy
    assert server.get("/models/digits-cnn/netron/data/model.onnx").content.startswith(b"\x08")
    for name in ("server.py", "__init__.py", "data/config.json"):
        assert server.get(f"/models/digits-cnn/netron/{name}").status_code == 404


def hostile_model(folder: Path) -> Path:
    """A contribution whose every word would be markup, if it were let."""
    shutil.copytree(OBEDIENT, folder)
    config = json.loads((folder / "contrib_src/model/config.json").read_bytes())
    config["meta"].update(application_area=HOSTILE, task=HOSTILE, task_extended=HOSTILE, data_type=HOSTILE)
    config["model"].update(description=HOSTILE, architecture=HOSTILE, format=HOSTILE)
    outputs = [{"name": f"{HOSTILE}{type}", "type": type, "description": HOSTILE} for type in ("label_list", "custom")]
    config["model"]["io"]["output"] = outputs
    (folder / "contrib_src/model/config.json").write_text(json.dumps(config))
    said = [{"label": HOSTILE, "probability": 1.0}], {HOSTILE: HOSTILE, "t": [{HOSTILE: HOSTILE}], "r": [[[HOSTILE]]]}
    source = "from modelhublib.model import ModelBase\n\n\nclass Model(ModelBase):\n    def infer(self, input):\n"
    (folder / "contrib_src/inference.py").write_text(f"{source}        return {list(said)!r}\n")
    (folder / "contrib_src/license").mkdir(exist_ok=True)
    (folder / "contrib_src/license/model").write_text(HOSTILE)
    (folder / "contrib_src/sample_data").mkdir(exist_ok=True)
    np.save(folder / f"contrib_src/sample_data/{ODD_NAME}.npy", np.zeros((8, 8)))
    return folder


def test_whatever_a_model_says_it_is_text(tmp_path: Path) -> None:
    with serving(tmp_path / "server", hostile_model(tmp_path / "hostile")) as server:
        (name,) = server.facts["models"]
        sent = server.post(f"/models/{name}/try", data={"sample": f"{ODD_NAME}.npy"})
        assert sent.status_code == 303
        for path in ("/", f"/models/{name}", f"/models/{name}/try", f"/models/{name}/graph", sent.headers["Location"]):
            status, text = page(server, path)
            assert status == 200 and HOSTILE not in text and "<img src=x" not in text, path
        assert escape(HOSTILE) in text and escape(ODD_NAME) in text
        told = server.get(f"{sent.headers['Location']}/files/result.json").json()
        assert told["outputs"][0]["prediction"] == [{"label": HOSTILE, "probability": 1.0}]


def test_without_netron_the_graph_page_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_folder", lambda: None)
    site = SiteConfig(runtime="host", executor="local", scratch_dir=tmp_path)
    settings = ServiceSettings(site=site, jobs_site=site, token=None, folder=tmp_path, jobs=tmp_path / "runs")
    service = Service(settings, find(["digits-cnn"], site))
    try:
        client = create_app(service).test_client()
        assert "pip install netron" in client.get("/models/digits-cnn/graph").text
        answer = client.get("/models/digits-cnn/netron/", headers={"Accept": "text/html"})
        assert answer.status_code == 404 and "pip install netron" in answer.text
    finally:
        service.close()


def test_a_model_that_no_registry_knows_has_its_pages_too(server: Endpoint) -> None:
    status, text = page(server, "/models/mean")
    assert status == 200 and "Average" in text and "image/*" in text
    assert "not in one file that could be drawn" in page(server, "/models/mean/graph")[1]
    assert "mean" in page(server, "/?q=average&here=1")[1]


def test_a_run_that_is_none_cannot_be_watched_or_ended(server: Endpoint) -> None:
    for path in ("/runs/none", "/runs/none/report", "/runs/%2e%2e"):
        assert page(server, path)[0] == 404
    assert server.post("/runs/none/cancel").status_code == 404
