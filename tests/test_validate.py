"""What is said of a contribution that is not right: by its configuration here, by its files below."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from bright import PROCESSING, config, picture, write
from grounds import CACHE, REPO
from hypothesis import strategies as st

from modelhub_hpc import images
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import configs, external
from modelhub_hpc.contributing.findings import Finding
from modelhub_hpc.contributing.validate import Report, validate

VOLUME = {"format": ["application/nii-gzip"], "dim_limits": [{"min": 155, "max": 240}] * 3}
ENTRIES = {path.stem: json.loads(path.read_bytes()) for path in sorted((REPO / "registry/models").glob("*.json"))}

Change = Callable[[dict[str, Any]], object]


def judged(change: Change) -> list[Finding]:
    return list(configs.judge_config(config(change)))


def only(change: Change) -> Finding:
    (found,) = judged(change)
    return found


def with_io(given: Any, outputs: Any) -> Change:
    return lambda c: c["model"]["io"].update(input=given, output=outputs)


def test_nothing_is_said_where_all_is_right() -> None:
    assert judged(lambda c: None) == []


@pytest.mark.parametrize("name", ENTRIES)
def test_what_published_models_take_and_give_is_right(name: str) -> None:
    entry = ENTRIES[name]
    gives = [plain(each, "name", "type", "description", "axes") for each in outputs(entry)]
    assert judged(with_io(given_as(entry), gives)) == []


def test_both_forms_are_among_the_published() -> None:
    assert {configs.form(config(with_io(given_as(entry), []))) for entry in ENTRIES.values()} == {"flat", "nested"}


def given_as(entry: dict[str, Any]) -> dict[str, Any]:
    """The io.input of a model's config.json, in the form in which it was published."""
    specs = entry["io"]["inputs"]
    sections = [{"format": each["mime"], **plain(each, "dim_limits", "description")} for each in specs]
    for section in sections:
        section["dim_limits"] = [plain(limit, "min", "max") for limit in section["dim_limits"]]
    if entry["config_form"] == "flat":
        return sections[0]
    named = {each["key"] or "single": section for each, section in zip(specs, sections)}
    return {"format": sections[0]["format"] if len(specs) == 1 else ["application/json"], **named}


def outputs(entry: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = entry["io"]["outputs"]
    return found


def plain(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if given.get(name) is not None}


def test_what_published_models_deviate_in_is_only_a_warning() -> None:
    def change(c: dict[str, Any]) -> None:
        c["model"]["provevance"] = c["model"].pop("provenance")
        del c["model"]["io"]["input"]["format"]
        c["model"]["io"]["output"][1]["type"] = "ndarray"
        c["meta"]["name"] = "YOLOv3"

    said = {each.what: each for each in judged(change)}
    assert {each.level for each in said.values()} == {"warning"}
    assert said["model.provevance: there is no such property"].mend == "Did you mean 'provenance'?"
    assert "model.io.input.format: is missing" in said
    assert any(what.startswith('model.io.output[1].type: "ndarray" is none of "label_list"') for what in said)
    assert any(what.startswith('meta.name: "YOLOv3" is not written as it must be') for what in said)
    assert len(said) == 4


MISTAKES: list[tuple[Change, str, str]] = [
    (
        lambda c: c["model"]["io"]["output"][0].update(type="mask"),
        'model.io.output[0].type: "mask" is none of "label_list", "vector", "mask_image"',
        "Did you mean 'mask_image'?",
    ),
    (lambda c: c["model"]["io"].pop("output"), "model.io.output: is missing", '"name": "probabilities"'),
    (
        lambda c: c["model"]["io"].update(outputs=c["model"]["io"].pop("output")),
        "model.io.outputs: there is no such property",
        "Did you mean 'output'?",
    ),
    (lambda c: c["meta"].pop("task"), "meta.task: is missing", 'Example: "Segmentation"'),
    (lambda c: c.update(id="1"), 'id: "1" is not written as it must be', "uuid.uuid4"),
    (lambda c: c["meta"].update(name="../evil"), 'meta.name: "../evil" is not written', "lower-case letters"),
    (lambda c: c["model"]["io"].update(output=[]), "model.io.output: is empty", "Example: "),
    (
        lambda c: c["model"]["io"]["input"]["single"].update(format="image/png"),
        'model.io.input.single.format: "image/png" is not of type array',
        'Example: ["image/png", "image/jpeg"]',
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"].update(format=["png"]),
        'model.io.input.single.format[0]: "png" is not written as it must be',
        "Did you mean 'image/png'?",
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"].update(format=["imge/png"]),
        'model.io.input.single.format[0]: "imge/png" is no MIME type',
        "Did you mean 'image/png'?",
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"]["dim_limits"][1].update(min="32"),
        'model.io.input.single.dim_limits[1].min: "32" is not of type integer',
        "Example: 32",
    ),
    (
        lambda c: c["model"]["io"]["input"]["single"]["dim_limits"][0].update(min=5),
        "model.io.input.single.dim_limits[0]: allows nothing, since min 5 is more than max 4",
        "Exchange",
    ),
    (lambda c: c["modelhub"].update(version="1.0"), 'modelhub.version: "1.0" is not written as it', 'Example: "1.0.0"'),
    (lambda c: c["modelhub"].update(top=0), "modelhub.top: 0 is less than 1", "Example: 5"),
    (
        lambda c: c["model"]["io"]["output"][1].update(name="brightness"),
        'model.io.output[1].name: "brightness" is another output too',
        "otherwise",
    ),
    (lambda c: c["model"]["io"]["input"].update({"t1": VOLUME}), "model.io.input: single is for models with one", "t1"),
    (
        with_io({"format": ["image/png"], "t 1": VOLUME, "t2": VOLUME}, [{"name": "a", "type": "vector"}]),
        'model.io.input.format: ["image/png"] is not ["application/json"]',
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
        ('{"id": 1,}', "is no JSON: "),
        ('{"id": NaN}', "is no JSON: "),
        ("[" * 100000, "is no JSON"),
        ('{"id": 1, "id": 2}', 'is no JSON: the name "id" comes twice'),
        ("\xff", "is no JSON"),
        ("[]", "the whole: [] is not of type object"),
    ],
)
def test_what_is_no_configuration_at_all(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).parent.mkdir(parents=True)
    (tmp_path / CONFIG).write_bytes(text.encode("latin-1"))
    (found,) = configs.judge(tmp_path)
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


FILE = {"src_url": "https://example.org/a", "dest_file_path": "contrib_src/model/a"}
INFERENCE, CONFIG, INIT = "contrib_src/inference.py", "contrib_src/model/config.json", "init/init.json"
SAMPLE = "contrib_src/sample_data/a.png"
END = PROCESSING.count("\n") + 1  # the first line after it
ASSET = "https://example.org/releases/weights.h5"

BREAKS: dict[str, tuple[Break, str, str, str, str]] = {
    "a missing file": (
        lambda folder: (folder / INFERENCE).unlink(), "error", INFERENCE, "is missing", "class Model",
    ),
    "bad JSON": (text(CONFIG, '{"id": 1,}'), "error", CONFIG, "is no JSON", "Mend the text"),
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
    entry = json.loads((REPO / "registry/models/squeezenet.json").read_bytes())
    (pulled / "entry.json").write_text(json.dumps({**entry, "name": "bright"}))
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


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.floats(allow_nan=False, width=16), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_leaves=4,
)


def nodes(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a JSON value, but for the whole."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*place, key)
        yield from nodes(each, (*place, key))


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    holder = functools.reduce(lambda inner, key: inner[key], place[:-1], value)
    holder[place[-1]] = by
    return value


@hypothesis.given(st.data())
def test_whatever_stands_in_json_is_told_and_never_raised(data: st.DataObject) -> None:
    for path, given in ((CONFIG, config()), (INIT, {"docker_id": "a:1", "external_contrib_files": [dict(FILE)]})):
        wrong = replaced(given, data.draw(st.sampled_from(list(nodes(given)))), data.draw(VALUES))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / path).parent.mkdir(parents=True)
            (Path(folder) / path).write_text(json.dumps(wrong))
            for found in (*configs.judge(Path(folder)), *external.judge(Path(folder))):
                assert found.what and found.mend
            external.destinations(Path(folder))


def test_hostile_names_and_texts_are_told_in_one_line(bright: Path) -> None:
    name = os.fsdecode(b"\xff\n\x1b[31m-rf.py")
    (bright / "contrib_src" / name).write_bytes(b"\0\nport = 80\n")
    done = subprocess.run(
        [sys.executable, "-m", "modelhub_hpc.cli", "validate", str(bright)], capture_output=True, text=True
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_no_code_of_a_contribution_is_run(bright: Path) -> None:
    marker = bright.parent / "marker"
    for name in ("json.py", "pkgutil.py", "sitecustomize.py", "usercustomize.py", "numpy.py", "processing.py"):
        (bright / "contrib_src" / name).write_text(f"open({str(marker)!r}, 'w')\n")
    start = f"import sys; sys.path.insert(0, {str(REPO)!r}); from modelhub_hpc.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-I", "-c", start, "validate", str(bright)],
        cwd=bright / "contrib_src",
        capture_output=True,
        text=True,
        env={**os.environ, "MH_HPC_CACHE_DIR": "/none"},
    )
    assert done.returncode == 0 and "judged by Python" in done.stdout
    assert not marker.exists()


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
