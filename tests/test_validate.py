"""What is said of a contribution that is not right: by its configuration here, by its files below."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bright import PROCESSING, config, picture, write
from grounds import CACHE, REPO

from modelhub_hpc import images
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import configs
from modelhub_hpc.contributing.findings import Finding
from modelhub_hpc.contributing.validate import Report, validate

FLAT = {"format": ["image/png", "image/jpg"], "dim_limits": [{"min": 1, "max": 4}, {"min": 32}, {"min": 32}]}
VOLUME = {"format": ["application/nii-gzip"], "dim_limits": [{"min": 155, "max": 240}] * 3}
# what models that were published look like
PUBLISHED: dict[str, tuple[Any, Any]] = {
    "squeezenet": (FLAT, [{"name": "probabilities", "type": "label_list", "description": "1000 classes"}]),
    "deep-prognosis": (
        {"format": ["application/octet-stream"], "dim_limits": [{"min": 150, "max": 150}] * 3},
        [{"name": "probabilities", "type": "label_list"}, {"name": "features", "type": "label_list"}],
    ),
    "cascaded-fcn-liver": (
        {"format": ["application/dicom"], "dim_limits": [{"min": 1, "max": 1}, {"min": 0, "max": 600}, {"max": 600}]},
        [{"name": "contour", "type": "contour"}],
    ),
    "brats": (
        {"format": ["application/json"], "t1": VOLUME, "t1c": VOLUME, "t2": VOLUME, "flair": VOLUME},
        [{"name": "Segmentation", "type": "mask_image"}],
    ),
    "cxr-risk": (
        {"format": ["image/png"], "single": {**FLAT, "description": "in portrait view"}},
        [{"name": "probabilities", "type": "label_list"}],
    ),
}

Change = Callable[[dict[str, Any]], object]


def judged(change: Change) -> list[Finding]:
    return list(configs.judge(json.dumps(config(change)).encode()))


def only(change: Change) -> Finding:
    (found,) = judged(change)
    return found


def with_io(given: Any, outputs: Any) -> Change:
    return lambda c: c["model"]["io"].update(input=given, output=outputs)


def test_nothing_is_said_where_all_is_right() -> None:
    assert judged(lambda c: None) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_published_models_take_and_give_is_right(name: str) -> None:
    assert judged(with_io(*PUBLISHED[name])) == []


def test_what_published_models_deviate_in_is_only_a_warning() -> None:
    def change(c: dict[str, Any]) -> None:
        c["model"]["provevance"] = c["model"].pop("provenance")
        del c["model"]["io"]["input"]["format"]
        c["model"]["io"]["output"][1]["type"] = "ndarray"
        c["meta"]["name"] = "YOLOv3"

    said = {each.what: each for each in judged(change)}
    assert {each.level for each in said.values()} == {"warning"}
    provevance = said["model.provevance is no key of config.json: nobody reads it"]
    assert provevance.mend == "Did you mean 'provenance'?"
    assert "model.io.input.format is missing" in said
    assert any(what.startswith("model.io.output[1].type is 'ndarray'") for what in said)
    assert any(what.startswith("meta.name is 'YOLOv3'") for what in said)
    assert len(said) == 4


MISTAKES: list[tuple[Change, str, str]] = [
    (
        lambda c: c["model"]["io"]["output"][0].update(type="mask"),
        "model.io.output[0].type is 'mask': must be one of label_list, vector, mask_image",
        "Did you mean 'mask_image'?",
    ),
    (lambda c: c["model"]["io"].pop("output"), "model.io.output is missing", '"name": "probabilities"'),
    (
        lambda c: c["model"]["io"].update(outputs=c["model"]["io"].pop("output")),
        "model.io.outputs is no key of config.json",
        "Did you mean 'output'?",
    ),
    (lambda c: c["meta"].pop("task"), "meta.task is missing", '"task": "Segmentation"'),
    (lambda c: c.update(id="1"), "id is '1': must be a UUID", "uuid.uuid4"),
    (lambda c: c["meta"].update(name="../evil"), "meta.name is '../evil': must be lower-case", "Call it 'evil'"),
    (lambda c: c["model"]["io"].update(output=[]), "model.io.output is []: must be a list of at least 1", "For ex"),
    (
        lambda c: c["model"]["io"]["input"]["single"].update(format="image/png"),
        "model.io.input.single.format is 'image/png': must be a list",
        "brackets: ['image/png']",
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"].update(format=["png"]),
        "model.io.input.single.format[0] is 'png': must be a MIME type",
        "Did you mean 'image/png'?",
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"].update(format=["imge/png"]),
        "model.io.input.single.format[0] is 'imge/png', which is no MIME type",
        "Did you mean 'image/png'?",
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"]["dim_limits"][1].update(min="32"),
        "model.io.input.single.dim_limits[1].min is '32': must be a whole number",
        '"min": 32',
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"]["dim_limits"][0].update(min=5),
        "model.io.input.single.dim_limits[0] allows nothing: min 5 is more than max 4",
        "Exchange",
    ),
    (lambda c: c["modelhub"].update(version="1.0"), "modelhub.version is '1.0': must be three numbers", "1.0.1"),
    (lambda c: c["modelhub"].update(top=0), "modelhub.top is 0: must be 1 or more", '"top": 5'),
    (
        lambda c: c["model"]["io"]["output"][1].update(name="brightness"),
        "model.io.output[1].name is 'brightness', as another output is",
        "differently",
    ),
    (
        lambda c: c["model"]["io"]["input"].update({"t1": VOLUME}),
        "model.io.input has 'single' beside 't1'",
        "one input",
    ),
    (
        with_io({"format": ["image/png"], "t 1": VOLUME, "t2": VOLUME}, [{"name": "a", "type": "vector"}]),
        "model.io.input.format is [\"image/png\"]: must be [\"application/json\"]",
        "in the inputs",
    ),
    (
        with_io({"format": ["application/json"], "my format": VOLUME}, [{"name": "a", "type": "vector"}]),
        "model.io.input[\"my format\"]: a key with 'format'",
        "otherwise",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "what", "mend"), MISTAKES, ids=[str(each[1])[:50] for each in MISTAKES])
def test_a_mistake_is_told_by_its_path_the_rule_and_the_mend(change: Change, what: str, mend: str) -> None:
    found = only(change)
    assert (found.level, found.where) == ("error", "contrib_src/model/config.json")
    assert found.what.startswith(what)
    assert mend in found.mend


def test_types_that_no_file_is_known_to_be_of_are_a_warning() -> None:
    found = only(lambda c: c["model"]["io"]["input"]["single"].update(format=["text/csv"]))
    assert found.level == "warning" and "none is found in a folder" in found.what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"id": 1,}', "is not JSON: "),
        ('{"id": NaN}', "is not JSON: NaN"),
        ("[" * 100000, "is not JSON"),
        ('{"id": 1, "id": 2}', "has the key 'id' twice"),
        ("\xff", "is not JSON"),
        ("[]", "the whole is []: must be an object"),
    ],
)
def test_what_is_no_configuration_at_all(text: str, what: str) -> None:
    (found,) = configs.judge(text.encode("latin-1"))
    assert found.level == "error" and found.what.startswith(what)


# -- a contribution's files --------------------------------------------------------------------------------------------

NOWHERE = Path("/nonexistent")  # a store without images: the Python of this machine judges
Break = Callable[[Path], object]


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    return write(tmp_path)


def report(folder: Path, cache: Path = NOWHERE) -> Report:
    return validate(folder, SiteConfig(cache_dir=cache))


def test_nothing_is_wrong_with_a_contribution_that_is_right(bright: Path) -> None:
    found = report(bright)
    assert (found.findings, found.model) == ((), "bright")
    assert found.python == f"Python {sys.version.split()[0]} of this machine"


def test_the_models_that_ship_with_the_product_are_right() -> None:
    for folder in sorted((REPO / "registry/contributions").glob("*/contrib_src/license/model")):
        assert report(folder.parents[2]).errors == []


def test_checking_changes_nothing(bright: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bright.rglob("*")}
    report(bright)
    assert {path: path.stat().st_mtime_ns for path in bright.rglob("*")} == before


def init(**fields: Any) -> Break:
    def change(folder: Path) -> None:
        given = json.loads((folder / "init/init.json").read_bytes())
        (folder / "init/init.json").write_text(json.dumps({**given, **fields}))

    return change


def elsewhere(address: str, place: str) -> Break:
    return init(external_contrib_files=[{"src_url": address, "dest_file_path": place}])


def text(path: str, content: str, more: bool = False) -> Break:
    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text((folder / path).read_text() + content if more else content)

    return change


def large(path: str, size: int) -> Break:
    def change(folder: Path) -> None:
        with open(folder / path, "wb") as stream:
            stream.truncate(size)

    return change


def linked(path: str, target: str) -> Break:
    return lambda folder: (folder / path).symlink_to(target)


def sample(name: str, level: int = 9, side: int = 8) -> Break:
    return lambda folder: picture(folder / "contrib_src/sample_data" / name, level, side)


INFERENCE, CONFIG, INIT = "contrib_src/inference.py", "contrib_src/model/config.json", "init/init.json"
SAMPLE = "contrib_src/sample_data/a.png"
END = PROCESSING.count("\n") + 1  # the first line after it
ASSET = "https://example.org/releases/weights.h5"

BREAKS: dict[str, tuple[Break, str, str, str, str]] = {
    "a missing file": (
        lambda folder: (folder / INFERENCE).unlink(), "error", INFERENCE, "is missing", "class Model",
    ),
    "bad JSON": (text(CONFIG, '{"id": 1,}'), "error", CONFIG, "is not JSON", "Mend the text"),
    "no list of files elsewhere": (
        text(INIT, '{"docker_id": "a:1"}'), "error", INIT, "external_contrib_files is missing", "Add it",
    ),
    "an image that is none": (init(docker_id="a:1@sha256:0"), "error", INIT, "docker_id is 'a:1@sha256:0'", "exists"),
    "an image without tag": (init(docker_id="a"), "warning", INIT, "means another image each time", "a:1.0"),
    "a missing licence": (
        lambda folder: (folder / "contrib_src/license/model").unlink(),
        "error", "contrib_src/license/model", "nobody may use what has no licence", "plain text",
    ),
    "an empty licence": (
        text("contrib_src/license/sample_data", " \n"),
        "error", "contrib_src/license/sample_data", "is empty", "plain text",
    ),
    "a huge file": (
        large("contrib_src/model/weights.h5", 101_000_000),
        "error", "contrib_src/model/weights.h5", "has 101 MB: git hosts refuse",
        '"dest_file_path": "contrib_src/model/weights.h5"',
    ),
    "a large file": (
        large("contrib_src/model/weights.h5", 60_000_000),
        "warning", "contrib_src/model/weights.h5", "has 60 MB, which every clone", "asset of a release",
    ),
    "a path with ..": (
        elsewhere(ASSET, "contrib_src/../../weights.h5"), "error", INIT, "leads out of contrib_src", "without '..'",
    ),
    "an absolute path": (elsewhere(ASSET, "/etc/cron.d/x"), "error", INIT, "leads out of contrib_src", "contrib_src/m"),
    "an odd scheme": (
        elsewhere("file:///etc/passwd", "contrib_src/model/a"),
        "error", INIT, "external_contrib_files[0].src_url is 'file:///etc/passwd': must be an https://", "release",
    ),
    "a login in an address": (
        elsewhere("https://me:secret@example.org/a", "contrib_src/model/a"), "error", INIT, "holds a login", "'@'",
    ),
    "a file that is not here yet": (
        elsewhere(ASSET, "contrib_src/model/weights.h5"),
        "warning", INIT, "contrib_src/model/weights.h5 is not here", "https://example.org",
    ),
    "a link out of the folder": (
        linked("contrib_src/model/weights.h5", "/etc/passwd"),
        "error", "contrib_src/model/weights.h5", "is a link to /etc/passwd, which leads out of contrib_src", "itself",
    ),
    "another name than the folder's": (
        lambda folder: text(CONFIG, json.dumps(config(lambda c: c["meta"].update(name="dark"))))(folder),
        "error", CONFIG, "meta.name is 'dark', but the model is called 'bright'", "one name",
    ),
    "a name that is nearly the folder's": (
        lambda folder: text(CONFIG, json.dumps(config(lambda c: c["meta"].update(name="b-right"))))(folder),
        "warning", CONFIG, "meta.name is 'b-right'", "one name",
    ),
    "no samples": (
        lambda folder: shutil.rmtree(folder / "contrib_src/sample_data"),
        "error", "contrib_src/sample_data", "holds no file", "Add a small case",
    ),
    "a sample of another type": (
        text("contrib_src/sample_data/a.nii", "x"),
        "error", "contrib_src/sample_data/a.nii", "is no image/png, which the input 'single' takes", "after its type",
    ),
    "a sample that is damaged": (text(SAMPLE, "x"), "error", SAMPLE, "a.png: damaged: not a PNG", "whole file"),
    "a sample that is too small": (
        sample("a.png", side=3), "error", SAMPLE, "has the size [1, 3, 3], but dim_limits[1]", "Mend dim_limits",
    ),
    "no class Model": (text(INFERENCE, "class Net: pass\n"), "error", INFERENCE, "defines no class Model", "infer"),
    "syntax of Python 2": (
        text(INFERENCE, "class Model(object):\n    print 1\n"),
        "warning", f"{INFERENCE}, line 2", "is not valid in Python 3.", "Convert modelhub-hpc/onnxruntime:1",
    ),
    "a module that nobody has": (
        text("contrib_src/processing.py", "import no_such_module\n", more=True),
        "warning", f"contrib_src/processing.py, line {END}", "imports no_such_module; whether", "recipe",
    ),
    "port 80": (
        text("contrib_src/run.py", "app.run(host='0.0.0.0', port=80)\n", more=True),
        "warning", "contrib_src/run.py, line 9", "port 80 is only for root", "webservice.start",
    ),
    "a folder made outside": (
        text("contrib_src/processing.py", "import os\nos.mkdir('/weights')\n", more=True),
        "warning", f"contrib_src/processing.py, line {END + 1}", "may write to /weights", "/output",
    ),
    "a file written beside the code": (
        text("contrib_src/processing.py", "stream = open('model/log.txt', 'a')\n", more=True),
        "warning", f"contrib_src/processing.py, line {END}", "may write to /contrib_src/model/log.txt", "/output",
    ),
    "root needed": (
        text("contrib_src/processing.py", "import os\nos.system('sudo ldconfig')\n", more=True),
        "warning", f"contrib_src/processing.py, line {END + 1}", "sudo needs root", "when the image is made",
    ),
    "weights from the network": (
        text("contrib_src/processing.py", "net = resnet50(pretrained=True)\n", more=True),
        "warning", f"contrib_src/processing.py, line {END}", "pretrained=True may need the network", "external_contrib",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_mistake_has_its_place_and_its_mend(name: str, bright: Path) -> None:
    spoil, level, where, what, mend = BREAKS[name]
    spoil(bright)
    (found,) = report(bright).findings
    assert (found.level, found.where) == (level, where)
    assert what in found.what and mend in found.mend


def test_what_is_right_is_not_taken_for_a_mistake(bright: Path) -> None:
    elsewhere(ASSET, "/contrib_src/model/weights.h5")(bright)
    large("contrib_src/model/weights.h5", 101_000_000)(bright)
    linked("contrib_src/model/same.h5", "weights.h5")(bright)
    code = "# import torch; os.mkdir('/a'); port = 80\nimport os.path, json as j\nos.makedirs('/output/a')\n"
    text("contrib_src/processing.py", f"{PROCESSING}{code}open('/a')\n")(bright)
    assert report(bright).findings == ()


def test_a_pulled_model_is_called_what_its_entry_says(bright: Path, tmp_path: Path) -> None:
    pulled = bright.rename(tmp_path / "1.0.0")
    (pulled / "entry.json").write_text('{"name": "bright", "io": {"outputs": []}}')
    assert report(pulled).findings == ()


def test_samples_of_several_inputs_are_json_files(bright: Path) -> None:
    single = json.loads((bright / CONFIG).read_bytes())
    given = single["model"]["io"]["input"]
    given.update(format=["application/json"], t1=given["single"], t2=given.pop("single"))
    (bright / CONFIG).write_text(json.dumps(single))
    samples = bright / "contrib_src/sample_data"
    paths = {"t1": "light.png", "t2": "/contrib_src/sample_data/shade.png"}
    (samples / "case.json").write_text(json.dumps({key: {"fileurl": path} for key, path in paths.items()}))
    assert report(bright).findings == ()
    for path, what in {"gone.png": "gone.png, is not there", "../" * 20 + "etc/passwd": "lies outside"}.items():
        (samples / "case.json").write_text(json.dumps({"t1": {"fileurl": "light.png"}, "t2": {"fileurl": path}}))
        (found,) = report(bright).errors
        assert what in found.what
    (samples / "case.json").write_text("{}")
    (found,) = report(bright).errors
    assert 'lacks "t1"' in found.what


def test_hostile_names_and_texts_are_told_in_one_line(bright: Path) -> None:
    name = os.fsdecode(b"\xff\n\x1b[31m-rf.py")
    (bright / "contrib_src" / name).write_bytes(b"\0\nport = 80\n")
    done = subprocess.run(
        [sys.executable, "-m", "modelhub_hpc.cli", "validate", str(bright)], capture_output=True, text=True
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_image_s_own_python_judges(bright: Path, image: images.Image) -> None:
    text("contrib_src/processing.py", "import onnxruntime, no_such_module\n", more=True)(bright)
    text("contrib_src/more.py", "print 1\n")(bright)
    found = report(bright, CACHE)
    assert found.python == f"Python {image.python} in {image.name}"
    (wrong,) = found.errors
    assert (wrong.check, wrong.where) == ("syntax", "contrib_src/more.py, line 1")
    assert wrong.what.startswith(f"is not valid in Python {image.python} in {image.name}: Missing parentheses")
    (absent,) = found.warnings
    assert absent.what == f"imports no_such_module, which the image {image.name} lacks"


def test_the_command_says_errors_first_and_exits_with_4(bright: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelhub_hpc.cli", "validate", *words]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MH_HPC_CACHE_DIR": "/none"})

    assert (run(str(bright)).returncode, run(str(bright / "init")).returncode) == (0, 4)
    (bright / "README.md").unlink()
    assert run(str(bright)).returncode == 0
    (bright / INFERENCE).unlink()
    done = run(str(bright))
    assert done.returncode == 4
    assert done.stderr.startswith("error    contrib_src/inference.py: is missing\n         It holds the class Model.")
    assert "\nwarning  README.md: is missing" in done.stderr
    assert done.stdout.startswith("bright: 1 error, 1 warning;")
    answer = json.loads(run(str(bright), "--json").stdout)
    assert (answer["valid"], answer["model"]) == (False, "bright")
    assert answer["errors"][0]["where"] == INFERENCE and answer["warnings"][0]["where"] == "README.md"
