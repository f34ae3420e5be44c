"""What a run on SLURM keeps to itself: its ports, its files, its caller's secrets; and that no name is a command."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from driving import Ended, environment
from grounds import OBEDIENT, Process, processes
from slurm_cluster import Cluster
from slurm_driving import SlurmRun, kill

from modelhub_hpc import config, network
from modelhub_hpc.errors import UsageError

SECRETS = {
    "SECRET_TOKEN": "hunter2-token",
    "http_proxy": "http://joe:hunter2-proxy@proxy.invalid:3128",
    "AWS_SECRET_ACCESS_KEY": "hunter2-aws",
    "APPTAINER_DOCKER_PASSWORD": "hunter2-registry",
    "APPTAINERENV_TOKEN": "hunter2-model",
    "SBATCH_COMMENT": "hunter2-comment",
}
MARK = b"hunter2"
ASK = """
import asyncio, json, logging, ssl, sys, tempfile
from distributed import Client
from distributed.core import rpc
from distributed.security import Security

logging.disable(logging.CRITICAL)

class Credulous(Security):
    # believes whoever answers, so that it is the other side that decides
    def __init__(self, files):
        super().__init__(require_encryption=True)
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        if files:
            self.context.load_cert_chain(files["cert"], files["key"])

    def get_connection_args(self, role):
        return {"ssl_context": self.context, "require_encryption": True}

def made():
    ours, files = Security.temporary(), {}
    for name, text in (("cert", ours.tls_ca_file), ("key", ours.tls_scheduler_key)):
        files[name] = tempfile.mkstemp(dir=sys.argv[1])[1]
        open(files[name], "w").write(text)
    return files

async def answer(kind, address, security):
    try:
        if kind == "scheduler":
            async with Client(address, security=security, timeout=4, asynchronous=True) as client:
                return await client.run_on_scheduler(lambda: "obeyed")
        async with rpc(address, timeout=4, connection_args=security.get_connection_args("client")) as worker:
            return (await asyncio.wait_for(worker.identity(), 4))["type"]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def main(scheduler, worker, own):
    callers = {"own": Credulous(own), "none": Credulous(None), "another": Credulous(made()),
               "temporary": Security.temporary(), "plain": Security()}
    asked = [(kind, place if name != "plain" else place.replace("tls", "tcp"), name)
             for kind, place in (("scheduler", scheduler), ("worker", worker)) for name in callers]
    answers = await asyncio.gather(*(answer(kind, place, callers[name]) for kind, place, name in asked))
    print(json.dumps([[kind, name, said] for (kind, _, name), said in zip(asked, answers)]))

asyncio.run(main(**json.load(sys.stdin)))
"""


class Daring(SlurmRun):
    """A run that is begun from an environment full of secrets, where new files are for everybody to read."""

    flags = ("-t", "10", "--gres", "gpu:1", "--mem", "1G", "--workers", "2", "--chunk-size", "2")
    answer = ""  # of its model to everything, where there is only one

    def command(self, argv: Sequence[str], folder: Path | None = None, **variables: str) -> Ended:
        """A command; its words may be any bytes."""
        done = subprocess.run(
            argv, cwd=folder, env=environment(**{**SECRETS, **self.variables, **variables}), umask=0o022,
            stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="surrogateescape", timeout=120,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def dare(self, *flags: str, python: str = sys.executable, folder: Path | None = None, **variables: str) -> Ended:
        """The submission, which has to succeed."""
        argv = [python, *self.argv(*self.flags, *flags)[1:]]
        ended = self.command(argv, folder, **variables)
        assert ended.code == 0, ended.text
        return ended

    def mine(self) -> list[Process]:
        """All processes of the run."""
        marks = (str(self.scratch), str(self.outdir))
        kinds = r"executors\.worker|cli (drive|work) |keeper\.py|pipeservice"
        return [each for each in processes() if re.search(kinds, each.command) and each.mentions(marks)]


@contextlib.contextmanager
def going_on(cluster: Cluster, folder: Path, executor: str, *flags: str) -> Iterator[Daring]:
    """A run that has published something of every kind, and goes on while it is looked at."""
    run = Daring(cluster, folder, executor)
    for name, text in {"a0": "ARRAY 1", "a1": "OK 1", "b": "HANG", "c": "HANG", "d": "HANG"}.items():
        run.order(name, text)
    run.dare(*flags)
    try:
        run.under_way(1)
        run.until(run.sessions, "a session")
        yield run
    finally:
        cancelled = run.mh("cancel", str(run.outdir))
    assert cancelled.code == 0, cancelled.text


@pytest.fixture(scope="module")
def fed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daring]:
    """A run that a driver feeds; its network is not the one that all machines have, where there is another."""
    with going_on(cluster, tmp_path_factory.mktemp("fed"), "slurm", "--interface", interface()) as run:
        run.until(lambda: len(run.workers()) == 2, "both workers")
        yield run


@pytest.fixture(scope="module")
def array(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daring]:
    with going_on(cluster, tmp_path_factory.mktemp("array"), "slurm-array", "--workers", "1") as run:
        yield run


@pytest.fixture(scope="module")
def login(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daring]:
    """A run whose driver is no job, and whose files the group may read."""
    flags = ("--workers", "1", "--controller", "login", "--group-readable")
    with going_on(cluster, tmp_path_factory.mktemp("login"), "slurm", *flags) as run:
        yield run


def interface() -> str:
    names = [name for name, address in network.addresses().items() if "." in address and not address.startswith("127.")]
    return names[0] if names else "lo"


# -- ports ------------------------------------------------------------------------------------------------------------


def listening(process: Process) -> set[tuple[str, int]]:
    """The addresses and ports on which a process takes connections."""
    connections = psutil.Process(process.pid).net_connections(kind="inet")
    return {(str(each.laddr[0]), int(each.laddr[1])) for each in connections if each.status == psutil.CONN_LISTEN}


def parts(run: Daring) -> tuple[Process, list[Process]]:
    """The driver, and the workers."""
    driver, workers = run.driver(), run.workers()
    assert driver is not None and len(workers) == 2
    return driver, workers


def served(run: Daring) -> tuple[str, int]:
    """Where the driver's scheduler listens, as a worker has been told."""
    match = re.search(r"serves tls://([\d.]+):(\d+)", run.log())
    assert match is not None, run.log()
    return match[1], int(match[2])


def test_only_the_chosen_address_is_listened_on(fed: Daring) -> None:
    host, port = served(fed)
    assert host == network.address_of(interface())
    driver, workers = parts(fed)
    assert (host, port) in listening(driver)
    for each in fed.mine():
        assert {address for address, _ in listening(each)} <= {host, "127.0.0.1"}, each.command
    assert all(host in {address for address, _ in listening(worker)} for worker in workers)
    assert not any(listening(session) for session in fed.sessions())


def test_without_the_certificate_of_the_run_nobody_is_heard(fed: Daring, tmp_path: Path) -> None:
    host, port = served(fed)
    _, (worker, _) = parts(fed)
    of_worker = next(its for address, its in sorted(listening(worker)) if address == host and speaks_tls(host, its))
    words = shlex.split(worker.command)
    own = {name: str(fed.outdir / words[words.index(f"--tls-{name}") + 1]) for name in ("cert", "key")}
    question = {"scheduler": f"tls://{host}:{port}", "worker": f"tls://{host}:{of_worker}", "own": own}
    ask = [sys.executable, "-c", ASK, str(tmp_path)]
    done = subprocess.run(ask, input=json.dumps(question), env=environment(), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    answers = {(kind, caller): said for kind, caller, said in json.loads(done.stdout)}
    assert (answers.pop(("scheduler", "own")), answers.pop(("worker", "own"))) == ("obeyed", "Worker")
    assert len(answers) == 8
    refusal = r"(OSError|TimeoutError|SSLError|\w*CommClosedError|StreamClosedError): "
    assert not {asked: said for asked, said in answers.items() if not re.match(refusal, said)}
    assert not fed.is_over() and len(fed.workers()) == 2


def speaks_tls(host: str, port: int) -> bool:
    """Whether a port answers the greeting of TLS, whatever it says then of our lack of a certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=3) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def test_nothing_is_told_over_http(fed: Daring) -> None:
    driver, workers = parts(fed)
    places = sorted({place for each in (driver, *workers) for place in listening(each)})
    assert len(places) >= 3  # of the driver and of either worker, at least
    pages = ["/", "/health", "/metrics", "/status", "/info/main/workers.html", "/json/counts.json", "/sitemap.json"]
    schemes = [f"{scheme}://{host}:{port}" for host, port in places for scheme in ("http", "https")]
    urls = [scheme + page for scheme in schemes for page in pages]
    with ThreadPoolExecutor(len(urls)) as pool:
        answers = dict(zip(urls, pool.map(told, urls)))
    for url, answer in answers.items():
        if url.endswith("/sitemap.json") and answer.startswith(b"200 "):
            assert json.loads(answer[4:]) == {"paths": ["/sitemap.json"]}, (url, answer)
        else:
            assert answer == b"" or answer.startswith(b"404 ") and fed.run_id.encode() not in answer, (url, answer)
    assert not fed.is_over()


def told(url: str) -> bytes:
    """The status and body with which a page is answered; nothing where nobody speaks HTTP."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return b"%d %s" % (answer.status, answer.read(9999))
    except urllib.error.HTTPError as error:
        return b"%d %s" % (error.code, error.read(9999))
    except (OSError, http.client.HTTPException):
        return b""


# -- files ------------------------------------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, str]:
    """The permissions of a folder and all in it, by name from there."""
    everything = [folder, *folder.rglob("*")]
    found = {}
    for path in everything:
        with contextlib.suppress(FileNotFoundError):  # heartbeats and files in the making come and go
            found[str(path.relative_to(folder))] = stat.filemode(path.lstat().st_mode)
    return found


PRIVATE = {"drwx------", "-rw-------"}
FOR_THE_GROUP = {"drwxr-x---", "-rw-r-----"}


def test_files_are_for_their_owner_alone(fed: Daring, array: Daring) -> None:
    for run in (fed, array):
        found = modes(run.outdir)
        assert set(found.values()) <= PRIVATE, found
        for pattern in (r"shards/c000000\.jsonl", r"shards/c000000\..*\.h5", r"logs/slurm-.*\.out", r"logs/session-.*",
                        r"\.mh-hpc/jobs/.*\.json", "run.json", "manifest.csv"):  # fmt: skip
            assert [name for name in found if re.fullmatch(pattern, name)], (pattern, sorted(found))
    assert modes(fed.outdir)[key_files(fed)[0]] == "-rw-------"
    assert set(modes(fed.scratch).values()) - {modes(fed.scratch)["."]} <= PRIVATE | {"-rwx------", "srwx------"}


def test_the_group_may_read_what_it_was_given(login: Daring) -> None:
    found = modes(login.outdir)
    inside = {name: mode for name, mode in found.items() if not name.startswith(".mh-hpc")}
    assert set(inside.values()) == FOR_THE_GROUP, inside
    assert {"shards/c000000.jsonl", "manifest.csv"} <= set(inside)
    assert any(name.startswith("logs/slurm-") for name in inside) and any("/driver-" in name for name in inside)
    assert found[".mh-hpc"] == "drwx------"
    assert all(name.startswith(".mh-hpc/") for name in key_files(login))


@pytest.mark.parametrize(("flag", "files"), [("--no-group-readable", PRIVATE), ("--group-readable", FOR_THE_GROUP)])
def test_results_are_as_private_as_the_rest(cluster: Cluster, tmp_path: Path, flag: str, files: set[str]) -> None:
    run = Daring(cluster, tmp_path, "slurm-array" if files == PRIVATE else "slurm")
    run.numbers(2, 0.0)
    run.order("x", "FAIL")
    run.dare(flag)
    run.ends(code=3)
    found = modes(run.outdir)
    assert {found[name] for name in ("results.csv", "failures.csv", "record.json", "run.json", ".")} == files
    assert found[".mh-hpc"] == "drwx------"


# -- keys -------------------------------------------------------------------------------------------------------------


def key_files(run: Daring) -> list[str]:
    """The files of the run that hold a private key, by name from its folder."""
    found = []
    for path in run.outdir.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            if b"PRIVATE KEY" in path.read_bytes():
                found.append(str(path.relative_to(run.outdir)))
    return found


def test_keys_go_with_their_driver(cluster: Cluster, tmp_path: Path) -> None:
    run = Daring(cluster, tmp_path)
    run.numbers(40)
    run.dare()
    run.under_way(1)
    (name,) = key_files(run)
    first = (run.outdir / name).read_bytes()
    driver = run.driver()
    assert driver is not None
    kill(driver, signal.SIGKILL)
    run.until(lambda: not run.jobs(), "workers leave a dead driver", 30)
    assert key_files(run) == [name]  # nobody was left to remove it, and nobody who would believe it
    run.dare("--resume")
    run.until(lambda: [(run.outdir / each).read_bytes() for each in key_files(run)] not in ([], [first]), "another key")
    run.ends()
    run.right(40)
    assert not key_files(run)


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fed", "array", "login"])
def test_secrets_of_the_caller_stay_with_the_caller(
    kind: str, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    run: Daring = request.getfixturevalue(kind)
    found = run.mine()
    parts = ["cli work"] if kind == "array" else ["executors.worker", "cli drive"]
    for part in (*parts, "keeper.py", "pipeservice"):
        assert any(part in each.command for each in found), part
    for each in found:
        text = (each.folder / "cmdline").read_bytes() + (each.folder / "environ").read_bytes()
        assert b"PATH=" in text and MARK not in text, each.command
    assert not holding(MARK, run.outdir) and not holding(MARK, run.scratch)
    assert not holding(MARK, cluster.folder / "state")  # where SLURM keeps the scripts and environments of jobs
    assert holding(b"PATH=", cluster.folder / "state")
    for number in run.jobs():
        shown = cluster.run("scontrol", "show", "job", number.split("_")[0])
        assert MARK.decode() not in shown + cluster.run("scontrol", "write", "batch_script", number.split("_")[0], "-")


def holding(word: bytes, folder: Path) -> list[Path]:
    """The files below a folder with this word in them."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # folders, sockets, and what has just gone
            if path.is_file() and word in path.read_bytes():
                found.append(path)
    return found


def test_keys_go_when_a_run_is_cancelled(fed: Daring) -> None:
    assert key_files(fed)
    assert fed.mh("cancel", str(fed.outdir)).code == 0
    fed.until(lambda: not key_files(fed), "no key", 10)


# -- names ------------------------------------------------------------------------------------------------------------

SHELL = "-a b's \"q\"; $(pwn)`pwn`&\n|pwn <>*?[x]{y,z}~!#\t%j%%A\N{SNOWMAN}"
LATIN = os.fsdecode(b"-\xff\xfe\xa0 --wrap=pwn")


@pytest.fixture
def alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program `pwn` on everybody's PATH that notes that it was called; nobody has called it in the end."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pwn").write_text(f'#!/bin/sh\necho "$PWD: $*" >> {folder}/calls\n')
    (folder / "pwn").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    yield
    calls = folder / "calls"
    assert not calls.exists(), calls.read_text()


def contribution(folder: Path, name: str, answer: str) -> Path:
    """A model of that name, which answers everything with a text."""
    shutil.copytree(OBEDIENT, folder)
    described = folder / "contrib_src/model/config.json"
    facts = json.loads(described.read_bytes())
    facts["meta"]["name"] = name
    facts["model"]["io"]["output"][0] = {"name": answer, "type": answer, "description": answer}
    described.write_text(json.dumps(facts))
    infer = f"class Model(ModelBase):\n    def infer(self, input):\n        return {answer!r}\n"
    (folder / "contrib_src/inference.py").write_text(f"from modelhublib.model import ModelBase\n\n\n{infer}")
    return folder


def named(cluster: Cluster, tmp_path: Path, name: str, executor: str) -> Daring:
    """A run of which everything is called so: its folders, inputs and model, and all that the model answers."""
    text = name if name.isprintable() or name == SHELL else "plain"
    run = Daring(cluster, tmp_path / name, executor, contribution(tmp_path / name / "model", text, text))
    for number in range(4):
        with open(run.inputs / f"{number}{name}.npy", "wb") as stream:
            np.save(stream, np.frombuffer(b"OK 1", np.uint8))
    run.answer = text
    return run


def all_done(run: Daring) -> None:
    run.until(run.is_over, "the end")
    assert run.record()["exit_code"] == 0, (run.record()["stopped"], run.log())
    assert [result.outputs[0].prediction for result in run.results()] == [run.answer] * 4


@pytest.mark.parametrize("executor", ["slurm", "slurm-array"])
def test_names_and_answers_reach_no_shell(cluster: Cluster, tmp_path: Path, alarm: None, executor: str) -> None:
    run = named(cluster, tmp_path, SHELL, executor)
    run.dare()
    all_done(run)


def test_names_may_be_any_bytes_where_dask_has_no_part_in_it(cluster: Cluster, tmp_path: Path, alarm: None) -> None:
    run = named(cluster, tmp_path, LATIN, "slurm-array")
    run.dare()
    all_done(run)
    refused = named(cluster, tmp_path / "other", LATIN, "slurm")
    ended = refused.submit()
    assert ended.code == 2 and "not UTF-8" in ended.err and not refused.outdir.exists(), ended.text


def test_names_and_answers_reach_no_shell_of_who_submits_by_hand(
    cluster: Cluster, tmp_path: Path, alarm: None
) -> None:
    run = named(cluster, tmp_path, SHELL, "slurm-array")
    by_hand(run, run.dare("--plan-only", "--sbatch-arg", f"--comment={COMMENT}"))


def by_hand(run: Daring, planned: Ended) -> None:
    """Do what the user is told to do after --plan-only."""
    command = planned.out[planned.out.index("MH_JOB_PYTHON=") :].replace("0-N%M", "0-1%2")
    ended = run.command(["bash", "-c", command])
    assert ended.code == 0, ended.text
    number = ended.out.split()[-1]
    listed = ["squeue", "--noheader", "--format=%F"]
    run.until(lambda: number not in run.cluster.run(*listed).split(), "the end of the array", 60)
    assert run.shards() == 2, run.log()
    resumed = run.command([sys.executable, "-m", "modelhub_hpc.cli", "resume", str(run.outdir)])
    assert resumed.code == 0, resumed.text
    all_done(run)


@pytest.mark.parametrize("executor", ["slurm", "slurm-array"])
def test_a_folder_in_which_slurm_can_write_no_log_is_refused(cluster: Cluster, tmp_path: Path, executor: str) -> None:
    run = named(cluster, tmp_path, "back\\slash", executor)
    ended = run.command(run.argv(*run.flags))
    assert ended.code == 2 and "--outdir" in ended.err, ended.text
    assert not run.outdir.exists()


def test_nor_is_a_run_of_this_machine_continued_there(cluster: Cluster, tmp_path: Path) -> None:
    run = Daring(cluster, tmp_path / "back\\slash", "inline")
    run.order("a", "FAIL")
    run.order("b", "OK 1")
    begun = run.command(run.argv("--chunk-size", "1", "--fail-fast"))
    assert begun.code == 3 and "to go    1" in begun.out, begun.text
    run.executor = "slurm"
    ended = run.command(run.argv("--resume", "-t", "5"))
    assert ended.code == 2 and "--outdir" in ended.err, ended.text


# -- what is meant to reach a shell -----------------------------------------------------------------------------------

COMMENT = "it's \"a  b\"; $(pwn) #x %j"
PROLOGUE = """\
WORDS='a  b "c"'; export WORDS="$WORDS $((1 + 1)) it's"
for each in 1 2; do echo "says $each 100%"; done"""


def comments(cluster: Cluster, run: Daring, kind: str) -> set[str]:
    """What the jobs of the run have as their comment."""
    shown = [cluster.run("scontrol", "show", "job", number.split("_")[0]) for number in run.jobs(kind)]
    return {match[1] for each in shown for match in re.finditer(r"^ *Comment=(.*?) *$", each, re.MULTILINE)}


@pytest.mark.parametrize("executor", ["slurm", "slurm-array"])
def test_lines_and_arguments_of_the_site_arrive_as_they_are(
    cluster: Cluster, tmp_path: Path, alarm: None, executor: str
) -> None:
    run = Daring(cluster, tmp_path, executor)
    run.order("x", "HANG")
    site = tmp_path / "mh-hpc.yaml"
    site.write_text(
        f"job_prologue: {json.dumps(PROLOGUE.splitlines())}\nsbatch_args: {json.dumps([f'--comment={COMMENT}'])}\n"
        f"controller_sbatch_args: {json.dumps([f'--comment={COMMENT} of the driver'])}\n"
    )
    run.dare(folder=tmp_path)
    run.until(run.sessions, "a session")
    try:
        assert comments(cluster, run, "w" if executor == "slurm" else "a") == {COMMENT}
        assert comments(cluster, run, "driver") == {f"{COMMENT} of the driver"}
        ours = [each for each in run.mine() if re.search("executors.worker|cli (drive|work) ", each.command)]
        assert len(ours) == len(run.jobs("", "RUNNING"))
        for each in ours:
            lines = (each.folder / "environ").read_bytes().split(b"\0")
            assert b"WORDS=a  b \"c\" 2 it's" in lines, each.command
        logs = [path.read_text() for path in run.outdir.glob("logs/slurm-*.out")]
        assert all(text.startswith("says 1 100%\nsays 2 100%\n") for text in logs), logs
    finally:
        assert run.mh("cancel", str(run.outdir)).code == 0


def test_lines_of_the_site_arrive_by_hand(cluster: Cluster, tmp_path: Path, alarm: None) -> None:
    run = named(cluster, tmp_path, "x", "slurm-array")
    by_hand(run, run.dare("--plan-only", MH_HPC_JOB_PROLOGUE=PROLOGUE))
    assert "says 1 100%" in run.log()


@pytest.mark.parametrize("executor", ["slurm", "slurm-array"])
def test_python_may_lie_anywhere(cluster: Cluster, tmp_path: Path, alarm: None, executor: str) -> None:
    environment_of = tmp_path / "my \"own\" venv's; $(pwn), %j"
    environment_of.symlink_to(Path(sys.prefix), target_is_directory=True)
    run = named(cluster, tmp_path, "x", executor)
    python = str(environment_of / "bin" / Path(sys.executable).name)
    run.dare(python=python)
    all_done(run)


def test_python_may_lie_anywhere_by_hand(cluster: Cluster, tmp_path: Path, alarm: None) -> None:
    environment_of = tmp_path / "a, b"
    environment_of.symlink_to(Path(sys.prefix), target_is_directory=True)
    run = named(cluster, tmp_path, "x", "slurm-array")
    by_hand(run, run.dare("--plan-only", python=str(environment_of / "bin" / Path(sys.executable).name)))


# -- what is not taken ------------------------------------------------------------------------------------------------


INSTEAD = ("partition", "account", "time", "constraint", "cpus-per-task", "qos", "mem", "gres", "gpus-per-node")
OURS = (
    *("job-name", "output", "error", "input", "chdir", "array", "dependency", "export", "signal", "open-mode", "wrap"),
    *("ntasks", "requeue", "no-requeue", "wait", "parsable", "test-only"),
)


@pytest.mark.parametrize("option", ["sbatch_args", "controller_sbatch_args"])
def test_options_that_have_a_place_of_their_own(option: str) -> None:
    for name in (*INSTEAD, *OURS):
        for argument in (f"--{name}=x", f"--{name}"):
            with pytest.raises(UsageError) as caught:
                config.load({option: (argument,)})
            assert repr(argument) in str(caught.value)
            assert (f"use --{name} instead" if name in INSTEAD else "mh-hpc sets it itself") in str(caught.value)


@pytest.mark.parametrize("argument", [*(f"-{letter}" for letter in "pAtCcJoeiDadWnV"), "-pgpu", "-t5", "-HJx", "-N1"])
def test_a_letter_may_hide_others(argument: str) -> None:
    with pytest.raises(UsageError, match="a long argument of sbatch"):
        config.load({"sbatch_args": (argument,)})


@pytest.mark.parametrize("argument", ["--exclusive", "--mem-per-cpu=300M", "--nodelist=a,b", "--time-min=5", "--nice"])
def test_options_that_have_none_are_taken(argument: str) -> None:
    assert config.load({"sbatch_args": (argument,)}).sbatch_args == (argument,)


@pytest.mark.parametrize("argument", ["--outpu=/tmp/x", "--job-nam=x", "--parti=hi", "--depend=afterany:1", "--wra=x"])
def test_options_by_their_first_letters(argument: str) -> None:
    with pytest.raises(UsageError):
        config.load({"sbatch_args": (argument,)})


@pytest.mark.parametrize("argument", ["--quiet", "--verbose", "--version", "--help", "--usage", "--export-file=x"])
def test_options_that_would_change_what_sbatch_answers_or_runs(argument: str) -> None:
    with pytest.raises(UsageError):
        config.load({"sbatch_args": (argument,)})


@pytest.mark.parametrize("name", ["partition", "account", "qos", "gres", "gpus_per_node", "constraint", "interface"])
@pytest.mark.parametrize("value", ["a b", "x\ny", "x\0", "--wrap=pwn", "-J", "", " ", "a\u2028b", "\x1b[2J"])
def test_values_that_would_be_more_than_a_word(name: str, value: str) -> None:
    with pytest.raises(UsageError, match="a word without spaces"):
        config.load({name: value})


@pytest.mark.parametrize("argument", ["x", "", "--", "-", "---x", "--comment=a\nb", "--comment=a\0", "--nice 5"])
def test_arguments_that_are_none(argument: str) -> None:
    with pytest.raises(UsageError):
        config.load({"sbatch_args": (argument,)})


def test_a_line_of_the_prologue_is_one_line() -> None:
    with pytest.raises(UsageError, match="one line of shell"):
        config.load({"job_prologue": ("a\nb",)})


def test_a_refusal_on_the_command_line(cluster: Cluster, tmp_path: Path, alarm: None) -> None:
    run = Daring(cluster, tmp_path)
    run.numbers(1)
    flags: dict[str, Any] = {
        "--sbatch-arg=--output=/x": "mh-hpc sets it itself",
        "--sbatch-arg=--partition=gpu": "use --partition instead",
        "--gres=$(pwn) x": "a word without spaces",
    }
    for flag, words in flags.items():
        ended = run.command(run.argv(*run.flags, flag))
        assert ended.code == 2 and words in ended.err, ended.text
    assert not run.outdir.exists()
