"""One case at a time in a worker that serves: its session stays warm from one to the next."""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelhub_hpc import request
from modelhub_hpc.errors import MachineError
from modelhub_hpc.plan import Case
from modelhub_hpc.predict import Predicted, Predictor
from modelhub_hpc.record import ArrayOutput, CaseResult, RunPaths
from modelhub_hpc.session import StartError
from modelhub_hpc.workplace import HERE, HandedBack


@dataclass(frozen=True)
class Answer:
    """What a model said of one case: the result, and its arrays, which are in memory, by the outputs' names."""

    result: CaseResult
    arrays: Mapping[str, ArrayOutput]


def answer(predicted: Predicted) -> Answer:
    """The same with copies of its arrays, which lie in files of the session that the next case takes away."""
    result, arrays = predicted
    return Answer(
        result,
        {
            name: ArrayOutput(np.array(output.array), output.type, output.description, output.attributes)
            for name, output in arrays.items()
        },
    )


def predict_case(root: str, case: Case) -> Answer:
    """Predict a case in this worker of the run in folder `root`. Raises HandedBack if the worker has to leave."""
    with HERE.busy:
        if HERE.must_leave():
            raise HandedBack(f"{HERE.name} takes no more cases")
        began = time.monotonic()
        try:
            (found,) = [answer(each) for each in _predictor(root).predict([(0, case)])]
        except (StartError, MachineError):
            HERE.leave()  # nothing better is to be expected here, and other nodes may do
            raise
        HERE.took(time.monotonic() - began)
        HERE.must_leave()  # so that nothing is sent here any more
        return found


_serving: dict[str, Predictor] = {}  # the one run that this process works for


def _predictor(root: str) -> Predictor:
    if root not in _serving:
        paths = RunPaths(Path(root))
        _serving[root] = Predictor(request.read(paths), paths.logs)
    return _serving[root]


@atexit.register
def close() -> None:
    """End this process's session, if it has one."""
    while _serving:
        _serving.popitem()[1].close()
