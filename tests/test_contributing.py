"""New contributions: that they run as they are made, what of them is published, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gitkit import Repository
from grounds import REPO

from modelhub_hpc import cli, contribution
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import configs, phantoms, scaffold
from modelhub_hpc.contributing.publish import Given, Published, publish
from modelhub_hpc.contributing.validate import validate
from modelhub_hpc.errors import InvalidError, UsageError
from modelhub_hpc.models import shelves

MH = (sys.executable, "-m", "modelhub_hpc.cli")
EVERY_INPUT = [f"--input=i{number}={mime}" for number, mime in enumerate(phantoms.TYPES)]
EVERY_OUTPUT = [f"--output={kind}" for kind in scaffold.OUTPUT_TYPES]
ARRAYS = ("vector", "mask_image", "heatmap", "image")


def init(folder: Path, *words: str) -> Path:
    """A new contribution in folder/new-model."""
    assert cli.main(["-q", "init", "new-model", "--dir", str(folder), *words]) == 0
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


@pytest.mark.parametrize("keys", [[""], ["t1=", "t2="]], ids=["one input", "two inputs"])
def test_its_notebook_predicts_the_sample(keys: Sequence[str], tmp_path: Path) -> None:
    model = init(tmp_path, *(f"--input={key}image/png" for key in keys), "--output", "lesion:mask_image")
    cells = json.loads((model / "contrib_src/sandbox.ipynb").read_bytes())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = {**os.environ, "PYTHONPATH": str(REPO / "engine"), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=model / "contrib_src", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "lesion: mask_image [64, 64]\n"), done.stderr


@pytest.mark.parametrize(
    "words", [[], [*EVERY_INPUT, *EVERY_OUTPUT], ["--input", "application/octet-stream"]], ids=["least", "all", "npy"]
)
def test_nothing_is_wrong_with_it(words: Sequence[str], tmp_path: Path) -> None:
    report = validate(init(tmp_path, *words), SiteConfig(cache_dir=tmp_path / "cache"))
    unsaid = "its size is not known here"  # of formats whose files are not opened to validate them
    assert [each for each in report.findings if not each.what.startswith(unsaid)] == []


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
        model = init(tmp_path / name, "--author", 'Jané "J" Doe @name@\n\udcff', "--licence", "MIT")
        texts.append({str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()})
    differing = [name for name in texts[0] if texts[0][name] != texts[1][name]]
    assert differing == ["contrib_src/model/config.json"]
    assert json.loads(texts[0][differing[0]])["id"] != json.loads(texts[1][differing[0]])["id"]
    for name, data in texts[0].items():
        assert not scaffold.PLACEHOLDER.search(data.replace(b"@name@", b"").decode("latin-1")), name
    assert 'Jané "J" Doe @name@ \\udcff' in texts[0]["contrib_src/license/model"].decode()
    assert yaml.safe_load(texts[0]["CITATION.cff"])["authors"] == [{"name": 'Jané "J" Doe @name@ \\udcff'}]
    assert {".gitignore", ".github/workflows/check.yml", "check.sh"} <= set(texts[0])
    assert os.access(model / "check.sh", os.X_OK)


def test_its_check_asks_what_to_install_where_mh_hpc_is_missing(tmp_path: Path) -> None:
    words = [init(tmp_path) / "check.sh"]
    done = subprocess.run(words, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "MODEL_TOOLS: must say what pip is to install" in done.stderr


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
        (["a", "--input", " "], "'' is no type of image"),
        (["a", "--output", " "], "'' is no type of output"),
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
    wanted = scaffold.Wanted("a", "x/y:1", ("numpy",), {"single": ("image/png",)}, {"v": "vector"}, "MIT", "Me")
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
    inputs = b"t1=application/nii-gzip flair=application/nii-gzip"
    os.write(primary, b"\n".join([b"torch", b"pytorch", inputs, b"tumour:mask_image", b"Jane Doe", b""]))
    screen = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the process is
        while data := os.read(primary, 4096):
            screen += data
    os.close(primary)
    assert process.wait() == 0, screen
    again = b"'torch' is no framework known here. Known: caffe"
    for question in (again, b"Input", b"Outputs", b"Author [The authors of asked]"):
        assert question in screen
    assert b"Licence" not in screen
    model = contribution.read(tmp_path / "asked")
    assert model.image == "modelhub-hpc/pytorch:1"
    assert [each.key for each in model.inputs] == ["t1", "flair"]
    assert [(each.name, each.type) for each in model.outputs] == [("tumour", "mask_image")]
    assert "Jane Doe" in (tmp_path / "asked/CITATION.cff").read_text()


# -- published ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """A contribution in a clone, the repository that it is pushed to, and a registry."""

    model: Path
    clone: Repository
    registry: Path
    site: SiteConfig

    @property
    def remote(self) -> str:
        return (self.model.parent / "remote.git").resolve().as_uri()

    @property
    def entry_file(self) -> Path:
        return self.registry / "models/new-model.json"

    @property
    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.entry_file.read_bytes())
        return found

    def change(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change config.json, commit and push."""
        path = self.model / configs.CONFIG
        config = json.loads(path.read_bytes())
        change(config)
        path.write_text(json.dumps(config))
        self.push()

    def push(self) -> str:
        commit = self.clone.commit()
        self.clone("push", "--quiet", "origin", "HEAD")
        return commit

    def publish(self, **given: str) -> Published:
        return publish(self.model, self.registry, Given(**given), self.site)


def described(config: dict[str, Any]) -> None:
    config["model"]["description"] = "Finds nodules."


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    base = tmp_path / "é %41 b"
    base.mkdir()
    model = init(base, "--author", "Jane Doe", "--output", "lung:mask_image", "--framework", "keras-1.0.2")
    clone = Repository(model)
    clone("init", "--quiet", "--bare", str(base / "remote.git"))
    clone("remote", "add", "origin", str(base / "remote.git"))
    (base / "registry/models").mkdir(parents=True)
    ground = Ground(model, clone, base / "registry", SiteConfig(cache_dir=base / "cache"))
    ground.change(described)
    return ground


def test_the_first_version_is_an_entry_made_of_the_contributions_own_files(ground: Ground) -> None:
    measured = {"seconds_per_case": 0.25, "memory_mb": 80, "start_s": 1.5, "machine": "Abacus, 2 cores"}
    (ground.model / "measured.json").write_text(json.dumps(measured))
    commit = ground.push()
    published = ground.publish(doi="https://doi.org/10.5281/zenodo.1234")
    assert published.changed and not published.before
    found = shelves.find("new-model", [shelves.Shelf("lab", ground.registry)]).entry
    assert found == published.entry
    told = ground.entry
    assert told["id"] == json.loads((ground.model / configs.CONFIG).read_bytes())["id"]
    assert (told["description"], told["backend"], told["python"]) == ("Finds nodules.", ["tensorflow", "keras"], "2.7")
    assert told["licence"] == {"model": "Apache-2.0", "sample_data": "CC0-1.0"}
    reference = told["reference"]
    assert (reference["authors"], reference["doi"]) == (["Jane Doe"], "10.5281/zenodo.1234")
    assert told["resources"] == {
        "seconds_per_case": 0.25, "memory_mb": 80, "gpu_memory_mb": None, "hardware": "Abacus, 2 cores"
    }  # fmt: skip
    (output,) = told["io"]["outputs"]
    assert (output["name"], output["type"], output["axes"]) == ("lung", "mask_image", "y,x")
    (version,) = told["versions"]
    assert version == {
        "version": "0.1.0",
        "source": {"repository": ground.remote, "branch": "master", "commit": commit, "folder": "."},
        "image": {
            "name": "modelhub/keras-modelhub:1.0.2",
            "digest": None,
            "base": "ubuntu:16.04",
            "holds": ["TensorFlow 1.0.1", "Keras 2.0.2", "OpenCV"],
        },
        "files": [],
    }


def test_a_further_version_is_added_and_the_one_before_stays(ground: Ground) -> None:
    ground.publish()
    first = ground.entry
    assert not ground.publish().changed
    assert ground.entry == first

    def later(config: dict[str, Any]) -> None:
        config["modelhub"].update(version="0.10.0", modality="CT")

    ground.change(later)
    assert ground.publish().before == ("0.1.0",)
    told = ground.entry
    assert [each["version"] for each in told["versions"]] == ["0.1.0", "0.10.0"]
    assert told["versions"][0] == first["versions"][0]
    assert told["modality"] == "CT"


def test_a_correction_of_an_older_version_is_put_in_order_and_says_nothing_of_the_newest(ground: Ground) -> None:
    ground.change(lambda config: config["modelhub"].update(version="2.0.0"))
    ground.publish()

    def older(config: dict[str, Any]) -> None:
        config["modelhub"]["version"] = "1.9.1"
        config["model"]["description"] = "Found nodules."

    ground.change(older)
    ground.publish()
    assert [each["version"] for each in ground.entry["versions"]] == ["1.9.1", "2.0.0"]
    assert ground.entry["description"] == "Finds nodules."


def test_a_version_that_is_there_never_changes(ground: Ground) -> None:
    ground.publish()
    before = ground.entry_file.read_bytes()
    (ground.model / "contrib_src/sandbox.ipynb").unlink()
    ground.push()
    with pytest.raises(InvalidError, match=r"has a version 0\.1\.0, with other facts \(source\)"):
        ground.publish()
    assert ground.entry_file.read_bytes() == before


def test_what_a_curator_has_added_stays(ground: Ground) -> None:
    ground.publish()
    accuracy = {"metric": "Dice", "dataset": "LIDC", "reported": 0.9, "reproduced": None, "cases": 10, "source": None}
    ground.entry_file.write_text(json.dumps({**ground.entry, "modality": "CT", "accuracy": [accuracy]}))
    ground.change(lambda config: config["modelhub"].update(version="0.2.0"))
    ground.publish()
    assert ground.entry["modality"] == "CT"
    assert ground.entry["accuracy"] == [accuracy]


def test_only_what_others_can_have_is_published(ground: Ground) -> None:
    ground.clone.commit(**{"contrib_src/late.py": "late = 1\n"})
    with pytest.raises(InvalidError, match="git push"):
        ground.publish()
    ground.clone("push", "--quiet", "origin", "HEAD")
    (ground.model / "contrib_src/late.py").write_text("late = 2\n")
    (ground.model / "contrib_src/weights.bin").write_text("ignored by git, say")
    (ground.model / "contrib_src/sandbox.ipynb").unlink()
    with pytest.raises(InvalidError) as said:
        ground.publish()
    lines = str(said.value).splitlines()
    assert "  differs    contrib_src/late.py" in lines
    assert "  only here  contrib_src/weights.bin" in lines
    assert "  only there contrib_src/sandbox.ipynb" in lines
    assert len(lines) == 5
    assert not ground.entry_file.exists()


def test_files_that_lie_elsewhere_are_known_by_their_content(ground: Ground) -> None:
    weights = ground.model / "contrib_src/model/weights.bin"
    address = "https://example.org/weights.bin"
    named = {"src_url": address, "dest_file_path": "/contrib_src/model/weights.bin"}
    given = {"docker_id": "modelhub-hpc/onnxruntime:1", "external_contrib_files": [named]}
    (ground.model / "init/init.json").write_text(json.dumps(given))
    ground.push()
    with pytest.raises(InvalidError, match=address):
        ground.publish()
    weights.write_bytes(b"weights")
    ground.publish()
    (version,) = ground.entry["versions"]
    digest = hashlib.sha256(b"weights").hexdigest()
    expected = {"url": address, "path": "contrib_src/model/weights.bin", "sha256": digest, "bytes": 7}
    assert version["files"] == [expected]


def test_a_model_in_the_registrys_own_folder_needs_no_repository(ground: Ground) -> None:
    own = ground.registry / "contributions/new-model"
    own.parent.mkdir()
    ground.model.rename(own)
    publish(own, ground.registry, Given(), ground.site)
    (version,) = ground.entry["versions"]
    assert version["source"] == {
        "repository": None, "branch": None, "commit": None, "folder": "contributions/new-model"
    }  # fmt: skip


def test_a_repository_can_be_named_and_is_looked_at_too(ground: Ground) -> None:
    commit = ground.push()
    ground.clone("remote", "remove", "origin")
    with pytest.raises(UsageError, match="without a remote"):
        ground.publish()
    with pytest.raises(UsageError, match="belong together"):
        ground.publish(commit=commit)
    with pytest.raises(InvalidError, match="no commit"):
        ground.publish(repository=ground.remote, commit="1" * 40)
    ground.publish(repository=ground.remote, commit=commit)
    assert ground.entry["versions"][0]["source"]["commit"] == commit


def test_the_publication_of_config_json_is_what_is_cited(ground: Ground) -> None:
    publication = {
        "title": "On nodules", "source": "arXiv", "year": 2018, "authors": "Jane Doe, John Roe and Max Moe",
        "abstract": "", "url": "https://arxiv.org/abs/1801.01234", "google_scholar": "", "bibtex": "@misc{a}",
    }  # fmt: skip
    ground.change(lambda config: config.update(publication=publication))
    ground.publish()
    assert ground.entry["reference"] == {
        "title": "On nodules", "authors": ["Jane Doe", "John Roe", "Max Moe"], "year": 2018, "source": "arXiv",
        "url": "https://arxiv.org/abs/1801.01234", "doi": None, "arxiv": "1801.01234", "bibtex": "@misc{a}",
    }  # fmt: skip


REFUSED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda config: config["model"].update(description=scaffold.STAND_IN), "still describes the stand-in"),
    (lambda config: config["modelhub"].pop("backend"), "what the model runs on"),
    (lambda config: config["modelhub"].update(gpu={"uses": "yes"}), r"gpu\.uses"),
    (lambda config: config["meta"].pop("task"), "has mistakes:"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_not_ready_is_not_published(
    change: Callable[[dict[str, Any]], object], said: str, ground: Ground
) -> None:
    ground.change(change)
    with pytest.raises(InvalidError, match=said):
        ground.publish()
    assert not ground.entry_file.exists()


def test_version_and_names_are_told_apart(ground: Ground) -> None:
    with pytest.raises(UsageError, match="calls this version 0.1.0, not 1.0.0"):
        ground.publish(version="1.0.0")
    ground.publish()
    ground.change(lambda config: config.update(id="00000000-0000-4000-8000-000000000000"))
    with pytest.raises(InvalidError, match="the entry of another model"):
        ground.publish()
    ground.entry_file.rename(ground.entry_file.with_name("other.json"))
    ground.publish()
    other = json.loads((ground.registry / "models/other.json").read_bytes())
    ground.change(lambda config: config.update(id=other["id"]))
    ground.entry_file.unlink()
    with pytest.raises(InvalidError, match="a model with the id of this one"):
        ground.publish()
    with pytest.raises(InvalidError, match="no registry"):
        publish(ground.model, ground.model, Given(), ground.site)
