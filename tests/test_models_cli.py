"""mh-hpc models, search, show and registry: what they say, where, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gitkit import Repository
from grounds import REPO

from modelhub_hpc import cli

OURS = REPO / "registry"
NAMES = {path.stem for path in (OURS / "models").glob("*.json")}
HOSTILE = "a\x1b[31mb\r\nc\x9bd\u202ee"


def data(which: str = "squeezenet", /, **changes: Any) -> dict[str, Any]:
    """A published entry, with changes."""
    found: dict[str, Any] = json.loads((OURS / f"models/{which}.json").read_bytes())
    return {**found, **changes}


def lab(folder: Path, *entries: dict[str, Any]) -> Path:
    (folder / "models").mkdir(parents=True)
    for each in entries:
        (folder / "models" / f"{each['name']}.json").write_text(json.dumps(each))
    return folder


@pytest.fixture
def mh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run `mh-hpc ...` in tmp_path; what it printed, or answered with --json, after a look at its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MH_HPC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(name, str(tmp_path / "etc"))

    def run(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main(list(map(str, arguments))) == code
        said = capsys.readouterr()
        return json.loads(said.out) if "--json" in arguments else said.out + said.err

    return run


# ---- models


def test_the_list_has_every_model_and_what_decides(mh: Callable[..., Any]) -> None:
    head, *rows, last = mh("models").splitlines()
    assert head.split() == ["model", "version", "backend", "GPU", "task"]
    assert {row.split()[0] for row in rows} == NAMES
    row = next(row for row in rows if row.startswith("deepscan-brats"))
    assert row.split(maxsplit=4)[1:] == [
        "1.0.0",
        "pytorch",
        "needed",
        "Brain tumor segmentation for the BraTS 18 challenge",
    ]
    assert last == f"{len(NAMES)} models. More of one:  mh-hpc show MODEL"


def test_the_list_as_json_has_whole_entries(mh: Callable[..., Any]) -> None:
    told = {each["name"]: each for each in mh("models", "--json")}
    assert set(told) == NAMES
    assert told["vgg-19"] == {**data("vgg-19"), "registry": "mh-hpc", "also_in": []}


def test_a_registry_beside_ours_goes_first_and_is_named(mh: Callable[..., Any], tmp_path: Path) -> None:
    folder = lab(tmp_path / "lab", data(task_extended="Ours is better"), data("unet-2d", name="own"))
    (folder / "models/bad.json").write_text("{}")
    said = mh("models", "--registry", "lab")
    rows = {line.split()[0]: line for line in said.splitlines()}
    assert rows["squeezenet"].split("  ")[-1] == f"{folder} (also in mh-hpc)" and "Ours is better  " in said
    assert rows["own"].endswith(f"  {folder}") and rows["vgg-19"].endswith("  mh-hpc")
    assert "left out: " in said and "bad.json is no entry of a registry:\n  schema: is missing." in said
    told = {each["name"]: each for each in mh("models", "--json", "--registry", folder)}
    assert (told["squeezenet"]["registry"], told["squeezenet"]["also_in"]) == (str(folder), ["mh-hpc"])


def test_registries_of_the_configuration(mh: Callable[..., Any], tmp_path: Path) -> None:
    one, two = (lab(tmp_path / name, data("unet-2d", name=f"of-{name}")) for name in ("one", "two"))
    (tmp_path / "mh-hpc.yaml").write_text(f"registries: [{one}, two]\n")
    assert {"of-one", "of-two"} <= {each["name"] for each in mh("models", "--json")}
    assert "of-one" not in {each["name"] for each in mh("models", "--json", "--registry", two)}


def test_a_registry_in_git(mh: Callable[..., Any], tmp_path: Path) -> None:
    theirs = Repository(tmp_path / "the irs")
    theirs.commit(**{"models/own.json": json.dumps(data("unet-2d", name="own"))})
    url = theirs.url.replace(" ", "%20")
    assert "is not here yet" in mh("models", "--registry", url, code=4)
    assert "own" in {each["name"] for each in mh("models", "--json", "--refresh", "--registry", url)}
    assert mh("show", "own", "--json", "--registry", url)["registry"] == url


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("https://user:secret@host/x", "an address without a password"),
        ("--upload-pack=x", "a folder or the address"),
        ("nowhere", "nowhere is no registry"),
    ],
)
def test_places_that_can_be_no_registry(mh: Callable[..., Any], place: str, why: str) -> None:
    assert why in mh("models", f"--registry={place}", code=4 if place == "nowhere" else 2)


def test_a_git_address_that_git_does_not_take(mh: Callable[..., Any]) -> None:
    assert "address" in mh("models", "--refresh", "--registry", "ext::sh -c 'touch x'://", code=4)


# ---- search


def test_search_finds_by_words_and_filters(mh: Callable[..., Any]) -> None:
    assert [each["name"] for each in mh("search", "--json", "Liver", "contour")] == ["cascaded-fcn-liver"]
    filters = ("--task", "segmentation", "--backend", "pytorch", "--input", "nii", "--modality", "mri")
    assert {"mic-dkfz-brats", "deepscan-brats"} <= {each["name"] for each in mh("search", "--json", *filters, "--gpu")}
    assert "lfb-rwth-brats" in (few := {each["name"] for each in mh("search", "--json", *filters, "--no-gpu")})
    assert not few & {"mic-dkfz-brats", "deepscan-brats"}
    assert mh("search", "liver").splitlines()[1].startswith("cascaded-fcn-liver  1.0.0")


def test_search_that_finds_nothing(mh: Callable[..., Any]) -> None:
    assert mh("search", "livr", "\x1bqqq", code=3) == (
        "No model has 'livr' (did you mean 'liver'?), nor '\\x1bqqq'.\n"
    )
    assert mh("search", "liver", "--backend", "onnx", code=3) == "No model has all of that.\n"
    assert mh("search", "--json", "livr", code=3) == []


def test_search_for_nothing(mh: Callable[..., Any]) -> None:
    assert "Say what to look for" in mh("search", code=2)


# ---- show


def test_a_card(mh: Callable[..., Any]) -> None:
    said = mh("show", "mic-dkfz-brats")
    for line in (
        "MIC DKFZ brain tumour segmentation (mic-dkfz-brats 1.0.0)\nSegments the parts of a glioma",
        "\ninput     t1, t1c, t2, flair: application/nii-gzip; 155-240 x 155-240 x 155-240; One MR sequence",
        "\noutput    Segmentation: mask_image; axes z,y,x; 0 background, 1 necrotic",
        "\nruns on   pytorch, Python 3.5, PyTorch 0.4.1, batchgenerators 0.18.1, CUDA 9.1\n",
        "\nGPU       needed; image with CUDA 9.1; made for GPUs up to sm_70\n",
        "\nlicence   not known\n",
        "\nWhat to know\n  - Its notebook writes into its sample_data folder.\n",
        "\n  files     5 downloads, none with a sha256\n",
        "\n  No new-net. International MICCAI Brainlesion Workshop, 2018\n",
        "\n\nTo have it here:  mh-hpc pull mic-dkfz-brats\n",
    ):
        assert line in said
    assert "Accuracy" not in said and "None" not in said


def test_cards_of_other_kinds(mh: Callable[..., Any]) -> None:
    said = mh("show", "squeezenet")
    assert "\n  top-1 accuracy in %  ILSVRC2012 validation  57.5       55.996      50,000\n" in said
    assert "\ninput     image/png, image/jpg, image/jpeg; 1-4 x >=32 x >=32\n" in said
    assert "\ntakes     0.0382 s per case (CPU; of which kind was not recorded)\n" in said
    assert "Needs the network to predict (--allow-network): It downloads" in mh("show", "cxr-risk")
    assert mh("show", "digits-cnn").endswith("\nIt is here:  mh-hpc run digits-cnn FILE\n")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_model_has_a_card(mh: Callable[..., Any], name: str) -> None:
    assert f" ({name} " in mh("show", name).splitlines()[0]
    assert mh("show", name, "--json")["name"] == name


def test_versions_side_by_side(mh: Callable[..., Any], tmp_path: Path) -> None:
    first = data()["versions"][0]
    second = {**first, "version": "1.1.0", "image": {**first["image"], "digest": f"sha256:{'ab' * 32}"}}
    lab(tmp_path / "lab", data(versions=[first, second]))
    said = mh("show", "squeezenet", "--registry", "lab")
    assert said.startswith("SqueezeNet (squeezenet 1.1.0)\n")
    heads, *rows = said.partition("\nVersions\n")[2].partition("\n\n")[0].splitlines()
    assert heads.split() == ["1.1.0", "1.0.0"]
    cells = {name: rest for name, *rest in (re.split(r"  +", row.strip()) for row in rows)}
    assert cells["digest"] == ["sha256:abababababab", "not recorded"]
    assert cells["source"] == ["https://github.com/modelhub-ai/squeezenet"] * 2
    said = mh("show", "squeezenet@1.0.0", "--registry", "lab")
    assert said.startswith("SqueezeNet (squeezenet 1.0.0)\n") and "pull squeezenet@1.0.0\n" in said
    assert "has no version 2.0.0. It has: 1.0.0, 1.1.0." in mh("show", "squeezenet@2.0.0", "--registry", "lab", code=4)


def test_what_show_answers_to_programs(mh: Callable[..., Any]) -> None:
    told = mh("show", "vgg-19", "--json")
    cited = mh("show", "vgg-19", "--bibtex")
    assert told == {
        **data("vgg-19"),
        "registry": "mh-hpc",
        "also_in": [],
        "shown": "1.0.0",
        "bibtex": cited.rstrip("\n"),
    }
    assert cited.startswith("@misc{vgg-19-2015,\n  title = {{Very Deep Convolutional")
    assert "knows no publication of 'digits-cnn'" in mh("show", "digits-cnn", "--bibtex", code=4)


def test_an_unknown_model(mh: Callable[..., Any]) -> None:
    assert "Did you mean 'squeezenet'?" in mh("show", "squezenet", code=4)


def test_texts_of_a_registry_cannot_command_a_terminal(mh: Callable[..., Any], tmp_path: Path) -> None:
    evil = data("mic-dkfz-brats", description=HOSTILE, task=HOSTILE, task_extended=HOSTILE, modality=HOSTILE)
    evil["io"]["inputs"][0].update(key=HOSTILE, description=HOSTILE)
    evil["io"]["outputs"][0].update(name=HOSTILE, labels={"0": HOSTILE})
    evil["quirks"].update(network=HOSTILE, notes=[HOSTILE])
    evil["reference"].update(title=HOSTILE, authors=[HOSTILE], source=HOSTILE, bibtex=f"@{HOSTILE}")
    evil["licence"] = {"model": HOSTILE, "sample_data": HOSTILE}
    evil["resources"].update(seconds_per_case=1, hardware=HOSTILE)
    evil["accuracy"] = [{**data()["accuracy"][0], "metric": HOSTILE, "dataset": HOSTILE}]
    evil["versions"][0]["image"].update(base=HOSTILE, holds=[HOSTILE])
    folder = lab(tmp_path / "la\x1b[31mb", evil)
    (folder / "models/\x1b\n.json").write_text('{"\x1b": 1}')
    named = ("--registry", folder)
    for command, code in (
        (("models", *named), 0),
        (("search", "brats", *named), 0),
        (("show", "mic-dkfz-brats", *named), 0),
        (("show", "mic-dkfz-brats", "--bibtex", *named), 0),
        (("registry", "validate", folder), 4),
    ):
        said = mh(*command, code=code)
        assert "\\x1b" in said and all(line.isprintable() for line in said.split("\n")), command


# ---- registry validate


def test_validate_says_every_mistake_with_its_mend(mh: Callable[..., Any], tmp_path: Path) -> None:
    wrong = data(title=None, tittle="x")
    lab(tmp_path / "lab", wrong, data("vgg-19"))
    path = "lab/models/squeezenet.json"
    assert mh("registry", "validate", "lab", code=4).splitlines() == [
        "2 files, 2 problems",
        f"{path}: title: null is not of type string. The model's name for people, on one line. "
        'Example: "SqueezeNet".',
        f"{path}: tittle: there is no such property. Did you mean 'title'?",
    ]
    told = mh("registry", "validate", "lab", "--json", code=4)
    assert (told["registry"], told["entries"]) == ("lab", 2)
    assert told["problems"][1] == {
        "file": path,
        "path": "tittle",
        "rule": "there is no such property",
        "mend": "Did you mean 'title'?",
    }


def test_validate_of_what_is_right(mh: Callable[..., Any]) -> None:
    assert mh("registry", "validate", OURS) == f"{len(NAMES)} files, 0 problems\n"
    assert mh("registry", "validate", REPO, "--json")["problems"] == []


def test_validate_of_what_is_no_registry(mh: Callable[..., Any], tmp_path: Path) -> None:
    assert "is no registry" in mh("registry", "validate", tmp_path, code=4)


# ---- start


def test_lists_need_nothing_that_is_slow_to_start() -> None:
    program = (
        "import sys; from modelhub_hpc import cli; code = cli.main(sys.argv[1:])\n"
        "print(sorted({'numpy', 'dask', 'h5py', 'rich', 'requests', 'jsonschema', 'PIL'} & set(sys.modules)), code)"
    )
    for command in (["models"], ["search", "liver"]):
        done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[] 0"
