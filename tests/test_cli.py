"""The command line as its users meet it: real processes, exit codes, streams and signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pytest

from modelhub_hpc import __version__, cli, config

REPO = Path(__file__).resolve().parent.parent
MH = (sys.executable, "-m", "modelhub_hpc.cli")
LIBRARIES = (
    *("numpy", "h5py", "PIL", "nibabel", "pydicom", "SimpleITK", "orjson"),
    *("dask", "dask_jobqueue", "distributed", "tornado", "cryptography", "requests", "jsonschema", "rich", "flask"),
)
CONFIG = {
    "id": "toy-1",
    "meta": {"name": "toy"},
    "model": {
        "io": {
            "input": {"single": {"format": ["application/octet-stream"], "dim_limits": [{"min": 1}]}},
            "output": [
                {"name": "level", "type": "label_list", "description": "how high the first byte is"},
                {"name": "map", "type": "heatmap", "description": "the first byte, six times"},
            ],
        }
    },
}
INFERENCE = """
import os, time
import numpy as np
from modelhublib.model import ModelBase

class Model(ModelBase):
    def infer(self, input):
        words = np.load(input).tobytes().decode("ascii").split()
        if words[0] == "sleep":
            time.sleep(float(words[1]))
        if words[0] == "bad" or (words[0] == "needs" and not os.path.exists(words[1])):
            raise ValueError("no good: " + words[0])
        high = len(words[0]) / 10.0
        labels = [{"label": "low", "probability": 1 - high}, {"label": "high", "probability": high}]
        return [labels, np.full((2, 3), high, "float32")]
"""

Write = Callable[..., Path]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return contribution(tmp_path / "toy", INFERENCE)


def contribution(folder: Path, inference: str) -> Path:
    (folder / "contrib_src/model").mkdir(parents=True)
    (folder / "init").mkdir()
    (folder / "contrib_src/inference.py").write_text(inference)
    (folder / "contrib_src/model/config.json").write_text(json.dumps(CONFIG))
    (folder / "init/init.json").write_text('{"docker_id": "toy:1"}')
    return folder


@pytest.fixture
def cases(tmp_path: Path) -> Write:
    """Write inputs: cases(a="ok", b="bad") gives the folder that holds a.npy and b.npy."""

    def write(folder: str = "inputs", **texts: str) -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        for name, text in texts.items():
            np.save(path / f"{name}.npy", np.frombuffer(text.encode("ascii"), np.uint8))
        return path

    return write


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MH_HPC_")}
    own = {"HOME": str(home), "XDG_CONFIG_DIRS": str(home / "etc"), "XDG_CONFIG_HOME": str(home / ".config")}
    return {**kept, **own, "PYTHONPATH": str(REPO), "TERM": "xterm", **more}


class Shell:
    """Runs mh-hpc in a folder of its own."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self._started: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        for process in self._started:
            with process:  # closes the pipes, and waits
                process.kill()

    def __call__(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MH, *map(os.fspath, map(_word, words))],
            cwd=self.cwd,
            env=environment(self.cwd, **more),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=120,
        )

    def start(self, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*MH, *map(_word, words)],
            cwd=self.cwd,
            env=environment(self.cwd),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # what starts the tests may have set it to be ignored, as shells do for background jobs
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            start_new_session=True,
        )
        self._started.append(process)
        return process


def _word(word: object) -> str:
    return os.fspath(word) if isinstance(word, Path) else str(word)


@pytest.fixture
def mh(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


HOST = ("--runtime", "host", "--executor", "inline")


def begin(toy: Path, inputs: Path, *more: object) -> Sequence[object]:
    return ("submit", "--model", toy, "--inputs", inputs, "--outdir", "run", *HOST, *more)


# -- start-up, help, completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--help"], ["submit", "--help"], ["images", "--help"], ["models"], ["config", "show"]], ids=" ".join
)
def test_nothing_heavy_is_imported_before_a_command_needs_it(words: list[str]) -> None:
    code = (
        "import sys, modelhub_hpc.cli; code = modelhub_hpc.cli.main(sys.argv[1:]); "
        f"print(code, [name for name in {LIBRARIES} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=environment(REPO), capture_output=True, text=True)
    assert done.stdout and done.stderr.strip() == "0 []"


@pytest.mark.parametrize("command", [[], *([name] for name in cli.cli.list_commands(click.Context(cli.cli)))])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: mh-hpc {' '.join(command)}".rstrip())


def test_version(mh: Shell) -> None:
    done = mh("--version")
    assert (done.returncode, done.stdout) == (0, f"mh-hpc {__version__}\n")


def test_completion_script_and_what_it_asks(mh: Shell) -> None:
    assert "_MH_HPC_COMPLETE=bash_complete" in mh("completion", "bash").stdout
    done = mh(_MH_HPC_COMPLETE="bash_complete", COMP_WORDS="mh-hpc subm", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,submit"]


def test_every_option_of_the_site_that_submit_has_is_spelled_once() -> None:
    flags = [
        flag
        for option in cli.cli.commands["submit"].params
        for flag in (*option.opts, *option.secondary_opts)
    ]
    assert len(flags) == len(set(flags))
    assert {"--mem", "-c", "--cpus-per-task", "--case-timeout", "--max-output", "--allow-network"} <= set(
        flags
    )


# -- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["submit", "--nonsense"], 2, "No such option"),
        (["submit"], 2, "needs a model and inputs"),
        (["submit", "--model", "toy"], 2, "needs a model and inputs"),
        (["submit", "--resume"], 2, "--resume needs --outdir"),
        (["submit", "--resume", "--outdir", "nowhere"], 2, "nowhere is not the folder of a run"),
        (["submit", "--model", "digits-cn", "--inputs", "."], 4, "Did you mean 'digits-cnn'?"),
        (["submit", "--model", "toy", "--inputs", "absent", *HOST], 4, "absent: no such file or folder"),
        (["submit", "--model", "toy", "--inputs", "toy", *HOST], 4, "Looked for: application/octet-stream"),
        (
            ["submit", "--model", "toy", "--inputs", ".", "--mem", "much"],
            2,
            "an amount of memory such as 4096 or 4G",
        ),
        (["submit", "--model", "toy", "--inputs", ".", "--workers", "0"], 2, "is not a positive number"),
        (["status", "nowhere"], 2, "is not the folder of a run"),
        (["results", "nowhere"], 2, "is not the folder of a run"),
        (["logs", "nowhere"], 2, "is not the folder of a run"),
        (["cancel", "nowhere"], 2, "is not the folder of a run"),
        (["cancel"], 2, "Missing argument 'RUN...'"),
        (["resume", "nowhere"], 2, "is not the folder of a run"),
        (["retry", "nowhere"], 2, "mh-hpc retry RUN --failed"),
        (["retry", "nowhere", "--failed"], 2, "is not the folder of a run"),
        (["status", "nowhere", "--in", "."], 2, "exclude each other"),
        (["status", "--in", "nowhere"], 2, "there is no such folder"),
        (["results", "nowhere", "--csv", "-", "--json"], 2, "exclude each other"),
        (["run", "toy"], 2, "Missing argument 'INPUTS...'"),
    ],
)
def test_a_mistake_gets_one_message_and_its_exit_code(
    mh: Shell, toy: Path, words: list[str], code: int, message: str
) -> None:
    done = mh(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("so it goes")

    monkeypatch.setattr(config, "load_with_origins", broken)
    assert cli.main(["config"]) == 1
    errors = capfd.readouterr().err
    assert "ZeroDivisionError: so it goes" in errors
    assert "This is a bug in mh-hpc" in errors


def test_a_folder_that_is_no_run_is_not_touched(mh: Shell, toy: Path, cases: Write) -> None:
    (mh.cwd / "run").mkdir()
    (mh.cwd / "run/thesis.txt").write_text("precious")
    for more in ([], ["--dry-run"]):
        done = mh(*begin(toy, cases(a="ok"), *more))
        assert done.returncode == 4
        assert "exists and is not a run folder" in done.stderr
    assert [path.name for path in (mh.cwd / "run").iterdir()] == ["thesis.txt"]


def test_a_model_that_cannot_start_shows_why(mh: Shell, cases: Write) -> None:
    broken = contribution(mh.cwd / "broken", "import a_library_that_is_missing\n")
    done = mh(*begin(broken, cases(a="ok", b="ok")))
    assert done.returncode == 4
    assert "a_library_that_is_missing" in done.stderr
    assert "mh-hpc resume " in done.stderr


# -- submit -------------------------------------------------------------------------------------------------------


def test_all_done(mh: Shell, toy: Path, cases: Write) -> None:
    done = mh(*begin(toy, cases(a="ok", b="ok", c="ok")))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^done +3$", done.stdout, re.MULTILINE)
    assert f"mh-hpc results {mh.cwd}/run" in done.stdout
    assert "3 of 3 cases" in done.stderr


def test_failed_cases_are_named_and_can_be_tried_again(mh: Shell, toy: Path, cases: Write) -> None:
    mended = mh.cwd / "mended"
    first = mh(*begin(toy, cases(a="ok", b=f"needs {mended}", c="bad", d="ok")))
    assert first.returncode == 3
    assert "b: model: ValueError: no good: needs" in first.stdout
    retry = re.search(r"mh-hpc (retry .* --failed)", first.stdout)
    assert retry

    mended.touch()
    second = mh(*shlex.split(retry[1]))
    assert second.returncode == 3
    assert "2 of 4 done, 2 failed, 0 to go and 2 to try again" in second.stdout
    assert re.search(r"^done +3$", second.stdout, re.MULTILINE)


def test_json_is_alone_on_stdout(mh: Shell, toy: Path, cases: Write) -> None:
    done = mh(*begin(toy, cases(a="ok", b="bad"), "--json"))
    assert done.returncode == 3
    facts = json.loads(done.stdout)
    assert (facts["cases"], facts["done"], facts["failed"], facts["to_go"]) == (2, 1, 1, 0)
    assert facts["failures"] == [{"case": "b", "kind": "model", "message": "ValueError: no good: bad"}]
    assert facts["run"] == str(mh.cwd / "run")
    assert facts["stopped"] is None


def test_quiet(mh: Shell, toy: Path, cases: Write) -> None:
    done = mh("--quiet", *begin(toy, cases(a="ok")))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_complete_run_starts_nothing(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="ok", b="ok")
    assert mh(*begin(toy, folder)).returncode == 0
    logs = sorted((mh.cwd / "run/logs").iterdir())
    again = mh(*begin(toy, folder))
    assert again.returncode == 0
    assert "2 of 2 done, 0 to go\nThe run is complete." in again.stdout
    assert sorted((mh.cwd / "run/logs").iterdir()) == logs


def test_tables_lost_with_their_driver_are_written_by_the_next(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="ok", b="ok")
    assert mh(*begin(toy, folder)).returncode == 0
    (mh.cwd / "run/record.json").unlink()
    (mh.cwd / "run/results.csv").unlink()
    assert mh(*begin(toy, folder)).returncode == 0
    assert (mh.cwd / "run/results.csv").read_text().count("\n") == 3
    assert json.loads((mh.cwd / "run/record.json").read_text())["counts"]["done"] == 2


def test_fail_fast_then_resume_says_what_is_left(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="ok", b="bad", c="ok", d="ok")
    first = mh(*begin(toy, folder, "--fail-fast", "--chunk-size", 1))
    assert first.returncode == 3
    assert "Stopped: more than 0 cases failed" in first.stderr
    assert f"mh-hpc resume {mh.cwd}/run" in first.stderr
    implicit = mh(*begin(toy, folder, "--dry-run"))
    assert "1 done, 1 failed, 2 to go" in implicit.stdout
    second = mh("submit", "--resume", "--outdir", "run")
    assert "1 of 4 done, 1 failed, 2 to go" in second.stdout
    assert second.returncode == 3
    assert re.search(r"^done +3$", second.stdout, re.MULTILINE)


def test_max_failures_is_of_one_attempt(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="bad", b="bad", c="bad", d="ok")
    first = mh(*begin(toy, folder, "--max-failures", 1, "--chunk-size", 1))
    assert (first.returncode, "more than 1 cases failed" in first.stderr) == (3, True)
    second = mh("submit", "--resume", "--outdir", "run", "--json")
    assert (second.returncode, json.loads(second.stdout)["to_go"]) == (3, 0)


def test_a_run_goes_on_with_its_own_model_and_inputs(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="ok")
    other = contribution(mh.cwd / "other", INFERENCE)
    assert mh(*begin(toy, folder)).returncode == 0
    model = mh(*begin(other, folder))
    inputs = mh(*begin(toy, cases("more", a="ok")))
    assert (model.returncode, inputs.returncode) == (2, 2)
    assert f"then: {toy}\nnow:  {other}" in model.stderr
    assert f"then: {folder}\nnow:  {mh.cwd}/more" in inputs.stderr
    # the same folder under another name is the same
    assert mh(*begin(Path("./toy"), Path("./inputs/"))).returncode == 0


def test_a_resumed_run_keeps_its_options(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="ok", b="bad", c="sleep 5")
    first = mh(*begin(toy, folder, "--fail-fast", "--chunk-size", 1, "--case-timeout", 1))
    assert first.returncode == 3
    second = mh("submit", "--resume", "--outdir", "run", "--json")
    assert [failure["kind"] for failure in json.loads(second.stdout)["failures"]] == ["model", "timeout"]


def test_dry_run_shows_everything_and_writes_nothing(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="ok", b="ok")
    (folder / "notes.txt").write_text("none of the model's business")
    before = sorted(mh.cwd.rglob("*"))
    words = begin(toy, folder, "--dry-run", "--chunk-size", 1)
    shown, facts = mh(*words), json.loads(mh(*words, "--json").stdout)
    assert shown.returncode == 0
    for text in ("2 (", "1 file named *.txt", "--contrib-src", str(mh.cwd / "run"), "2 of up to 1 case"):
        assert text in shown.stdout
    assert (facts["cases"], facts["formats"], facts["chunks"], facts["begun"]) == (2, {".npy": 2}, 2, False)
    assert facts["skipped"] and facts["command"][-2:] == ["--contrib-src", str(toy / "contrib_src")]
    assert sorted(mh.cwd.rglob("*")) == before


def test_dry_run_says_what_workers_that_share_a_gpu_take(mh: Shell, toy: Path, cases: Write) -> None:
    words = begin(toy, cases(a="ok"), "--dry-run", "--executor", "local", "--mem", "1G", "--sessions-per-gpu", 2)
    shared = mh(*words, CUDA_VISIBLE_DEVICES="0,1")
    assert "4 (" in shared.stdout and "2 to a GPU" in shared.stdout and "4,096 MiB for all together" in shared.stdout
    assert not shared.stderr
    alone = mh(*words, CUDA_VISIBLE_DEVICES="")
    assert alone.returncode == 0 and "to a GPU" not in alone.stdout
    assert alone.stderr.count("--sessions-per-gpu 2 has no effect: there is no GPU here") == 1
    job = mh(*words, "--executor", "slurm-array", "-t", "5")
    assert job.stderr.count("--sessions-per-gpu 2 has no effect: jobs ask for no GPU") == 1


def test_hostile_names(mh: Shell, toy: Path) -> None:
    folder = mh.cwd / os.fsdecode(b"-in \n\xff'\"")
    folder.mkdir()
    np.save(folder / "a.npy", np.frombuffer(b"ok", np.uint8))
    words = (
        "submit",
        "--model",
        toy,
        f"--inputs={folder}",
        f"--outdir=run {os.fsdecode(bytes([0xFE]))}",
        *HOST,
    )
    first, again = mh(*words), mh(*words)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    run = next(path for path in mh.cwd.iterdir() if path.name.startswith("run "))
    assert mh("results", run).returncode == mh("status", run).returncode == 0
    resume = json.loads(mh(*words, "--json").stdout)["resume"]
    assert mh(*shlex.split(resume)[1:]).returncode == 0


# -- signals ------------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def alive(text: str) -> list[str]:
    """Command lines of living processes that name the text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            found += [command] if text in command else []
    return found


def started(mh: Shell, toy: Path, folder: Path, *more: object) -> subprocess.Popen[str]:
    """A run of slow cases, of which one is done."""
    driver = mh.start(*begin(toy, folder, "--chunk-size", 1, *more))
    wait_for(lambda: any((mh.cwd / "run/shards").glob("*.jsonl")), "the first shard")
    return driver


def slow(cases: Write, count: int, seconds: float = 0.5) -> Path:
    return cases(**{f"s{number:02}": f"sleep {seconds}" for number in range(count)})


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_ctrl_c_finishes_what_is_in_flight_and_the_printed_command_goes_on(
    mh: Shell, toy: Path, cases: Write, executor: str
) -> None:
    driver = started(mh, toy, slow(cases, 8), "--executor", executor)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=30)
    assert driver.returncode == 130, errors
    assert "in flight; Ctrl-C again to stop now" in errors
    assert "distributed" not in errors
    assert "Stopped: interrupted" in errors
    command = re.search(r"mh-hpc (resume .*)", errors)
    assert command
    going_on = mh(*shlex.split(command[1]), "--json")
    assert re.search(r"^\d+ of 8 done, \d+ to go$", going_on.stderr, re.MULTILINE)
    assert (going_on.returncode, json.loads(going_on.stdout)["done"]) == (0, 8)


@pytest.mark.parametrize("after_s", [0.2, 1.0])
def test_ctrl_c_while_the_workers_start(mh: Shell, toy: Path, cases: Write, after_s: float) -> None:
    """A terminal sends it to the whole process group: workers too, before they can say that they do not care."""
    driver = mh.start(*begin(toy, slow(cases, 4), "--chunk-size", 1, "--executor", "local"))
    wait_for((mh.cwd / "run/run.json").exists, "the run")
    time.sleep(after_s)
    os.killpg(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=30)
    assert (driver.returncode, "Stopped: interrupted" in errors, "Traceback" in errors) == (
        130,
        True,
        False,
    ), errors


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_second_ctrl_c_ends_at_once_and_leaves_no_process(
    mh: Shell, toy: Path, cases: Write, executor: str
) -> None:
    driver = started(mh, toy, slow(cases, 4, 20.0) and cases(s00="ok"), "--executor", executor)
    wait_for(lambda: len(alive(str(toy))) > 1, "the session")
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=5)
    assert driver.returncode == 130
    assert "mh-hpc resume " in errors
    wait_for(lambda: not alive(str(mh.cwd)), "the end of every process", 10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_at_once(
    mh: Shell, toy: Path, cases: Write, number: signal.Signals, code: int
) -> None:
    driver = started(mh, toy, slow(cases, 4, 20.0) and cases(s00="ok"))
    driver.send_signal(number)
    _, errors = driver.communicate(timeout=5)
    assert (driver.returncode, "mh-hpc resume " in errors) == (code, True)
    wait_for(lambda: not alive(str(mh.cwd)), "the end of every process", 10)


def test_a_living_run_is_seen_by_status_and_closed_to_a_second_driver(
    mh: Shell, toy: Path, cases: Write
) -> None:
    folder = slow(cases, 8)
    driver = started(mh, toy, folder)
    seen = json.loads(mh("status", "run", "--json").stdout)
    watching = mh.start("status", "run", "--watch")
    assert watching.stdout
    first = [watching.stdout.readline() for _ in ("run", "state")]
    second = mh(*begin(toy, folder))
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=30)
    assert (seen["state"], seen["driver"]["pid"], seen["cases"]) == ("running", driver.pid, 8)
    assert (second.returncode, f"is driven by pid {driver.pid}" in second.stderr) == (75, True)
    assert "running by pid" in first[1] and "not running" in watching.stdout.read()
    assert watching.wait(20) == 0
    after = mh("status", "run")
    assert "not running" in after.stdout and "mh-hpc resume" in after.stdout


def on_terminal(mh: Shell, words: Sequence[object], **more: str) -> str:
    """What a command writes where stderr is a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [*MH, *map(_word, words)],
        cwd=mh.cwd,
        env=environment(mh.cwd, **more),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    with os.fdopen(ours, "rb", buffering=0) as screen, contextlib.suppress(OSError):  # EIO once nobody writes
        while data := screen.read(4096):
            text += data
    assert done.wait(30) == 0
    return text.decode()


def test_a_terminal_gets_a_bar_and_its_colours_can_be_refused(mh: Shell, toy: Path, cases: Write) -> None:
    folder = cases(a="ok", b="sleep 1")
    words = begin(toy, folder)
    colour = on_terminal(mh, words)
    plain = on_terminal(mh, [*words[:-5], "other", *HOST], NO_COLOR="1")
    lines = on_terminal(mh, [*words[:-5], "third", *HOST], TERM="dumb")
    sets_colour = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    assert "2/2" in colour and "━" in colour and sets_colour.search(colour)
    assert "2/2" in plain and "━" in plain and not sets_colour.search(plain)
    assert "2 of 2 cases" in lines and "━" not in lines


# -- run, status, results, config ---------------------------------------------------------------------------------


def test_run_prints_one_object_for_one_case_and_a_list_for_several(
    mh: Shell, toy: Path, cases: Write
) -> None:
    folder = cases(a="ok", b="bad")
    one = mh("run", toy, folder / "a.npy", "--runtime", "host")
    both = mh("run", toy, folder, "--runtime", "host")
    facts = json.loads(one.stdout)
    assert (one.returncode, facts["case"], facts["error"]) == (0, "a", None)
    assert facts["output"][0]["prediction"][1] == {"label": "high", "probability": 0.2}
    assert (facts["output"][1]["shape"], facts["output"][1]["dtype"], facts["output"][1]["file"]) == (
        [2, 3],
        "float32",
        None,
    )
    assert "-o FOLDER" in one.stderr
    assert both.returncode == 3
    assert [(each["case"], each["status"]) for each in json.loads(both.stdout)] == [
        ("a", "done"),
        ("b", "failed"),
    ]
    assert "b failed: model: ValueError: no good: bad" in both.stderr
    assert not (mh.cwd / "runs").exists()


def test_run_writes_arrays_and_never_over_others(mh: Shell, toy: Path, cases: Write) -> None:
    words = ("run", toy, cases(a="ok"), "--runtime", "host", "--table", "-o", "out")
    first, second = mh(*words), mh(*words)
    assert first.returncode == 0, first.stderr
    assert "low (0.800)" in first.stdout and "out/a/map.npy" in first.stdout
    array = np.load(mh.cwd / "out/a/map.npy")
    assert (array.dtype, array.tolist()) == (np.float32, [[np.float32(0.2)] * 3] * 2)
    assert (second.returncode, "out/a exists already" in second.stderr) == (2, True)


def test_results_in_every_form(mh: Shell, toy: Path, cases: Write) -> None:
    mh(*begin(toy, cases(a="ok", b="bad", c="ok")))
    table = mh("results", "run").stdout.splitlines()
    assert table[0].split() == ["case", "status", "seconds", "level", "map"]
    assert "low (0.800)" in table[1] and "float32 [2, 3] in c0" in table[1]
    assert "model: ValueError: no good: bad" in table[2]
    everything = json.loads(mh("results", "run", "--json").stdout)
    assert [each["case"] for each in everything] == ["a", "b", "c"]
    assert [each["case"] for each in json.loads(mh("results", "run", "--json", "--failed").stdout)] == ["b"]
    assert len(json.loads(mh("results", "run", "--json", "--limit", 2).stdout)) == 2
    assert json.loads(mh("results", "run", "--json", "--limit", 0).stdout) == []
    to_stdout = mh("results", "run", "--csv", "-").stdout
    assert to_stdout == (mh.cwd / "run/results.csv").read_text()
    assert mh("results", "run", "--csv", "some.csv", "--failed").returncode == 0
    assert (mh.cwd / "some.csv").read_text().splitlines()[1].startswith("b,")
    nowhere = mh("results", "run", "--csv", "no/such/folder.csv")
    assert (nowhere.returncode, "not a file in a folder that exists" in nowhere.stderr) == (2, True)


def test_the_table_of_a_finished_run_is_made_once(mh: Shell, toy: Path, cases: Write) -> None:
    mh(*begin(toy, cases(a="ok", b="bad")))
    table, record = mh.cwd / "run/results.csv", mh.cwd / "run/record.json"
    right = table.read_text()
    table.write_text("edited by its user\n")
    assert mh("results", "run", "--csv", "-").stdout == right
    os.utime(table, ns=(0, record.stat().st_mtime_ns))  # as if the driver had written it
    assert mh("results", "run", "--csv", "-").stdout == "edited by its user\n"
    assert mh("results", "run", "--csv", "-", "--limit", 2).stdout == right
    (mh.cwd / "run/shards/new").touch()  # the record may not tell of everything any more
    assert mh("results", "run", "--csv", "-").stdout == right
    failed = mh("results", "run", "--csv", "-", "--failed").stdout
    assert failed == (mh.cwd / "run/failures.csv").read_text()


def test_a_run_whose_private_part_is_closed_can_be_read(mh: Shell, toy: Path, cases: Write) -> None:
    if os.getuid() == 0:
        pytest.skip("nothing is closed to root")
    mh(*begin(toy, cases(a="ok")))
    private = mh.cwd / "run/.mh-hpc"
    private.chmod(0)
    try:
        shown = [mh(*words, "run") for words in (["status"], ["results"], ["results", "--csv", "-"])]
        again = mh(*begin(toy, cases(b="ok"), "--retry-failed"))
    finally:
        private.chmod(0o700)
    assert [(each.returncode, each.stderr) for each in shown] == [(0, "")] * 3
    assert "Traceback" not in again.stderr


def test_folders_that_are_closed_are_named(mh: Shell, toy: Path, cases: Write) -> None:
    if os.getuid() == 0:
        pytest.skip("nothing is closed to root")
    (mh.cwd / "closed").mkdir(mode=0)
    folder = cases(a="ok")
    out = mh("run", toy, folder, "--runtime", "host", "-o", "closed/out")
    new = mh("submit", "--model", toy, folder, "--outdir", "closed/run", *HOST)
    for done in (out, new, mh("status", "closed/run"), mh("results", "closed/run")):
        assert (done.returncode, done.stdout) == (5, "")
        assert (
            "closed" in done.stderr and "Permission denied" in done.stderr and "Traceback" not in done.stderr
        )


def test_a_closed_pipe_is_no_error(mh: Shell, toy: Path, cases: Write) -> None:
    mh(*begin(toy, cases(a="ok", b="ok")))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*MH, "results", "run"],
            cwd=mh.cwd,
            env=environment(mh.cwd),
            stdout=closed,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_config_shows_where_values_come_from(mh: Shell) -> None:
    (mh.cwd / "mh-hpc.yaml").write_text("workers: 3\n")
    shown = json.loads(mh("config", "--json", MH_HPC_MEM_MB="4G").stdout)
    assert (shown["workers"], shown["mem_mb"]) == (3, 4096)
    assert "mh-hpc.yaml" in mh("config").stdout


def test_config_show_tells_the_origin_of_each_value(mh: Shell) -> None:
    (mh.cwd / "mh-hpc.yaml").write_text("workers: 3\n")
    (mh.cwd / ".config/mh-hpc").mkdir(parents=True)
    (mh.cwd / ".config/mh-hpc/config.yaml").write_text("workers: 2\nnan: keep\n")
    words = ("config", "show", "--origin", "workers", "mem_mb", "nan", "gpu")
    told = mh(*words, MH_HPC_MEM_MB="4G")
    assert [line.split() for line in told.stdout.splitlines()] == [
        ["workers", "3", f"{mh.cwd}/mh-hpc.yaml"],
        ["mem_mb", "4096", "MH_HPC_MEM_MB"],
        ["nan", "keep", f"{mh.cwd}/.config/mh-hpc/config.yaml"],
        ["gpu", "auto", "default"],
    ]
    facts = json.loads(mh(*words, "--json", MH_HPC_MEM_MB="4G").stdout)
    assert facts["mem_mb"] == {"value": 4096, "origin": "MH_HPC_MEM_MB"}
    assert list(facts) == ["workers", "mem_mb", "nan", "gpu"]
    everything = json.loads(mh("config", "show", "--origin", "--json").stdout)
    assert list(everything) == list(config.OPTIONS)


def test_config_show_without_origins_is_config(mh: Shell) -> None:
    assert mh("config", "show").stdout == mh("config").stdout
    assert mh("config").stdout.endswith("from: defaults\n")
    plain = mh("config", "--json")
    for words in (("config", "show", "--json"), ("config", "--json", "show")):
        assert mh(*words).stdout == plain.stdout
    assert json.loads(mh("config", "show", "nan", "--json").stdout) == {"nan": "fail"}
    unknown = mh("config", "show", "worker")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "Unknown option 'worker' in the command line. Did you mean 'workers'?" in unknown.stderr


def test_config_show_keeps_terminals_safe(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"a \x1b[31m\n\xff")
    folder.mkdir()
    mh = Shell(folder)
    (folder / "mh-hpc.yaml").write_text(r'scratch_dir: "/x\e[31m\n/y"', encoding="utf-8")
    told = mh("config", "show", "--origin", "scratch_dir")
    assert (told.returncode, len(told.stdout.splitlines()), "\x1b" in told.stdout) == (0, 1, False)
    facts = json.loads(mh("config", "show", "--origin", "--json", "scratch_dir").stdout)
    assert facts["scratch_dir"] == {"value": "/x\x1b[31m\n/y", "origin": f"{folder}/mh-hpc.yaml"}


def test_an_unknown_option_in_a_file_is_named_with_the_nearest(mh: Shell) -> None:
    (mh.cwd / "mh-hpc.yaml").write_text("worker: 3\n")
    done = mh("config")
    assert (done.returncode, "Did you mean 'workers'?" in done.stderr) == (2, True)
