"""What is said of a contribution that is not right: by its configuration here, by its files below."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from bright import config

from modelhub_hpc.contributing import configs
from modelhub_hpc.contributing.findings import Finding

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
