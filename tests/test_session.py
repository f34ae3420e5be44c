"""The live model process, for real: in a container and on the host."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from grounds import OBEDIENT, REPO, Write, processes

from modelhub_hpc.errors import TryAgainError, UnfitError
from modelhub_hpc.launch import SessionSpec
from modelhub_hpc.session import Session, SessionError, StartError
from modelhub_hpc.wire import Reply, Request


def ask(session: Session, *paths: Path) -> list[Reply]:
    return list(
        session.predict(Request(path.stem, session.aliases.visible((("single", str(path)),))) for path in paths)
    )


def fate(spec: SessionSpec, path: Path) -> SessionError:
    with pytest.raises(SessionError) as caught, Session(spec) as session:
        ask(session, path)
    return caught.value


def nothing_left(spec: SessionSpec, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not list(spec.scratch.iterdir()) and not any(p.mentions([str(spec.scratch)]) for p in processes()):
            return True
        time.sleep(0.05)
    return False


def test_answers_come_in_order(spec: SessionSpec, command: Write) -> None:
    paths = [command(f"OK {n}", f"n{n}") for n in range(20)]
    with Session(spec) as session:
        replies = ask(session, *paths)
    assert [r.outputs[0].prediction for r in replies] == [[float(n), 2.0 * n] for n in range(20)]
    assert nothing_left(spec)


def test_arrays_are_mapped_from_scratch(spec: SessionSpec, command: Write) -> None:
    path = command("ARRAY 7")
    with Session(spec) as session:
        for reply in session.predict([Request("a", (("single", str(path)),))]):
            array = reply.outputs[0].array
            assert array is not None and array.array.dtype == np.float32
            assert np.array_equal(array.array, np.full((4, 5), 7.0))


def test_nan_is_null_with_a_note_in_json_and_kept_in_arrays(spec: SessionSpec, command: Write) -> None:
    with Session(spec) as session:
        (plain,) = ask(session, command("NAN"))
        assert plain.outputs[0].prediction == [1.0, None, None] and "null" in plain.notes[0]
        for reply in session.predict([Request("a", (("single", str(command("NANARRAY"))),))]):
            assert reply.outputs[0].array is not None
            assert np.isnan(reply.outputs[0].array.array[1])


@pytest.mark.parametrize("text", ["FAIL", "QUIT", "OBJECT", "OBJECTS", "NOSUCHCOMMAND"])
def test_an_error_of_the_model_leaves_the_session_alive(spec: SessionSpec, command: Write, text: str) -> None:
    with Session(spec) as session:
        bad, good = ask(session, command(text), command("OK 4"))
    assert bad.error and bad.traceback
    assert good.outputs[0].prediction == [4.0, 8.0]


@pytest.mark.parametrize("text", ["SHOUT 3", "FORGE", "FORK"])
def test_what_a_model_prints_or_forks_cannot_harm(spec: SessionSpec, command: Write, text: str) -> None:
    with Session(spec) as session:
        first, second = ask(session, command(text), command("OK 4"))
    assert first.error is None and second.outputs[0].prediction == [4.0, 8.0]
    assert nothing_left(spec)


def test_a_long_log_is_cut_and_says_so(spec: SessionSpec, command: Write) -> None:
    with Session(spec) as session:
        ask(session, command("SHOUT 5"))
    (log,) = (spec.logs or Path()).iterdir()
    assert log.stat().st_size < 1.1 * 2**20
    assert b"more bytes were dropped" in log.read_bytes()[-100:]


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("SEGV", 139, "SIGSEGV"),
        ("ABORT", 134, "SIGABRT"),
        ("KILL", 137, "out of memory"),
        ("EXIT 0", 0, "os._exit"),
        ("EXIT 3", 3, "exit code 3"),
    ],
)
def test_a_crash_carries_its_evidence(
    spec: SessionSpec, command: Write, text: str, code: int, hint: str
) -> None:
    error = fate(spec, command(text))
    assert error.kind == "crash" and error.evidence.code == code
    assert hint in str(error)
    assert "pipeservice" in error.evidence.text() and str(spec.logs) in error.evidence.text()
    assert nothing_left(spec)


@pytest.mark.parametrize("text", ["HANG", "GILHANG"])
def test_a_hanging_model_is_ended_from_outside(spec: SessionSpec, command: Write, text: str) -> None:
    error = fate(dataclasses.replace(spec, case_timeout_s=1.0), command(text))
    assert error.kind == "timeout" and "within 1 s" in str(error)
    assert nothing_left(spec)


def test_a_leak_ends_at_the_memory_limit(spec: SessionSpec, command: Write) -> None:
    error = fate(dataclasses.replace(spec, mem_mb=400), command("LEAK"))
    assert error.kind == "memory" and "400 MiB" in str(error)
    assert 400 < error.evidence.peak_mb < 1000
    assert nothing_left(spec)


@pytest.mark.parametrize(
    "name",
    [
        "two words",
        "quo'te\"s",
        "com,ma:colon",
        "new\nline",
        "-dash",
        "ünïcödé",
        "$(id);`id`",
        "\udcff\udcfe",
        "tab\t",
    ],
)
def test_any_name_reaches_the_model(spec: SessionSpec, command: Write, name: str) -> None:
    path = command("OK 5", name)
    folder = spec.roots[0] / name
    folder.mkdir()
    inner = folder / "x.npy"
    inner.write_bytes(path.read_bytes())
    with Session(dataclasses.replace(spec, roots=(*spec.roots, folder))) as session:
        replies = ask(session, path, inner)
    assert [r.outputs[0].prediction for r in replies] == [[5.0, 10.0]] * 2


def contribution(folder: Path, inference: str) -> Path:
    target = folder / "contrib_src"
    (target / "model").mkdir(parents=True)
    (target / "model/config.json").write_bytes((OBEDIENT / "contrib_src/model/config.json").read_bytes())
    (target / "inference.py").write_text(inference)
    return target


def test_a_model_that_cannot_start_says_why(spec: SessionSpec, tmp_path: Path) -> None:
    broken = contribution(tmp_path, "import no_such_framework\n")
    with (
        pytest.raises(StartError, match="no_such_framework") as caught,
        Session(dataclasses.replace(spec, contrib_src=broken)),
    ):
        pass
    assert caught.value.exit_code == 4
    assert nothing_left(spec)


def test_a_slow_start_has_a_limit(spec: SessionSpec, tmp_path: Path) -> None:
    slow = contribution(tmp_path, "import time\ntime.sleep(600)\n")
    with (
        pytest.raises(StartError, match="within 2 s"),
        Session(dataclasses.replace(spec, contrib_src=slow, start_timeout_s=2.0)),
    ):
        pass
    assert nothing_left(spec)


def test_a_missing_interpreter_is_the_machines_fault(spec: SessionSpec) -> None:
    with pytest.raises(StartError) as caught, Session(dataclasses.replace(spec, interpreter="python9.9")):
        pass
    assert caught.value.exit_code == 5


def test_scratch_that_cannot_be_written_is_worth_another_try(spec: SessionSpec, tmp_path: Path) -> None:
    with (
        pytest.raises(TryAgainError, match="scratch"),
        Session(dataclasses.replace(spec, scratch=tmp_path / "no")),
    ):
        pass


def test_without_apptainer_nothing_is_left_either(
    spec: SessionSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    image = tmp_path / "some.sif"
    with pytest.raises(UnfitError, match="hpc/install.sh"), Session(dataclasses.replace(spec, image=image)):
        pass
    assert not list(spec.scratch.iterdir())


def test_a_link_into_a_folder_of_an_odd_name_reaches_the_model(spec: SessionSpec, command: Write) -> None:
    folder = spec.roots[0].parent / "new\nline"
    folder.mkdir()
    target = command("OK 8").rename(folder / "x.npy")
    link = spec.roots[0] / "link.npy"
    link.symlink_to(target)
    with Session(dataclasses.replace(spec, roots=(*spec.roots, folder))) as session:
        (reply,) = ask(session, link)
    assert reply.outputs and reply.outputs[0].prediction == [8.0, 16.0]


HOLD = """
import json, sys, time
from pathlib import Path
from modelhub_hpc.launch import SessionSpec
from modelhub_hpc.session import Session
from modelhub_hpc.wire import Request
fields = json.loads(sys.argv[1])
for name in ("image", "contrib_src", "scratch", "logs"):
    fields[name] = Path(fields[name]) if fields[name] else None
fields["roots"] = tuple(map(Path, fields["roots"]))
with Session(SessionSpec(**fields)) as session:
    print("ready", session._kept.process.pid, flush=True)
    list(session.predict([Request("a", (("single", sys.argv[2]),))]))
"""


def hold(spec: SessionSpec, path: Path) -> tuple[subprocess.Popen[str], int]:
    """A worker process in the middle of a case, and the pid of its session's keeper."""
    fields = json.dumps(dataclasses.asdict(spec), default=str)
    worker = subprocess.Popen(
        [sys.executable, "-c", HOLD, fields, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert worker.stdout is not None
    word, pid = worker.stdout.readline().split()
    assert word == "ready"
    time.sleep(0.5)
    return worker, int(pid)


@pytest.mark.parametrize("text", ["SLEEP 600 1", "GILHANG", "FORK"])
def test_nothing_outlives_a_killed_parent(spec: SessionSpec, command: Write, text: str) -> None:
    worker, _ = hold(spec, command(text))
    with worker:
        worker.kill()
    assert nothing_left(spec, 5.0)


def test_a_killed_keeper_is_a_crash_that_leaves_nothing(spec: SessionSpec, command: Write) -> None:
    worker, keeper = hold(spec, command("SLEEP 600 1"))
    with worker:
        os.kill(keeper, signal.SIGKILL)
        _, stderr = worker.communicate(timeout=20)
    assert "SessionError" in stderr and "SIGKILL" in stderr
    assert nothing_left(spec, 5.0)


def test_scratch_of_a_dead_process_is_swept(spec: SessionSpec, command: Write) -> None:
    with Session(spec) as session:
        ask(session, command("OK 1"))
        own, pid = session.scratch.name, str(os.getpid())
        before = own[: own.index(f"-{pid}-")]
    dead, elsewhere = spec.scratch / f"{before}-{pid}-1-left", spec.scratch / f"{before}x-{pid}-1-left"
    dead.mkdir()
    elsewhere.mkdir()
    with Session(spec) as session:
        ask(session, command("OK 1"))
    assert not dead.exists()
    assert elsewhere.exists()  # another host's: a process of that number may live there
