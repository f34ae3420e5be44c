"""Answers of a model as they come over the pipe."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest

from modelhub_hpc.record import LabelList
from modelhub_hpc.wire import Answers


def done(*outputs: dict[str, Any]) -> dict[str, Any]:
    common = {"name": "o", "type": "label_list", "shape": [2]}
    return {"type": "done", "id": "a", "outputs": [{**common, **output} for output in outputs]}


def doubles(*values: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}d", *values)).decode()


def value(answers: Answers, message: dict[str, Any], position: int = 0) -> Any:
    return answers.reply(message, Path("/"), 1).outputs[position].value


def test_labels_stay_known_for_each_output() -> None:
    answers = Answers()
    first = {"labels": ["yes", "no"], "probabilities": doubles(0.25, 0.75)}
    second = {"labels": ["up"], "probabilities": doubles(1e-300)}
    assert value(answers, done(first, second)) == LabelList(("yes", "no"), (0.25, 0.75))
    again = done({"probabilities": doubles(0.5, 0.5)}, {"probabilities": doubles(-0.0)})
    assert value(answers, again) == LabelList(("yes", "no"), (0.5, 0.5))
    assert value(answers, again, 1) == LabelList(("up",), (-0.0,))
    assert answers.reply(again, Path("/"), 1).outputs[0].prediction == [
        {"label": "yes", "probability": 0.5},
        {"label": "no", "probability": 0.5},
    ]


@pytest.mark.parametrize(
    "output",
    [
        {"probabilities": doubles(1.0)},  # of labels that were never told
        {"labels": ["a"], "probabilities": doubles(1.0, 2.0)},
        {"labels": ["a"], "probabilities": "no base64"},
        {"labels": ["a"], "probabilities": doubles(float("nan"))},
        {"labels": ["a", "b"], "probabilities": doubles(float("inf"), float("-inf"))},
        {"labels": 5, "probabilities": doubles(1.0)},
        {},
    ],
)
def test_a_list_that_is_none_is_refused(output: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        value(Answers(), done(output))


@pytest.mark.parametrize("batch", [0, -1, 3, 1.5, True, "2", None])
def test_a_batch_that_nobody_asked_for_is_refused(batch: object) -> None:
    with pytest.raises(ValueError, match="2 cases were asked for together"):
        Answers().reply({**done(), "batch": batch}, Path("/"), 2)
