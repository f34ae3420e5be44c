"""What registries say of models: entries and their rules, several registries, search, citations."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from gitkit import Repository
from grounds import REPO

from modelhub_hpc import contribution, schemas
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.models import checks, citation, entry, search, shelves
from modelhub_hpc.models.entry import Entry

OURS = REPO / "registry"
FILES = sorted((OURS / "models").glob("*.json"))
UUID = "d50796da-87f2-4493-846e-6eeb498acc63"


def data(which: str = "squeezenet", /, **changes: Any) -> dict[str, Any]:
    """A published entry, with changes."""
    found: dict[str, Any] = json.loads((OURS / f"models/{which}.json").read_bytes())
    return {**found, **changes}


def numbered(*numbers: str) -> dict[str, Any]:
    """An entry with these versions."""
    made = data()
    return {**made, "versions": [{**made["versions"][0], "version": number} for number in numbers]}


@pytest.fixture
def lab(tmp_path: Path) -> Callable[..., Path]:
    """Write a registry: lab(NAME, entry...) in the folder of that name."""

    def write(name: str, *entries: dict[str, Any]) -> Path:
        folder = tmp_path / name
        (folder / "models").mkdir(parents=True, exist_ok=True)
        for each in entries:
            (folder / "models" / f"{each['name']}.json").write_text(json.dumps(each))
        return folder

    return write


def site(tmp_path: Path, *registries: object) -> SiteConfig:
    return SiteConfig(cache_dir=tmp_path / "cache", registries=tuple(map(str, registries)))  # type: ignore[arg-type]


# ---- our own registry


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_our_entries_keep_all_rules_and_go_there_and_back(path: Path) -> None:
    found = entry.read(path)
    assert found.name == path.stem
    assert json.loads(json.dumps(found.to_json())) == json.loads(path.read_bytes())
    assert entry.glance(path) == found


def test_our_registry_is_whole_and_has_every_published_model() -> None:
    environments = json.loads((REPO / "recipes/environments.json").read_bytes())
    assert not list(checks.problems(shelves.shipped()))
    for each in environments:
        for name in each["models"]:
            found = entry.read(OURS / f"models/{name}.json")
            version = found.newest
            chain = [each["image"], *each["chain"]]
            assert (version.image.name, version.image.base, found.python) == (chain[0], chain[-1], each["python"])
            assert ", ".join(version.image.holds) == each["holds"].removesuffix(", GPU")
            assert found.gpu.uses == each["gpu"]
            assert version.source.repository and version.source.repository.endswith(f"/{name}")


def test_the_entry_of_a_model_that_travels_with_us_is_as_the_model() -> None:
    told, model = entry.read(OURS / "models/digits-cnn.json"), contribution.read(OURS / "contributions/digits-cnn")
    assert (told.id, told.name, told.newest.version, told.newest.image.name) == (
        model.id,
        model.name,
        model.version,
        model.image,
    )
    assert [(i.key, i.mime) for i in told.io.inputs] == [(i.key, i.formats) for i in model.inputs]
    assert [(o.name, o.type, o.description) for o in told.io.outputs] == [
        (o.name, o.type, o.description) for o in model.outputs
    ]


def test_what_is_known_of_hard_models() -> None:
    brats = {name: entry.read(OURS / f"models/{name}-brats.json") for name in ("mic-dkfz", "lfb-rwth", "deepscan")}
    assert {name: each.io.outputs[0].axes for name, each in brats.items()} == {
        "mic-dkfz": "z,y,x",
        "lfb-rwth": "x,y,z",
        "deepscan": "x,y,z",
    }
    assert [i.key for i in brats["deepscan"].io.inputs] == ["t1", "t1c", "t2", "flair"]
    assert {name: (each.gpu.required, each.gpu.newest_arch) for name, each in brats.items()} == {
        "mic-dkfz": (True, "sm_70"),
        "lfb-rwth": (False, None),
        "deepscan": (True, "sm_61"),
    }
    risk = entry.read(OURS / "models/cxr-risk.json")
    assert risk.quirks.writable == ("/temp",) and risk.quirks.network
    squeezenet = entry.read(OURS / "models/squeezenet.json")
    assert [(f.reported, f.reproduced) for f in squeezenet.accuracy] == [(57.5, 55.996), (80.3, 78.922)]


# ---- the schema


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """The rules of every property, and of all items."""
    for each in schema.get("properties", {}).values():
        yield each
        yield from objects(each)
    if "items" in schema:
        yield schema["items"]
        yield from objects(schema["items"])


def test_the_schema_is_one_and_describes_every_property() -> None:
    rules = entry.schema()
    jsonschema.Draft202012Validator.check_schema(rules)
    assert rules["$schema"].endswith("2020-12/schema")
    found = list(objects(rules))
    assert len(found) > 70
    assert not [each for each in found if not each.get("description")]
    for each in found:
        assert not each.get("properties") or (
            each["required"] == list(each["properties"]) and each["additionalProperties"] is False
        )
        for example in each.get("examples", ()):
            assert not schemas.problems(example, each)


def test_the_dataclass_has_the_names_of_the_schema() -> None:
    assert [f.name for f in dataclasses.fields(Entry)] == list(entry.schema()["properties"])


# ---- mistakes


def changed(path: str, value: Any) -> dict[str, Any]:
    """An entry with one value changed, or removed where it is ..."""
    made = data("googlenet")
    *way, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", path)]
    place: Any = made
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


FILE = "versions[0].files[0].path"


@pytest.mark.parametrize(
    ("path", "value", "where", "rule", "mend"),
    [
        ("title", ..., "title", "is missing", "Add it: The model's name for people"),
        ("tittle", "x", "tittle", "there is no such property", "Did you mean 'title'?"),
        ("zzz", 1, "zzz", "there is no such property", "Remove it; known here: schema, id"),
        ("schema", 2, "schema", "2 is not 1", "The version of these rules"),
        ("id", "1234", "id", '"1234" is not written as it must be', f'Example: "{UUID}"'),
        ("name", "-rf", "name", "is not written", "first a letter or digit"),
        ("name", "a\n", "name", '"a\\n" is not written', "first a letter or digit"),
        ("name", "../x", "name", "is not written", "first a letter or digit"),
        ("title", "", "title", "is not written", "on one line"),
        ("description", "", "description", "is empty", "What the model does"),
        ("description", None, "description", "null is not of type string", "What the model does"),
        ("backend", [], "backend", "is empty", "frameworks"),
        ("backend", ["onnx", "onnx"], "backend", "the same item twice", "frameworks"),
        ("backend", "onnx", "backend", '"onnx" is not of type array', "frameworks"),
        ("python", "2", "python", "is not written", "MAJOR.MINOR"),
        ("config_form", "round", "config_form", '"round" is none of "flat", "nested", null', "io.input"),
        ("io.inputs", [], "io.inputs", "is empty", "One item per input"),
        ("io.inputs[0].mime[0]", "png", "io.inputs[0].mime[0]", "is not written", "image/png"),
        ("io.inputs[0].dim_limits[1].min", -1, "io.inputs[0].dim_limits[1].min", "-1 is less than 0", "smallest"),
        ("io.inputs[0].dim_limits[0].min", 9, "io.inputs[0].dim_limits[0]", "min is more than max", "Exchange"),
        ("io.outputs[0].type", "ndarray", "io.outputs[0].type", '"ndarray" is none of "label_list"', "kind of value"),
        ("io.outputs[0].axes", "zyx", "io.outputs[0].axes", "is not written", "SimpleITK"),
        ("io.outputs[0].labels", {"a b": "x"}, "io.outputs[0].labels", '"a b" is not written', "whole number"),
        ("io.outputs[0].labels", {"0": 1}, 'io.outputs[0].labels["0"]', "1 is not of type string", "The name"),
        ("gpu.uses", 1, "gpu.uses", "1 is not of type boolean", "computes on a GPU"),
        ("gpu.newest_arch", "pascal", "gpu.newest_arch", "is not written", "sm_70"),
        ("reference.doi", "https://doi.org/10.1/x", "reference.doi", "is not written", "without a web address"),
        ("reference.arxiv", "1602", "reference.arxiv", "is not written", "1602.07360"),
        ("reference.url", "ftp://x", "reference.url", "is not written", "web address"),
        ("reference.year", 16, "reference.year", "16 is less than 1900", "year"),
        ("accuracy[0].cases", True, "accuracy[0].cases", "true is not of type integer or null", "How many"),
        ("resources.seconds_per_case", 0, "resources.seconds_per_case", "0 is not more than 0", "in seconds"),
        ("quirks.writable", ["temp"], "quirks.writable[0]", "is not written", "/temp"),
        ("quirks.writable", ["/../etc"], "quirks.writable[0]", "is not written", "/temp"),
        ("versions", [], "versions", "is empty", "oldest first"),
        ("versions[0].version", "1.0", "versions[0].version", "is not written", "MAJOR.MINOR.PATCH"),
        ("versions[0].source.repository", "ext::sh -c x", "versions[0].source.repository", "is not written", "git"),
        ("versions[0].source.repository", None, "versions[0].source.repository", "there is a branch", "Name it"),
        ("versions[0].source.branch", "--upload-pack=x", "versions[0].source.branch", "is not written", "branch"),
        ("versions[0].source.commit", "abc", "versions[0].source.commit", "is not written", "in full"),
        ("versions[0].source.folder", "../x", "versions[0].source.folder", "is not written", "'.' is the top"),
        ("versions[0].image.digest", "sha256:1", "versions[0].image.digest", "is not written", "sha256:0"),
        ("versions[0].files[0].url", "file:///etc", "versions[0].files[0].url", "is not written", "downloaded"),
        ("versions[0].files[0].sha256", "A" * 64, "versions[0].files[0].sha256", "is not written", "in hex"),
        (FILE, "contrib_src/../../x", FILE, "is not written", "contribution's folder"),
        (FILE, "/contrib_src/x", FILE, "is not written", "contribution's folder"),
        (FILE, "contrib_src/x/", FILE, "is not written", "contribution's folder"),
        (FILE, "init/init.json", FILE, "is not written", "contribution's folder"),
    ],
)
def test_each_mistake_says_where_it_is_the_rule_and_the_mend(
    path: str, value: Any, where: str, rule: str, mend: str
) -> None:
    problems = entry.problems(changed(path, value))
    assert [each.path for each in problems] == [where]
    assert rule in problems[0].rule and mend in problems[0].mend
    with pytest.raises(InvalidError, match=re.escape(f"lab/x.json is no entry of a registry:\n  {where}: ")):
        entry.parse(changed(path, value), "lab/x.json")


def test_what_only_several_parts_show_together() -> None:
    twice = data("mic-dkfz-brats")
    twice["io"]["inputs"][1]["key"] = "t1"
    twice["versions"][0]["files"].append(twice["versions"][0]["files"][2])
    assert [(each.path, each.rule) for each in entry.problems(twice)] == [
        ("versions[0].files[5].path", '"contrib_src/model/params/2/model_best.model" comes twice'),
        ("io.inputs[1].key", "does not tell this input from another"),
    ]
    found = entry.problems(numbered("1.0.0", "1.1.0", "1.0.0", "0.9.0"))
    assert [str(each) for each in found] == [
        "versions[2].version: 1.0.0 comes twice. Give each version its own number.",
        "versions[3].version: 0.9.0 comes after 1.0.0. Put the oldest first.",
    ]


def test_all_mistakes_are_told_at_once_and_on_a_line_each() -> None:
    wrong = data(title=1, **{"\x1b[31m\n": 2})
    del wrong["gpu"]
    with pytest.raises(InvalidError) as caught:
        entry.parse(wrong, "x\x1b")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and lines[0] == "x\\x1b is no entry of a registry:"
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff", "codec can't decode"),
        (b'{"a": NaN}', "not JSON compliant"),
        (b'{"a": 1e999}', "not JSON compliant"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"a": 1, "a": 2}', 'the name "a" comes twice'),
        (b"[" * 100_000, "recursion"),
        (b" " * (1 << 20) + b"{}", "larger than 1048576 bytes"),
    ],
)
def test_what_is_no_strict_json(tmp_path: Path, text: bytes, why: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    for read in (entry.read, entry.glance):
        with pytest.raises(InvalidError, match=f"(?s)a.json.*{re.escape(why)}"):
            read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="x.json cannot be read: No such file"):
        entry.read(tmp_path / "x.json")


@pytest.mark.parametrize("path", ["title", "io.outputs[0].name", "backend", "versions[0].files", "licence", "schema"])
def test_a_glance_takes_nothing_of_a_wrong_type(tmp_path: Path, path: str) -> None:
    file = tmp_path / "googlenet.json"
    for value in (..., True, 7.5, [7]):
        file.write_text(json.dumps(changed(path, value)))
        with pytest.raises(InvalidError, match=rf"\n  {re.escape(path)}"):
            entry.glance(file)


# ---- versions


def test_the_newest_version_by_semantic_versioning() -> None:
    assert entry.parse(numbered("1.0.0", "1.9.0", "1.10.0-rc.1", "1.10.0"), "x").newest.version == "1.10.0"
    assert entry.parse(numbered("1.0.0", "2.0.0-rc.2", "2.0.0-rc.10"), "x").newest.version == "1.0.0"
    assert entry.parse(numbered("2.0.0-rc.2", "2.0.0-rc.10"), "x").newest.version == "2.0.0-rc.10"
    assert entry.parse(numbered("1.0.0-a", "1.0.0+b-c"), "x").newest.version == "1.0.0+b-c"


def test_a_version_by_its_number() -> None:
    found = entry.parse(numbered("1.0.0", "1.1.0"), "x")
    assert found.version("1.0.0") is found.versions[0] and found.version() is found.newest
    with pytest.raises(InvalidError, match=r"'squeezenet' has no version 9\\n. It has: 1.0.0, 1.1.0"):
        found.version("9\n")


# ---- several registries


def test_the_first_registry_with_a_name_has_the_say(lab: Callable[..., Path], tmp_path: Path) -> None:
    one = lab("one", data(title="Mine"), data("unet-2d", name="own"))
    two = lab("two", data(title="Theirs"), data("unet-2d", name="own"))
    places = shelves.shelves(site(tmp_path, one, two))
    found, flaws = shelves.everything(places)
    told = {each.entry.name: (each.entry.title, each.shelf.name, each.hidden) for each in found}
    assert told["squeezenet"] == ("Mine", str(one), (str(two), "mh-hpc"))
    assert told["own"][1:] == (str(one), (str(two),))
    assert told["vgg-19"] == ("VGG-19", "mh-hpc", ())
    assert not flaws and len(found) == len(FILES) + 1
    assert shelves.find("squeezenet", places) == next(each for each in found if each.entry.name == "squeezenet")


def test_a_checkout_that_has_its_registry_in_a_folder(lab: Callable[..., Path], tmp_path: Path) -> None:
    lab("repo/registry", data())
    assert shelves.shelves(site(tmp_path, tmp_path / "repo"))[0].folder == tmp_path / "repo/registry"


def test_files_that_are_no_entries_leave_the_others_alone(lab: Callable[..., Path], tmp_path: Path) -> None:
    folder = lab("lab", data())
    (folder / "models/broken.json").write_text("{")
    (folder / "models/other.json").write_text(json.dumps(data()))
    (folder / "models/alexnet.json").write_text(json.dumps(data("alexnet", title=1)))
    os.mkfifo(folder / "models/pipe.json")
    (folder / "models/gone.json").symlink_to("nowhere")
    (folder / "models/README").write_text("hello")
    places = [shelves.Shelf("lab", folder), shelves.shipped()]
    found, flaws = shelves.everything(places)
    assert [str(flaw).partition("\n")[0].rpartition("models/")[2] for flaw in flaws] == [
        "alexnet.json is no entry of a registry:",
        "broken.json is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1).",
        "other.json is an entry of 'squeezenet': the file must be called squeezenet.json.",
    ]
    told = {each.entry.name: each.shelf.name for each in found}
    assert told["squeezenet"] == "lab" and "alexnet" not in told  # rather than another registry's alexnet
    with pytest.raises(InvalidError, match="alexnet.json is no entry"):
        shelves.find("alexnet", places)


def test_a_name_that_no_registry_has(lab: Callable[..., Path], tmp_path: Path) -> None:
    places = shelves.shelves(site(tmp_path, lab("la\nb", data())))
    near = r"No registry has a model 'dentalartifactmodl'. Did you mean 'DentalArtifactModel'\?"
    with pytest.raises(InvalidError, match=near):
        shelves.find("dentalartifactmodl", places)
    with pytest.raises(InvalidError, match=r"model '\.\./models/squeezenet\\x1b'(?s:.*)la\\nb, mh-hpc. To see all"):
        shelves.find("../models/squeezenet\x1b", places)


def test_a_folder_that_is_no_registry(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="empty is no registry: it has neither registry/models nor models"):
        shelves.shelves(site(tmp_path, tmp_path / "empty"))


def test_a_registry_in_git_comes_when_told_and_not_before(tmp_path: Path) -> None:
    own = data("unet-2d", name="own")
    here = {"repository": None, "branch": None, "commit": None, "folder": "contributions/own"}
    own["versions"].append({**own["versions"][0], "version": "1.1.0", "source": here})
    theirs = Repository(tmp_path / "theirs")
    first = theirs.commit(**{"registry/models/own.json": json.dumps(own), "weights.bin": "x" * 999})
    wanted = site(tmp_path, theirs.url)
    with pytest.raises(InvalidError, match="is not here yet. Fetch it, with the network:  mh-hpc models --refresh"):
        shelves.shelves(wanted)
    places = shelves.shelves(wanted, refresh=True)
    found = shelves.find("own", places)
    assert found.shelf.name == theirs.url and places[0].origin
    assert (places[0].origin.repository, places[0].origin.commit) == (theirs.url, first)
    assert found.source(found.entry.versions[0]).repository == "https://github.com/modelhub-ai/unet-2d"
    source = found.source(found.entry.versions[1])
    assert dataclasses.astuple(source) == (theirs.url, None, first, "registry/contributions/own")

    second = theirs.commit(**{"registry/models/own.json": json.dumps({**own, "title": "New"})})
    assert shelves.find("own", shelves.shelves(wanted)).entry.title == "U-Net 2D"
    for _ in range(2):
        places = shelves.shelves(wanted, refresh=True)
        assert shelves.find("own", places).entry.title == "New" and places[0].origin
    assert places[0].origin.commit == second

    (home,) = (tmp_path / "cache/registries").iterdir()
    killed = "import sys; from pathlib import Path; from modelhub_hpc.processes import private_folder as make\n"
    subprocess.run([sys.executable, "-c", f"{killed}make(Path(sys.argv[1]), 'fetch')", home], check=True)
    assert len(list(home.iterdir())) == 3
    shelves.shelves(wanted, refresh=True)
    theirs.folder.rename(tmp_path / "gone")
    with pytest.raises(InvalidError, match="git fetch has failed"):
        shelves.shelves(wanted, refresh=True)
    assert shelves.find("own", shelves.shelves(wanted)).entry.title == "New"
    # neither the commit before nor work that was given up
    assert sorted(path.name for path in home.iterdir()) == sorted([second, "head.json"])


def test_a_branch_of_a_registry_in_git(tmp_path: Path) -> None:
    theirs = Repository(tmp_path / "theirs", branch="main")
    theirs.commit(**{"models/squeezenet.json": json.dumps(data(title="main"))})
    theirs("switch", "--quiet", "--create", "next")
    theirs.commit(**{"models/squeezenet.json": json.dumps(data(title="next"))})
    theirs("switch", "--quiet", "main")
    found = {
        place: shelves.find("squeezenet", shelves.shelves(site(tmp_path, place), refresh=True)).entry.title
        for place in (theirs.url, f"{theirs.url}#next")
    }
    assert found == {theirs.url: "main", f"{theirs.url}#next": "next"}


def test_a_repository_without_a_registry(tmp_path: Path) -> None:
    theirs = Repository(tmp_path / "theirs")
    theirs.commit(README="hello")
    with pytest.raises(InvalidError, match="is no registry"):
        shelves.shelves(site(tmp_path, theirs.url), refresh=True)


# ---- a whole registry


def test_what_the_files_of_a_registry_must_agree_on(lab: Callable[..., Path]) -> None:
    here = {"repository": None, "branch": None, "commit": None, "folder": "contributions/own"}
    own = data("unet-2d", name="own", id=UUID.upper())
    own["versions"][0]["source"] = here
    folder = lab("lab", own, data(), data("vgg-19"))
    (folder / "models/vgg-19.json").rename(folder / "models/VGG.json")
    (folder / "models/x.json").write_text("{")
    found = [(path.name, each.path, str(each)) for path, each in checks.problems(shelves.Shelf("lab", folder))]
    assert [each[:2] for each in found] == [
        ("VGG.json", "name"),
        ("own.json", "versions[0].source.folder"),
        ("squeezenet.json", "id"),
        ("x.json", ""),
    ]
    assert "Call the file vgg-19.json" in found[0][2]
    assert "no contribution in contributions/own" in found[1][2]
    assert "is that of own.json too. Give each model a UUID of its own" in found[2][2]
    assert "strict JSON in UTF-8" in found[3][2]
    (folder / "contributions/own/contrib_src").mkdir(parents=True)
    assert len(list(checks.problems(shelves.Shelf("lab", folder)))) == 3


# ---- search


ALL = [entry.glance(path) for path in FILES]


def names(**wanted: Any) -> set[str]:
    return {each.name for each in ALL if search.matches(each, search.Wanted(**wanted))}


def test_every_word_must_be_somewhere_whatever_its_case() -> None:
    assert names(words=("LIVER",)) == {"cascaded-fcn-liver"}
    assert names(words=("brats", "DenseLY")) == {"deepscan-brats"}  # one in the name, one in the description
    assert {"squeezenet", "vgg-19"} <= names(words=("imagenet", "onnx")) and not names(words=("imagenet", "liver"))
    assert "lfb-rwth-brats" in names(words=("oedema",))  # a label of its output
    assert names(words=()) == {each.name for each in ALL}


def test_filters() -> None:
    assert names(backend="CAFFE") == {"alexnet", "googlenet", "cascaded-fcn-liver"}
    assert not names(backend="caf")
    assert {"cardiac-fcn", "cascaded-fcn-liver"} <= names(mime="dicom") == names(mime="application/DICOM")
    assert "vgg-19" not in names(mime="dicom")
    assert names(modality="ct") >= {"deep-prognosis", "cascaded-fcn-liver", "DentalArtifactModel"}
    assert "vgg-19" not in names(modality="ct")  # which 'architecture' holds
    assert names(task="segmentation") >= {"duc-semantic", "unet-2d"}
    assert {"mic-dkfz-brats", "deepscan-brats"} <= names(gpu=True)
    assert names(gpu=False) == {each.name for each in ALL if not each.gpu.required}
    assert names(words=("brats 2018",), gpu=False) == {"lfb-rwth-brats"}


def test_words_that_no_model_has() -> None:
    assert search.nearest(("livr", "onnx", "Qqqq"), ALL) == {"livr": "liver", "qqqq": None}


# ---- citations


def cited(**reference: Any) -> str:
    made = data()
    made["reference"] = {**made["reference"], **reference}
    found = citation.bibtex(entry.parse(made, "x"))
    assert found and found.count("{") - found.count(r"\{") == found.count("}") - found.count(r"\}")
    return found


def test_bibtex_is_made_of_what_is_known() -> None:
    assert cited(authors=["Forrest N. Iandola", "Song Han"]) == (
        "@misc{squeezenet-2016,\n"
        "  title = {{SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size}},\n"
        "  author = {Forrest N. Iandola and Song Han},\n"
        "  howpublished = {arXiv},\n"
        "  year = {2016},\n"
        "  eprint = {1602.07360},\n"
        "  archivePrefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/1602.07360},\n"
        "}"
    )
    bare = cited(source=None, year=None, url=None, arxiv=None)
    assert bare.splitlines()[0] == "@misc{squeezenet," and len(bare.splitlines()) == 3
    assert cited(source="PLOS Medicine", arxiv=None).startswith("@article{squeezenet-2016,")
    assert "  booktitle = {Brainlesion Workshop},\n" in cited(source="Brainlesion Workshop")


def test_bibtex_of_the_authors_is_left_as_it_is_and_hostile_text_ends_no_field() -> None:
    own = "@article{key,\n  title = {A}\n}\n"
    assert cited(bibtex=own) == own
    found = cited(title="50% {of} R&D_\\x}\n@misc{y", url="https://a/{b}\\c", doi="10.1234/a_b")
    assert r"title = {{50\% \{of\} R\&D\_\textbackslash{}x\} @misc\{y}}," in found
    assert "url = {https://a/%7Bb%7D%5Cc}," in found and r"doi = {10.1234/a\_b}," in found


def test_a_model_without_a_publication_has_no_citation() -> None:
    assert citation.bibtex(entry.parse(copy.deepcopy(data(reference=None)), "x")) is None
