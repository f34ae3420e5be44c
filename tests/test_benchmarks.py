"""The benchmarks in their smallest form: that they run, and that their figures are what they say. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from grounds import REPO
from PIL import Image

BENCHMARKS = REPO / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import rivals  # noqa: E402
from bench import inputs, models  # noqa: E402
from bench.ways import Passage, Worker  # noqa: E402


def run(script: str, *arguments: object, **env: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, env=env or None, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


@pytest.mark.parametrize("script", ["cluster.py", "efficiency.py", "rivals.py", "soak.py", "start.py"])
def test_those_that_need_more_than_this_explain_themselves(script: str) -> None:
    assert run(script, "--help").startswith(f"usage: {script}")


def test_models_are_made_alike_each_time(tmp_path: Path) -> None:
    names = ("squeezenet", "unet3d", "sleep")
    said = run("make_models.py", tmp_path / "one", *names)
    for name in names:
        models.make(name, tmp_path / "other")
    assert said.split() == [str(tmp_path / "one" / name) for name in names]
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert json.loads((tmp_path / "one/squeezenet/contrib_src/model/config.json").read_text())["meta"]["name"] \
        == "squeezenet"


def test_networks_compute_what_they_declare(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def compute(name: str, *shape: int) -> np.ndarray:
        path = models.make(name, tmp_path) / "contrib_src/model/model.onnx"
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": np.random.RandomState(0).standard_normal(shape).astype(np.float32)})[0]

    probabilities = compute("squeezenet", 2, 3, 224, 224)
    assert probabilities.shape == (2, 1000) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    assert not np.allclose(probabilities[0], probabilities[1])
    classes = compute("unet3d", 1, 4, 8, 12, 16)
    assert classes.shape == (8, 12, 16) and classes.dtype == np.uint8 and len(np.unique(classes)) > 1


def test_inputs_are_natural_and_alike_each_time(tmp_path: Path) -> None:
    for place in (tmp_path / "one", tmp_path / "other"):
        inputs.photos(place / "photos", 2)
        inputs.digits(place / "digits", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    photo = tmp_path / "one/photos/000/000001.jpg"
    assert size(photo) == (500, 375) and 60_000 < photo.stat().st_size < 140_000
    assert size(tmp_path / "one/digits/000/000001.png") == (28, 28)


def test_volumes_come_with_their_table(tmp_path: Path) -> None:
    table = inputs.brains(tmp_path / "one", 2, size=(6, 8, 10))
    assert table.read_text().splitlines()[0] == "case_id,t1,t1c,t2,flair"
    inputs.brains(tmp_path / "other", 2, size=(6, 8, 10))
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    assert len(one) == 9 and one.pop("cases.csv") != other.pop("cases.csv") and one == other


def test_the_rate_is_that_of_warm_workers() -> None:
    """One worker does a case a second from 10 on; the other comes at 14 and does two a second."""
    slow = Worker(tuple(10.0 + n for n in range(10)), 20.0)
    fast = Worker(tuple(14.0 + n / 2 for n in range(12)), 20.0, warm=2)
    passage = Passage(5.0, (slow, fast))
    assert passage.cases == 22 and passage.seconds == 15.0
    assert passage.rate == pytest.approx((5 + 10) / 5)  # since 15, when the second was warm
    assert passage.per_case == pytest.approx((9.0 + 5.0) / (9 + 10))


def test_throughput_counts_every_case(tmp_path: Path) -> None:
    said = run("throughput.py", "--models", "null-png", "--runtime", "host", "--cases", 12, "--repeats", 1,
               "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert "null-png: 12 cases, 1 worker(s)" in said
    found = figures["models"]["null-png"]
    assert found["cases"] == 12 and set(found["ratios"]) == {"steady", "end_to_end", "worker_time_per_case"}
    assert all(value > 0 for each in found["rounds"] for way in each.values() for value in way.values())
    assert figures["machine"]["cores"] >= 1 and figures["options"]["runtime"] == "host"


def test_one_picture_is_predicted_alike_by_all_ways(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    said = run("single.py", "--runtime", "host", "--repeats", 1, "--json", tmp_path / "figures.json")
    assert "times as long as bare" in said
    assert set(json.loads((tmp_path / "figures.json").read_text())["rounds"][0]) == {"bare", "submit", "run"}


def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    assert run("gpu.py", PATH=str(tmp_path)).startswith("no GPU")


def test_rivals_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert rivals.lacks(rivals.WAYS["submitit"], tmp_path / "python") == "not installed: --install"
    assert rivals.lacks(rivals.WAYS["array"], tmp_path / "python") is None
