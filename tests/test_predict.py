"""Who is to blame: cases in a warm session that ends under them."""

from __future__ import annotations

from pathlib import Path

import pytest
from grounds import OBEDIENT, Write

from modelhub_hpc import run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.predict import Predictor
from modelhub_hpc.record import CaseResult


def predict(folder: Path) -> dict[str, CaseResult]:
    """The results of all inputs that were written, in the order of their names, on the host."""
    asked = run.Asked(str(OBEDIENT), (str(folder / "inputs"),), SiteConfig(runtime="host", case_timeout_s=10.0))
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
