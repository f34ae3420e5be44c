"""The digits-cnn contribution: its files, its network, and what it says about itself."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "registry" / "contributions" / "digits-cnn"
SRC = FOLDER / "contrib_src"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Runs in the contribution's folder, as a container would run it: prints one JSON line per file given.
PREDICT = """
import json, sys
from inference import Model
model = Model()
for path in sys.argv[1:]:
    try:
        print(json.dumps(model.infer(path)))
    except IOError as error:
        print(json.dumps(str(error)))
"""


def in_contribution(code: str, *arguments: str, **environment: str) -> list[Any]:
    """What code prints, a JSON value per line, with the engine and the contribution on the path."""
    python_path = os.pathsep.join([str(ROOT / "engine"), str(SRC)])
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments],
        cwd=SRC,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": python_path, **environment},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def best(prediction: list[dict[str, Any]]) -> str:
    """The most probable label."""
    return str(max(prediction, key=lambda item: float(item["probability"]))["label"])


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SRC / "model" / "config.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The contribution's own train and make_images modules."""
    sys.path.insert(0, str(FOLDER))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    yield {name: importlib.import_module(name) for name in ("make_images", "train")}
    sys.dont_write_bytecode = written
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the 899 held-out digits and labels.csv, written by the script that people use."""
    folder = tmp_path_factory.mktemp("held out")
    script = FOLDER / "make_images.py"
    subprocess.run([sys.executable, "-B", str(script), str(folder)], check=True, timeout=120)
    return folder


def labels_of(folder: Path) -> dict[str, int]:
    """{file name: label} of labels.csv."""
    with open(folder / "labels.csv", newline="", encoding="utf-8") as stream:
        return {row["file"]: int(row["label"]) for row in csv.DictReader(stream)}


# ---- files --------------------------------------------------------------------------------------


def test_config_has_every_required_field_of_the_nested_schema(config: dict[str, Any]) -> None:
    assert str(uuid.UUID(config["id"])) == config["id"]
    assert set(config) == {"id", "meta", "model", "modelhub"}
    assert {"name", "application_area", "task", "task_extended", "data_type"} <= set(config["meta"])
    assert config["meta"]["name"] == FOLDER.name
    model = config["model"]
    assert {"description", "provenance", "architecture", "learning_type", "format", "io"} == set(model)
    single = model["io"]["input"]["single"]
    assert single["format"] == model["io"]["input"]["format"] == ["image/png", "image/jpeg"]
    assert all("min" in limit for limit in single["dim_limits"])
    assert [(o["name"], o["type"]) for o in model["io"]["output"]] == [("probabilities", "label_list")]


def test_template_is_complete() -> None:
    init = json.loads((FOLDER / "init" / "init.json").read_text(encoding="utf-8"))
    assert init == {"docker_id": "modelhub-hpc/onnxruntime:1", "external_contrib_files": []}
    for name in ("run.py", "modelapi.py", "license/model", "license/sample_data"):
        assert (SRC / name).stat().st_size > 100, name
    notebook = json.loads((SRC / "sandbox.ipynb").read_text(encoding="utf-8"))
    assert "from modelapi import model" in "".join(notebook["cells"][1]["source"])
    with Image.open(SRC / "model" / "thumbnail.jpg") as image:
        assert image.format == "JPEG" and min(image.size) >= 100


def test_model_card_and_config_name_the_same_accuracy(config: dict[str, Any]) -> None:
    held = config["modelhub"]["held_out"]
    sentence = f"{held['right']} of the {held['cases']} held-out digits are named right"
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"**{sentence}: {100 * held['right'] / held['cases']:.1f} %**" in card
    assert f"{100 * held['right'] / held['cases']:.1f} % right" in config["model"]["description"]


# ---- images -------------------------------------------------------------------------------------


def test_images_are_the_held_out_half_and_give_the_scans_back(
    held_out: Path, scripts: dict[str, ModuleType]
) -> None:
    pixels, labels = scripts["make_images"].load_pixels()
    truth = labels_of(held_out)
    assert len(truth) == 899 == len(list(held_out.glob("*.png")))
    for name, label in truth.items():
        index = int(name.removeprefix("digit-").removesuffix(".png"))
        assert index >= 898 and labels[index] == label
        with Image.open(held_out / name) as image:
            assert image.mode == "L" and image.size == (64, 64)
            assert np.array_equal(np.asarray(image.resize((8, 8), Image.Resampling.BOX)), pixels[index])


def test_samples_are_one_digit_of_each_class(held_out: Path) -> None:
    samples = sorted((SRC / "sample_data").glob("*.png"))
    truth = labels_of(held_out)
    assert sorted(truth[sample.name] for sample in samples) == list(range(10))
    for sample in samples:
        with Image.open(sample) as ours, Image.open(held_out / sample.name) as theirs:
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))


# ---- the network --------------------------------------------------------------------------------


def test_accuracy_on_the_held_out_half_is_the_stated_one(
    scripts: dict[str, ModuleType], config: dict[str, Any]
) -> None:
    pixels, labels = scripts["make_images"].load_pixels()
    file = str(SRC / "model" / "model.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": scripts["train"].as_network_input(pixels[898:])})
    right = int((found.argmax(axis=1) == labels[898:]).sum())
    assert right / 899 >= 0.97
    # Another build of the runtime may round a close one the other way.
    assert abs(right - config["modelhub"]["held_out"]["right"]) <= 1


def test_exported_network_computes_what_the_trained_one_does(scripts: dict[str, ModuleType]) -> None:
    train = scripts["train"]
    random = np.random.default_rng(1)
    weights = train.initial_weights(random)
    x = random.random((5, 1, 8, 8), dtype=np.float32)
    model = train.onnx_model(weights).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": x})
    np.testing.assert_allclose(found, train.probabilities(weights, x), rtol=1e-4, atol=1e-6)


def test_gradients_agree_with_finite_differences(scripts: dict[str, ModuleType]) -> None:
    train = scripts["train"]
    random = np.random.default_rng(2)
    weights = {name: value.astype(np.float64) for name, value in train.initial_weights(random).items()}
    x, labels = random.random((3, 1, 8, 8)), np.array([1, 7, 4])

    def loss() -> float:
        return float(-np.log(train.probabilities(weights, x)[np.arange(3), labels]).mean())

    found = train.gradients(weights, x, labels, np.ones((3, train.LINEAR_INPUTS)))
    for name, value in weights.items():
        at = tuple(int(random.integers(size)) for size in value.shape)
        before = value[at]
        value[at] = before + 1e-6
        above = loss()
        value[at] = before - 1e-6
        below = loss()
        value[at] = before
        assert found[name][at] == pytest.approx((above - below) / 2e-6, rel=1e-3, abs=1e-7), name


# ---- the contribution at work -------------------------------------------------------------------


def test_samples_are_named_right_by_plain_import(held_out: Path) -> None:
    samples = sorted((SRC / "sample_data").glob("*.png"))
    truth = labels_of(held_out)
    predictions = in_contribution(PREDICT, *map(str, samples))
    assert [best(p) for p in predictions] == [NAMES[truth[s.name]] for s in samples]
    for prediction in predictions:
        assert [item["label"] for item in prediction] == list(NAMES)
        assert sum(item["probability"] for item in prediction) == pytest.approx(1, abs=1e-5)


def test_notebook_interface_names_the_output_as_the_config_does() -> None:
    code = """
import json
from modelapi import model
samples = model.get_samples()
print(json.dumps(model.predict(samples["folder"] + "/" + sorted(samples["files"])[0])["output"]))
"""
    ((output,),) = in_contribution(code)
    assert (output["name"], output["type"]) == ("probabilities", "label_list")
    assert best(output["prediction"]) == NAMES[8]


def variants(original: Path, folder: Path) -> list[Path]:
    """The same picture in the forms that PNG and JPEG files come in."""
    with Image.open(original) as opened:
        grey = opened.copy()
    sixteen_bit = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    on_transparency = Image.merge("LA", (Image.new("L", grey.size, 255), grey))
    forms = {
        "rgb.png": grey.convert("RGB"),
        "palette.png": grey.convert("P"),
        "alpha.png": on_transparency,
        "16.png": sixteen_bit,
        "small.png": grey.resize((8, 8), Image.Resampling.BOX),
        "-large é\n.png": grey.resize((640, 640)),
    }
    for name, image in forms.items():
        image.save(folder / name)
    grey.save(folder / "grey.jpg", quality=95)
    return [folder / name for name in (*forms, "grey.jpg")]


def test_every_form_of_a_picture_gets_the_same_answer(tmp_path: Path) -> None:
    original = SRC / "sample_data" / "digit-0898.png"
    paths = variants(original, tmp_path)
    (reference, *others) = in_contribution(PREDICT, str(original), *map(str, paths))
    for path, prediction in zip(paths, others, strict=True):
        assert best(prediction) == NAMES[8], path
        if path.name in ("rgb.png", "palette.png", "alpha.png", "16.png", "small.png"):
            for found, expected in zip(prediction, reference, strict=True):
                assert found["probability"] == pytest.approx(expected["probability"], abs=1e-3), path


def test_a_damaged_or_too_small_picture_is_refused_with_the_reason(tmp_path: Path) -> None:
    data = (SRC / "sample_data" / "digit-0898.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("L", (4, 4)).save(tmp_path / "tiny.png")
    names = ("truncated.png", "text.png", "tiny.png")
    answers = in_contribution(PREDICT, *(str(tmp_path / name) for name in names))
    assert all(isinstance(answer, str) for answer in answers), answers
    assert "truncated" in answers[0] and "cannot identify" in answers[1], answers
    assert "the image has [1, 4, 4]" in answers[2], answers


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("2,4", 2), ("", 0), ("many", 0)])
def test_thread_count_follows_the_environment(text: str, count: int) -> None:
    code = "import inference; print(inference.session_options().intra_op_num_threads)"
    assert in_contribution(code, OMP_NUM_THREADS=text) == [count]
