"""Outputs judged by what config.json promises, and compared with others: pure, so without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelhub_hpc.contributing import expected, reasons
from modelhub_hpc.contributing.expected import EXACT, Tolerance, differences
from modelhub_hpc.contributing.seen import Seen, _shape, broken_promises
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import InvalidError


def output(kind: str, value: Any) -> Seen:
    return Seen("out", kind, value, value.shape if isinstance(value, np.ndarray) else _shape(value))


def broken(kind: str, value: Any, axes: str = "") -> list[str]:
    return [what for what, _ in broken_promises([output(kind, value)], [OutputSpec("out", kind, "", axes)])]


def label(probability: Any) -> dict[str, Any]:
    return {"label": "a", "probability": probability}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("label_list", [label(0.0), label(1), label(1.0000001)]),
        ("vector", np.zeros((1, 7))),
        ("vector", [0.5] * 512),
        ("vector", [[0.5] * 512]),
        ("mask_image", np.zeros((4, 4, 3), "uint8")),
        ("mask_image", np.full((2, 4, 4), 3.0)),
        ("mask_image", [[0, 1], [1, 0]]),
        ("heatmap", np.full((4, 4), 0.5)),
        ("image", np.zeros((155, 240, 240))),
        ("contour", [[1, 2], [3, 4.5]]),
        ("contour", [[[1, 2, 3]], [[3, 4, 5]]]),
        ("contour", []),
        ("custom", {"a": 1}),
        ("ndarray", np.zeros(3)),
    ],
)
def test_outputs_as_promised(kind: str, value: Any) -> None:
    assert broken(kind, value) == []


@pytest.mark.parametrize(
    ("kind", "value", "axes", "what"),
    [
        ("label_list", np.zeros((1, 10), "float32"), "", "it is a float32 array of shape [1, 10]"),
        ("label_list", [[0.5] * 4], "", "it is a list of shape [1, 4]"),
        ("label_list", [{"name": "a"}], "", 'its element 0 is no {"label", "probability"}'),
        ("label_list", [label(1), label(None)], "", "the probability of 'a' is not a finite number"),
        ("label_list", [label(3.7)], "", "the probability of 'a' is 3.7, outside of 0 to 1"),
        ("label_list", [], "", "it is empty"),
        ("vector", np.zeros((2, 3)), "", "it is a float64 array of shape [2, 3]"),
        ("vector", [[0.5, None]], "", "some of its values are not finite"),
        ("mask_image", np.zeros(16), "", "it is a float64 array of shape [16]"),
        ("mask_image", np.full((4, 4), 0.5), "", "its values are no whole numbers"),
        ("mask_image", np.zeros((4, 4)), "z,y,x", "where config.json names the axes z,y,x"),
        ("heatmap", np.zeros((0, 4)), "", "it is empty"),
        ("mask_image", np.zeros((4, 4), "V3"), "", "its values are no whole numbers"),
        ("contour", np.zeros((0, 2)), "", "it is empty"),
        ("contour", [["a", "b"]], "", "it is no list of points"),
        ("contour", [[]], "", "it is empty"),
        ("custom", None, "", "the model returned None"),
    ],
)
def test_outputs_that_are_not_as_promised(kind: str, value: Any, axes: str, what: str) -> None:
    (found,) = broken(kind, value, axes)
    assert found.startswith(f"the output 'out' is a {kind}, but ") and what in found


def compared(a: Any, b: Any, tolerance: Tolerance = EXACT) -> list[str]:
    return list(differences([output("custom", a)], [output("custom", b)], tolerance))


NAN = float("nan")


@pytest.mark.parametrize(
    "value", [np.array([1.0, NAN, np.inf]), [1, "a", {"b": None}], [NAN], np.array([True]), np.array([b"a"], "V1")]
)
def test_what_is_the_same_does_not_differ(value: Any) -> None:
    assert compared(value, value) == []


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        (np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]), "in 1 of 2 values, most at [0, 1]: 2.0 instead of 4.0"),
        (np.array([1.0, NAN]), np.array([1.0, 2.0]), "differs in 1 of 2 values, most at [1]: nan instead of 2.0"),
        (np.array([NAN]), np.array([NAN]) * -1, None),  # other bits, the same
        (np.zeros(2), np.zeros(3), "has the shape [2] instead of [3]"),
        (np.zeros(2), np.zeros(2, "float32"), "is of type float64 instead of float32"),
        (np.zeros(2), [0.0, 0.0], "is a float64 array of shape [2] instead of a list of shape [2]"),
        ([{"p": 0.5}], [{"p": 0.25}], "is 0.5 instead of 0.25 at [0].p"),
        ([True], [1], "is true instead of 1 at [0]"),
        ({"a": 1}, {"b": 1}, 'is {"a": 1} instead of {"b": 1}'),
    ],
)
def test_differences_are_told_by_place_and_value(a: Any, b: Any, what: str | None) -> None:
    found = compared(a, b)
    assert (not found) if what is None else (len(found) == 1 and what in found[0])


def test_a_tolerance_allows_what_it_says_and_no_more() -> None:
    allowed = Tolerance(absolute=0.1, relative=0.01)
    assert compared([100.0], [101.0], allowed) == compared(np.array([100.0]), np.array([101.0]), allowed) == []
    assert compared([100.0], [102.0], allowed) and compared(np.array([100.0]), np.array([102.0]), allowed)


def test_expected_outputs_are_read_as_they_were_written_and_keep_their_tolerance(tmp_path: Path) -> None:
    (tmp_path / "sample_data").mkdir()
    outputs = [Seen("a b/c", "vector", [1.5, None], (2,)), Seen("m", "mask_image", np.arange(6).reshape(2, 3), (2, 3))]
    assert expected.read(tmp_path, "x.png") is None
    expected.write(tmp_path, "x.png", outputs)
    path = tmp_path / "sample_data/expected/x.png.json"
    path.write_text(path.read_text().replace("1e-05", "0.5"))
    expected.write(tmp_path, "x.png", outputs)
    found = expected.read(tmp_path, "x.png")
    assert found is not None and found.tolerance == Tolerance(0.5, 1e-4)
    assert list(differences(outputs, found.outputs, EXACT)) == []


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"outputs": [{"name": "a", "type": "b", "file": "../../etc/passwd"}]}',
     '{"outputs": [{"name": "a", "type": "b", "file": "gone.npy"}]}', '{"tolerance": {"atol": 1}, "outputs": []}'],
)  # fmt: skip
def test_expected_outputs_that_cannot_be_used_are_refused(tmp_path: Path, text: str) -> None:
    place = tmp_path / "sample_data/expected"
    place.mkdir(parents=True)
    (place / "x.json").write_text(text)
    with pytest.raises(InvalidError, match="--update-expected"):
        expected.read(tmp_path, "x")


@pytest.mark.parametrize(
    ("text", "check", "what"),
    [
        ("urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>", "offline", "phones"),
        ("OSError: [Errno 30] Read-only file system: '/temp/a'", "read-only", "may write to: /temp/a"),
        ("OSError: [Errno 30] Read-only file system: u'/temp/a'", "read-only", "may write to: /temp/a"),
        ("IOError: [Errno 13] Permission denied: 'model/w.h5'", "read-only", "file or folder: model/w.h5"),
        ("  self.socket.bind(address)\nPermissionError: [Errno 13] Permission denied", "no root", "port"),
        ("  os.chown(path, 0, 0)\nOSError: [Errno 22] Invalid argument: '/tmp/a'", "no root", "root"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'sudo'", "no root", "root"),
        ("ValueError: [Errno 22] of something", None, ""),
    ],
)
def test_why_a_model_failed(text: str, check: str | None, what: str) -> None:
    found = reasons.find(text)
    assert (found and found.check) == check
    assert found is None or what in found.what


def test_a_tolerance_is_proposed(tmp_path: Path) -> None:
    (tmp_path / "sample_data").mkdir()
    (path,) = expected.write(tmp_path, "x", [Seen("a", "vector", [0.1], (1,))])
    assert json.loads(path.read_text())["tolerance"] == {"absolute": 1e-5, "relative": 1e-4}
