"""New contributions: that they run as they are made, whatever they take and give, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounds import REPO

from modelhub_hpc import cli, contribution
from modelhub_hpc.contributing import configs, phantoms, scaffold
from modelhub_hpc.errors import UsageError

MH = (sys.executable, "-m", "modelhub_hpc.cli")
EVERY_INPUT = [f"--input=i{number}={mime}" for number, mime in enumerate(phantoms.TYPES)]
EVERY_OUTPUT = [f"--output={kind}" for kind in scaffold.OUTPUT_TYPES]
ARRAYS = ("vector", "mask_image", "heatmap", "image")


def init(folder: Path, *words: str) -> Path:
    """A new contribution in folder/new-model."""
    assert cli.main(["-q", "init", "new-model", "--dir", str(folder / "new-model"), *words]) == 0
    return folder / "new-model"


def predicted(model: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Outputs by name, of the model's sample, in the Python of these tests; arrays are loaded."""
    (sample,) = (path for path in (model / "contrib_src/sample_data").iterdir() if path.is_file())
    capfd.readouterr()
    code = cli.main(["run", str(model), str(sample), "--runtime", "host", "--json", "-o", str(folder / "arrays")])
    told = capfd.readouterr()
    assert code == 0, told
    outputs = json.loads(told.out)["output"]
    return {each["name"]: np.load(each["file"]) if "file" in each else each["prediction"] for each in outputs}


def test_one_that_takes_and_gives_everything_runs_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = init(tmp_path, *EVERY_INPUT, *EVERY_OUTPUT)
    found = predicted(model, tmp_path, capfd)
    assert list(found) == list(scaffold.OUTPUT_TYPES)
    assert [each["label"] for each in found["label_list"]] == ["dark", "bright"]
    bright = found["label_list"][1]["probability"]
    assert 0.1 < bright < 0.5
    assert {name: found[name].shape for name in ARRAYS[1:]} == dict.fromkeys(ARRAYS[1:], (16, 64, 64))
    assert found["mask_image"].mean() == pytest.approx(bright)
    low, mean, high = found["vector"]
    assert low < mean < high
    assert (found["heatmap"].min(), found["heatmap"].max()) == (0, 1)
    # the brightest place of the ball is the darkest of its negative
    z, y, x = found["custom"]["index"]
    assert found["image"][z, y, x] == found["image"].min()
    (left, top), _, (right, bottom), _ = found["contour"][0]
    assert left < x < right and top < y < bottom


@pytest.mark.parametrize(("mime", "shape"), [("image/png", (64, 64)), ("application/nii-gzip", (16, 64, 64))])
def test_one_input_and_one_output_need_no_keys(
    mime: str, shape: tuple[int, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = init(tmp_path, "--input", mime, "--output", "lesion:mask_image")
    found = predicted(model, tmp_path, capfd)
    assert list(found) == ["lesion"]
    assert found["lesion"].shape == shape
    (spec,) = contribution.read(model).outputs
    assert spec.axes == ("y,x" if len(shape) == 2 else "z,y,x")


@pytest.mark.parametrize(
    "words", [[], [*EVERY_INPUT, *EVERY_OUTPUT], ["--input", "application/octet-stream"]], ids=["least", "all", "npy"]
)
def test_nothing_is_wrong_with_its_configuration(words: Sequence[str], tmp_path: Path) -> None:
    assert list(configs.judge(configs.read(init(tmp_path, *words)))) == []


def test_phantoms_are_what_their_names_say_and_the_same_each_time(tmp_path: Path) -> None:
    from modelhub_hpc import inputs

    for mime in phantoms.TYPES:
        extension, data = phantoms.make(mime)
        assert (extension, data) == phantoms.make(mime)
        path = tmp_path / f"phantom{extension}"
        path.write_bytes(data)
        inputs.check(str(path), inputs.InputLimits())
        assert inputs.mime(str(path)) == mime


def test_each_is_a_model_of_its_own_and_holds_no_placeholder(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        model = init(tmp_path / name, "--author", 'Jané "J" Doe', "--licence", "MIT")
        texts.append({str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()})
    differing = [name for name in texts[0] if texts[0][name] != texts[1][name]]
    assert differing == ["contrib_src/model/config.json"]
    assert json.loads(texts[0][differing[0]])["id"] != json.loads(texts[1][differing[0]])["id"]
    for name, data in texts[0].items():
        assert not scaffold.PLACEHOLDER.search(data.decode("latin-1")), name
    assert 'Jané "J" Doe' in texts[0]["contrib_src/license/model"].decode()
    assert {".gitignore", ".github/workflows/check.yml", "check.sh"} <= set(texts[0])
    assert os.access(model / "check.sh", os.X_OK)


@pytest.mark.parametrize(
    "template", [path for path in sorted((REPO / "registry/template").rglob("*")) if path.is_file()], ids=str
)
def test_every_file_of_the_template_is_carried_by_a_package(template: Path) -> None:
    assert not any(part.startswith(".") for part in template.relative_to(REPO).parts)


def test_an_image_is_known_for_every_environment() -> None:
    found = scaffold.images()
    assert found["onnxruntime"] == "modelhub-hpc/onnxruntime:1"
    assert found["tensorflow"] == found["tensorflow-1.0.0"] == "modelhub/tensorflow-modelhub:1.0.0"
    assert found["keras"] == found["keras-2.3.1"] != found["keras-1.0.0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Lung_Nodules"], "lower-case letters, digits and single hyphens"),
        (["-x"], "No such option"),
        (["--", "-x"], "cannot be the name"),
        (["a" * 65], "up to 64"),
        (["a", "--framework", "torch"], "Known: caffe"),
        (["a", "--input", "image/x-unheard"], "Known: image/png"),
        (["a", "--input", "format=image/png"], "'format' cannot name an input"),
        (["a", "--input", "image/png", "--input", "image/jpeg"], "KEY=MIME each"),
        (["a", "--input", "t1=image/png", "--input", "image/png"], "KEY=MIME each"),
        (["a", "--output", "probabilities"], "There are: label_list"),
        (["a", "--output", "x/y:vector"], "a name of its own"),
        (["a", "--output", "vector", "--output", "vector"], "a name of its own"),
        (["a", "--licence", "secret"], "Known: Apache-2.0"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    words: Sequence[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", *words]) == 2
    assert said in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    wanted = scaffold.Wanted("a", "x/y:1", {"single": ("image/png",)}, {"v": "vector"}, "MIT", "Me")
    (tmp_path / "mine").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UsageError, match="not an empty folder"):
            scaffold.create(wanted, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_no_flag_says_is_asked_for_on_a_terminal(tmp_path: Path) -> None:
    primary, replica = pty.openpty()
    process = subprocess.Popen(
        [*MH, "init", "asked", "--licence", "MIT"], cwd=tmp_path, stdin=replica, stdout=replica, stderr=replica
    )
    os.close(replica)
    os.write(primary, b"pytorch\nt1=application/nii-gzip flair=application/nii-gzip\ntumour:mask_image\nJane Doe\n")
    screen = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the process is
        while data := os.read(primary, 4096):
            screen += data
    os.close(primary)
    assert process.wait() == 0, screen
    for question in (b"Framework [onnxruntime]", b"Input", b"Outputs", b"Author [The authors of asked]"):
        assert question in screen
    assert b"Licence" not in screen
    model = contribution.read(tmp_path / "asked")
    assert model.image == "modelhub-hpc/pytorch:1"
    assert [each.key for each in model.inputs] == ["t1", "flair"]
    assert [(each.name, each.type) for each in model.outputs] == [("tumour", "mask_image")]
    assert "Jane Doe" in (tmp_path / "asked/CITATION.cff").read_text()
