"""Who is to blame: cases in a warm session that ends under them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from grounds import OBEDIENT, Write

from modelhub_hpc import run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.config.kinds import BatchSize
from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.predict import Predictor
from modelhub_hpc.record import CaseResult


def predict(folder: Path, model: Path = OBEDIENT, batch_size: str = "1") -> dict[str, CaseResult]:
    """The results of all inputs that were written, in the order of their names, on the host."""
    site = SiteConfig(runtime="host", case_timeout_s=10.0, batch_size=BatchSize(batch_size))
    asked = run.Asked(str(model), (str(folder / "inputs"),), site)
    planned = run.plan(asked)
    predictor = Predictor(planned.run, None)
    try:
        found = [result for result, _ in predictor.predict(enumerate(planned.found.cases))]
    finally:
        predictor.close()
    assert sorted(r.index for r in found) == list(range(len(planned.found.cases)))
    return {result.case_id: result for result in found}


def test_a_crash_is_tried_once_more_and_charged(command: Write, tmp_path: Path) -> None:
    for name, text in {"a": "OK 1", "b": "SEGV", "c": "OK 3", "d": "FAIL", "e": "OK 5"}.items():
        command(text, name)
    results = predict(tmp_path)
    assert [results[name].status for name in "abcde"] == ["done", "failed", "done", "failed", "done"]
    crash, failure = results["b"].error, results["d"].error
    assert crash and crash.kind == "crash" and results["b"].attempts == 2
    assert failure and failure.kind == "model" and results["d"].attempts == 1


def test_an_image_that_goes_away_is_nobodys_fault(command: Write, tmp_path: Path) -> None:
    command("OK 1", "a")
    command(f"BUS {tmp_path / 'marker'}", "b")
    command("OK 3", "c")
    results = predict(tmp_path)
    assert {r.status for r in results.values()} == {"done"}
    assert {r.attempts for r in results.values()} == {1}


def test_an_image_that_stays_away_stops_the_run(command: Write, tmp_path: Path) -> None:
    command("BUS", "a")
    with pytest.raises(TryAgainError, match="went away 4 times in a row.*SIGBUS"):
        predict(tmp_path)


def test_refused_inputs_need_no_answer(command: Write, tmp_path: Path) -> None:
    command("OK 1", "a")
    for name in ("b", "c"):
        (tmp_path / f"inputs/{name}.npy").write_bytes(b"")
    results = predict(tmp_path)
    assert [results[name].status for name in "abc"] == ["done", "failed", "failed"]
    error = results["b"].error
    assert error and error.kind == "input" and "b.npy" in error.message and results["b"].attempts == 0


TOGETHER = """
    def infer_batch(self, inputs):
        # every answer says with how many it was computed
        return [[len(inputs), *self.infer(each)] for each in inputs]
"""


@pytest.fixture
def together(tmp_path: Path) -> Path:
    """The obedient model, which computes several cases together."""
    folder = tmp_path / "together"
    shutil.copytree(OBEDIENT, folder)
    with (folder / "contrib_src/inference.py").open("a") as stream:
        stream.write(TOGETHER)
    return folder


def answers(results: dict[str, CaseResult]) -> list[object]:
    return [each.outputs[0].prediction if each.outputs else None for each in results.values()]


def test_cases_are_computed_together(command: Write, tmp_path: Path, together: Path) -> None:
    for name in "abcdefgh":
        command(f"OK {ord(name)}", name)
    results = predict(tmp_path, together, "3")
    sizes = [3, 3, 3, 3, 3, 3, 2, 2]
    assert answers(results) == [[n, ord(name), 2 * ord(name)] for n, name in zip(sizes, "abcdefgh")]
    assert all(result.attempts == 1 and not result.notes for result in results.values())


def test_auto_finds_a_size(command: Write, tmp_path: Path, together: Path) -> None:
    for number in range(300):
        command("SLEEP 0.001 1" if number % 2 else "OK 1", f"c{number:03d}")
    sizes = [each[0] for each in answers(predict(tmp_path, together, "auto")) if isinstance(each, list)]
    assert len(sizes) == 300 and sizes[:2] == [1, 1] and 2 in sizes


def test_a_model_that_takes_one_at_a_time_is_given_one_at_a_time(command: Write, tmp_path: Path) -> None:
    for name in "abcde":
        command(f"OK {ord(name)}", name)
    assert answers(predict(tmp_path, batch_size="4")) == [[ord(name), 2 * ord(name)] for name in "abcde"]


def test_the_case_that_ends_a_batch_is_found(command: Write, tmp_path: Path, together: Path) -> None:
    for name in "abcdefghi":
        command("SEGV" if name == "c" else "FAIL" if name == "g" else "OK 7", name)
    results = predict(tmp_path, together, "4")
    kinds = {name: result.error.kind for name, result in results.items() if result.error}
    assert kinds == {"c": "crash", "g": "model"}
    assert {name for name, result in results.items() if result.attempts != 1} == {"c"}
    alone = [each == [7, 14] for each in answers(results)]
    # those beside c, then those beside g; h and i were together
    assert alone == [True, True, False, True, True, True, False, False, False]


def test_requests_and_answers_larger_than_a_pipe_pass_each_other(
    command: Write, tmp_path: Path, together: Path
) -> None:
    """A host that waits to write while the model waits to answer would wait for ever."""
    names = [f"{'n' * 60}{number:04d}" for number in range(600)]
    for name in names:
        command("OK 1", name)
    inference = together / "contrib_src/inference.py"
    inference.write_text(inference.read_text().replace("len(inputs), *self.infer(each)", "'x' * 5000"))
    assert answers(predict(tmp_path, together, "250")) == [["x" * 5000]] * 600
