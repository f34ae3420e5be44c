"""Every published model's ways through the engine, unchanged: by the Python API, by HTTP, and in runs."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import legacy_images
import numpy as np
import pytest
from driving import Ended, Site
from grounds import CACHE, IMAGE
from legacy_images import NAMES, mh_hpc
from published import CASES, WAYS, Published, configuration, entries, make

from modelhub_hpc import images
from modelhub_hpc.record import CaseResult, RunPaths, load_array

pytestmark = [pytest.mark.apptainer, pytest.mark.slow]
MODELS = tuple(entries())
# what its registry entry says that it needs has to be allowed or overruled, on a machine without GPU
ALLOW = {"cxr-risk": "--allow-network", "deepscan-brats": "--gpu=on", "mic-dkfz-brats": "--gpu=on"}
REFUSED = {
    "cxr-risk": (4, "cannot predict without the network"),
    "deepscan-brats": (5, "runs on a GPU only"),
    "mic-dkfz-brats": (5, "runs on a GPU only"),
}

# what a notebook and a client do with each model's sample, in a process of its own; arrays as they read them
ASK = """
import base64, io, json, os, shutil, sys, zlib
import h5py, numpy
from modelapi import model
from modelhubapi import ModelHubRESTAPI

sample, name = sys.argv[1:]
client = ModelHubRESTAPI(model.model, model.contrib_src_dir).app.test_client()

def by_the_api():
    if name == "cxr-risk":
        shutil.copy(sample, "/working")
    return model.predict(sample)

def by_http():
    if sample.endswith(".json"):
        reply = client.get("/api/predict_sample?filename=" + os.path.basename(sample))
    else:
        with open(sample, "rb") as stream:
            reply = client.post("/api/predict", data={"file": (stream, os.path.basename(sample))})
    return json.loads(reply.data.decode("utf-8"))

def path_of(prediction):
    if prediction.startswith("api/"):
        return prediction.replace("api", "", 1)
    with open("/tmp/array.h5", "wb") as stream:
        stream.write(client.get(prediction[prediction.index("/api/"):]).data)
    return "/tmp/array.h5"

def with_arrays(result):
    for output in result.get("output", []):
        if hasattr(output["prediction"], "startswith"):
            with h5py.File(path_of(output["prediction"]), "r") as stream:
                array, buffer = stream[output["name"]][()], io.BytesIO()
            numpy.save(buffer, array)
            output["array"] = base64.b64encode(zlib.compress(buffer.getvalue(), 1)).decode("ascii")
    return result

answers = {}
for way, ask in (("api", by_the_api), ("http", by_http)):
    for left in os.listdir("/working"):
        os.remove("/working/" + left)
    answers[way] = with_arrays(ask())
print("ANSWER " + json.dumps({name: answers}))
"""
ASK_ALL = """
import json, subprocess, sys
with open("/data/ask.json") as stream:
    asked = json.load(stream)
for name, sample in asked["samples"]:
    subprocess.call([sys.executable, "-c", asked["code"], sample, name], cwd="/data/%s/model/contrib_src" % name)
"""


@dataclass(frozen=True)
class Generation:
    """An image with an interpreter of the models' age, or the oldest that is at hand. store: its cache folder."""

    image: str
    store: str
    python: str


class Zoo:
    """All models on disk, and what each said when it was asked in each of the ways."""

    def __init__(self, folder: Path, generations: Mapping[str, Generation], pool: ThreadPoolExecutor) -> None:
        self.folder = folder
        self.of = {name: generations[entry["python"][0]] for name, entry in entries().items()}
        self.models = {name: make(e, folder / name, self.of[name].image) for name, e in entries().items()}
        self._asked = {generation: pool.submit(self._ask, generation) for generation in set(self.of.values())}
        self._runs = {name: pool.submit(self._submit, name) for name in self.models}

    def asked(self, name: str, way: str) -> dict[str, Any]:
        """What the Python API ("api") or the REST interface ("http") answers for the sample."""
        answers = self._asked[self.of[name]].result()
        assert name in answers, answers.get("said", answers.keys())
        answer: dict[str, Any] = answers[name][way]
        return answer

    def run(self, name: str) -> tuple[Site, Ended]:
        return self._runs[name].result()

    def site(self, name: str, kind: str = "run") -> Site:
        model = self.models[name]
        site = Site(self.folder / name / kind, "apptainer", "inline", model.folder)
        site.inputs = model.inputs
        return site

    def _submit(self, name: str) -> tuple[Site, Ended]:
        site = self.site(name)
        more = [ALLOW[name]] if name in ALLOW else []
        return site, site.submit(*more, variables={"MH_HPC_CACHE_DIR": self.of[name].store})

    def _ask(self, generation: Generation) -> dict[str, Any]:
        """One container for all of a generation."""
        mine = [model for name, model in self.models.items() if self.of[name] == generation]
        asked = {"code": ASK, "samples": [(m.entry["name"], m.sample) for m in mine]}
        (self.folder / f"{generation.python}.json").write_text(json.dumps(asked))
        script = ASK_ALL.replace("ask.json", f"{generation.python}.json")
        place = ["shell", mine[0].folder, "--data", self.folder, "--", generation.python, "-c", script]
        done: subprocess.CompletedProcess[str] = mh_hpc(*place, MH_HPC_CACHE_DIR=generation.store)
        lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
        answers = {}
        for line in lines:
            answers.update(json.loads(line.removeprefix("ANSWER ")))
        return {**answers, "said": done.stdout[-2000:] + done.stderr[-4000:]}


@pytest.fixture(scope="module")
def zoo(
    image: images.Image, legacy_store: legacy_images.Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Zoo]:
    generations = {
        "2": Generation(NAMES["2.7"], str(legacy_store.cache), "python"),
        "3": oldest_python3(tmp_path_factory),
    }
    with ThreadPoolExecutor(2) as pool:
        zoo = Zoo(tmp_path_factory.mktemp("zoo"), generations, pool)
        yield zoo
        pool.shutdown(cancel_futures=True)


def oldest_python3(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """Python 3.6 where this machine has had it, else that of the ordinary image."""
    if any((folder / "legacy-3.6.tar").exists() for folder in legacy_images.FOLDERS):
        store = legacy_images.convert("3.6", tmp_path_factory.mktemp("legacy-3.6"))
        return Generation(NAMES["3.6"], str(store.cache), "python3")
    return Generation(IMAGE, str(CACHE), "python3")


def test_there_is_a_stand_in_for_every_published_model() -> None:
    assert set(MODELS) == set(WAYS) and len(MODELS) >= 23
    flat = {name for name, entry in entries().items() if "dim_limits" in configuration(entry)["model"]["io"]["input"]}
    assert len(flat) == 17 and not flat & {"lfb-rwth-brats", "deepscan-brats", "mic-dkfz-brats"}


@pytest.mark.parametrize("way", ["api", "http"])
@pytest.mark.parametrize("name", MODELS)
def test_by_the_interfaces_of_old(zoo: Zoo, name: str, way: str) -> None:
    model = zoo.models[name]
    result = zoo.asked(name, way)
    assert "output" in result, result
    assert result["model"]["id"] == model.entry["id"] and result["processing_time"] >= 0
    config = configuration(model.entry)["model"]["io"]["output"]
    assert [(o["name"], o["type"]) for o in result["output"]] == [(c["name"], c["type"]) for c in config]
    for output, expected in zip(result["output"], model.expected(CASES[0]), strict=True):
        is_array = isinstance(expected, np.ndarray)
        given = array_of(output["array"]) if is_array else output["prediction"]
        same(given, expected)
        assert output["shape"] == (list(expected.shape) if is_array else [len(expected)])
        start = "api/output/" if way == "api" else "http://localhost/api/output/"
        assert not is_array or output["prediction"].startswith(start)


@pytest.mark.parametrize("name", MODELS)
def test_in_a_run(zoo: Zoo, name: str) -> None:
    model = zoo.models[name]
    site, ended = zoo.run(name)
    assert ended.code == 0, ended.text
    results = {result.case_id: result for result in site.results()}
    assert set(results) == set(CASES)
    for case, result in results.items():
        assert result.error is None
        check_outputs(site, result, model, case)
    assert site.leaves_nothing()


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_needs_is_said_before_it_starts(zoo: Zoo, name: str) -> None:
    site = zoo.site(name, "refused")
    variables = {"MH_HPC_CACHE_DIR": zoo.of[name].store, "CUDA_VISIBLE_DEVICES": ""}
    ended = site.submit(variables=variables)
    assert (ended.code, REFUSED[name][1] in ended.err) == (REFUSED[name][0], True), ended.text
    assert ALLOW[name].replace("=", " ") in ended.err and not site.outdir.exists()


def check_outputs(site: Site, result: CaseResult, model: Published, case: str) -> None:
    config = configuration(model.entry)["model"]["io"]["output"]
    assert [(o.name, o.type) for o in result.outputs] == [(c["name"], c["type"]) for c in config]
    for output, expected in zip(result.outputs, model.expected(case), strict=True):
        if isinstance(expected, np.ndarray):
            same(load_array(RunPaths(site.outdir), output), expected)
            assert output.shape == expected.shape
        else:
            same(output.prediction, expected)


def array_of(text: str) -> Any:
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(text))))


def same(given: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert (given.dtype, given.shape) == (expected.dtype, expected.shape)
        assert np.allclose(given, expected, rtol=1e-4, atol=1e-4)
        assert expected.min() < expected.max() or expected.size == 13 * 13 * 255
    elif isinstance(expected, list):
        assert len(given) == len(expected)
        for one, other in zip(given, expected):
            same(one, other)
    elif isinstance(expected, dict):
        assert given.keys() == expected.keys()
        for key in expected:
            same(given[key], expected[key])
    elif isinstance(expected, str):
        assert given == expected
    else:
        assert given == pytest.approx(float(expected), rel=1e-3, abs=1e-4)
