"""The driver, seen from inside: its beginning and end, and what it keeps in between."""

from __future__ import annotations

import os
import shutil
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from grounds import OBEDIENT, Write

from modelhub_hpc import owner, run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError, TryAgainError
from modelhub_hpc.executors.pool import InlineExecutor


@pytest.fixture
def planned(command: Write, tmp_path: Path) -> run.Planned:
    for number in range(3):
        command(f"OK {number}", f"n{number}")
    (tmp_path / "inputs/notes.txt").write_text("not an input")
    asked = run.Asked(
        str(OBEDIENT), (str(tmp_path / "inputs"),), SiteConfig(runtime="host"), tmp_path / "run"
    )
    return run.plan(asked)


def test_a_run_that_was_killed_before_it_had_a_run_json_can_begin(planned: run.Planned) -> None:
    run.begin(planned)
    planned.paths.run_json.unlink()
    (planned.paths.root / ".run.json.0123.part").write_text("{")
    assert run.begin(planned).cases == 3
    assert planned.paths.run_json.exists()


def test_two_drivers_cannot_begin_one_run(planned: run.Planned) -> None:
    planned.paths.create()
    mine = owner.acquire(planned.paths.private, "Run")
    with pytest.raises(TryAgainError, match=f"pid {os.getpid()}"):
        run.begin(planned)
    mine.release()
    run.begin(planned)
    with pytest.raises(InvalidError, match="run.json"):
        run.begin(planned)


def test_a_run_never_begins_among_other_files(planned: run.Planned) -> None:
    planned.paths.root.mkdir()
    (planned.paths.root / "thesis.tex").write_text("")
    with pytest.raises(InvalidError, match="thesis.tex"):
        run.begin(planned)
    shutil.rmtree(planned.paths.root)
    planned.paths.root.write_text("")
    with pytest.raises(InvalidError, match="a file"):
        run.begin(planned)


def test_resume_refuses_what_would_mix_two_kinds_of_results(planned: run.Planned, tmp_path: Path) -> None:
    begun = run.begin(planned)
    assert run.resume(planned.paths, begun.site) == begun
    with pytest.raises(InvalidError, match="nan = fail, not keep"):
        run.resume(planned.paths, SiteConfig(runtime="host", nan="keep"))
    with open(planned.paths.manifest, "ab") as stream:
        stream.write(b"one,more\n")
    with pytest.raises(InvalidError, match="manifest.csv has changed"):
        run.resume(planned.paths, begun.site)


def test_resume_refuses_another_model(planned: run.Planned, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(OBEDIENT, copy)
    asked = run.Asked(str(copy), (str(tmp_path / "inputs"),), SiteConfig(runtime="host"), tmp_path / "other")
    other = run.plan(asked)
    begun = run.begin(other)
    with open(copy / "contrib_src/inference.py", "a") as stream:
        stream.write("# changed\n")
    with pytest.raises(InvalidError, match="has changed since this run began"):
        run.resume(other.paths, begun.site)


def test_a_result_is_let_go_of_once_it_is_taken(
    command: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker keeps a result for as long as the driver holds its future, and cannot leave in peace."""
    for number in range(4):
        command(f"OK {number}", f"n{number}")
    sent: list[weakref.ref[Future[Any]]] = []
    held: list[int] = []
    submit = InlineExecutor.submit

    def watched(*given: Any) -> Future[Any]:
        held.append(sum(each() is not None for each in sent))
        future = submit(*given)
        sent.append(weakref.ref(future))
        return future

    monkeypatch.setattr(InlineExecutor, "submit", watched)
    site = SiteConfig(runtime="host", executor="inline", chunk_size=1)
    planned = run.plan(run.Asked(str(OBEDIENT), (str(tmp_path / "inputs"),), site, tmp_path / "run"))
    begun = run.begin(planned)
    outcome = run.execute(planned.paths, begun, run.Options(), lambda _: None, run.Stop())
    assert (outcome.code, held) == (0, [0, 0, 0, 0])
