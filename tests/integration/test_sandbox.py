"""`mh-hpc shell` and `mh-hpc sandbox`: contributions by hand, in real containers, with a real Jupyter."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from driving import environment, eventually
from grounds import CACHE, REPO, processes
from legacy_images import LABELS, STRIPES, Store
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from modelhub_hpc import images
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError

pytestmark = [pytest.mark.apptainer, pytest.mark.slow]
MEAN = REPO / "tests/contributions/mean"
SAMPLE = STRIPES / "contrib_src/sample_data/checks.png"
LIMIT_S = 60.0
JUPYTER = "modelhub-hpc/onnxruntime-jupyter:1"
SHIPPED = sorted(path.name for path in (REPO / "registry/contributions").iterdir())

SERVE_AND_ASK = """
MODELHUB_PORT=8123 {python} run.py & {python} - <<'END'
import json, time
try:
    from urllib2 import urlopen
except ImportError:
    from urllib.request import urlopen
for attempt in range(100):
    try:
        answer = urlopen("http://127.0.0.1:8123/api/predict_sample?filename=checks.png").read()
        break
    except IOError:
        time.sleep(0.2)
print("ANSWER " + json.dumps(json.loads(answer.decode("utf-8"))["output"][0]["prediction"]))
END
kill %1"""

ASK = """from modelapi import model
import json
print("ANSWER " + json.dumps(model.predict("sample_data/checks.png")["output"][0]["prediction"]))"""

NOTEBOOK = """
import os, socket
from modelapi import model
result = model.predict("sample_data/checks.png")
print(os.getcwd(), result["output"][0]["prediction"])
open("sample_data/mine.txt", "w").write("new")
open("/output/mine.h5", "w").close()
try:
    socket.create_connection(("192.0.2.1", 9), 2)
except OSError as error:
    print("offline:", error.strerror)
"""


@dataclass(frozen=True)
class Desk:
    """A contribution that tests may change, and the private folders of what works on it."""

    model: Path
    scratch: Path
    store: str

    def argv(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "modelhub_hpc.cli", *map(str, words)]

    @property
    def env(self) -> dict[str, str]:
        settings = {"MH_HPC_SCRATCH_DIR": str(self.scratch)}
        return environment(**settings, **({"MH_HPC_CACHE_DIR": self.store} if self.store else {}))

    def run(self, *words: object, text: str = "") -> subprocess.CompletedProcess[str]:
        command = self.argv(*words)
        return subprocess.run(
            command, env=self.env, input=text, capture_output=True, text=True, timeout=LIMIT_S
        )

    def shell(self, *command: object, text: str = "", options: tuple[object, ...] = ()) -> Any:
        return self.run("shell", self.model, *options, "--", *command, text=text)

    def leaves_nothing(self) -> bool:
        def gone() -> bool:
            return not any(self.scratch.iterdir()) and not any(p.mentions([str(self.scratch)]) for p in processes())

        return eventually(gone, 10)


def desk_of(model: Path, folder: Path, store: str = "") -> Desk:
    shutil.copytree(model, folder / "model")
    (folder / "scratch").mkdir()
    return Desk(folder / "model", folder / "scratch", store)


@pytest.fixture
def desk(image: images.Image, tmp_path: Path) -> Desk:
    made = desk_of(MEAN, tmp_path)
    samples = made.model / "contrib_src/sample_data"
    samples.mkdir()
    shutil.copy(SAMPLE, samples)
    for name in ("run.py", "modelapi.py"):
        shutil.copy(STRIPES / "contrib_src" / name, made.model / "contrib_src")
    return made


@pytest.fixture(scope="module")
def with_jupyter(image: images.Image) -> str:
    """The name of an image that has Jupyter, as the published ones do."""
    try:
        images.find(JUPYTER, SiteConfig(cache_dir=CACHE))
    except InvalidError as error:
        (pytest.fail if os.environ.get("MH_TEST_REQUIRE_APPTAINER") else pytest.skip)(f"make jupyter: {error}")
    return JUPYTER


# -- shell ------------------------------------------------------------------------------------------------------


def test_a_command_in_a_copy_that_it_may_change(desk: Desk) -> None:
    script = "pwd; touch new sample_data/new /output/a /working/a /temp/a /tmp/a ~/a && echo written; cat; exit 7"
    done = desk.shell("sh", "-c", script, text="from stdin")
    assert (done.returncode, done.stdout) == (7, "/contrib_src\nwritten\nfrom stdin"), done.stderr
    assert not (desk.model / "contrib_src/new").exists() and desk.leaves_nothing()


def test_it_is_contained_like_a_session(desk: Desk) -> None:
    (desk.scratch.parent / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ask = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('connected')"
        script = f"env; touch /framework/x; cat {desk.scratch.parent}/secret; unshare -U true; python3 -c \"{ask}\""
        os.environ["MH_TEST_SECRET"] = "secret"
        try:
            done = desk.shell("sh", "-c", script)
        finally:
            del os.environ["MH_TEST_SECRET"]
        assert "secret" not in done.stdout and "connected" not in done.stdout
        assert "/framework/x': Read-only" in done.stderr and "unshare failed" in done.stderr
        open_to_all = desk.shell("python3", "-c", ask, options=("--allow-network",))
    assert open_to_all.stdout == "connected\n"


def test_data_is_shown_read_only(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "my, data"
    folder.mkdir()
    (folder / "scan").write_text("pixels")
    done = desk.shell("sh", "-c", "cat /data/scan; touch /data/x", options=("--data", folder))
    assert done.stdout == "pixels" and "Read-only" in done.stderr
    assert desk.shell("true", options=("--data", folder / "none")).returncode == 2


def test_large_files_are_shown_and_not_copied(desk: Desk) -> None:
    weights = desk.model / "contrib_src/model/weights.bin"
    weights.write_bytes(b"weights" + bytes(17 * 2**20))
    done = desk.shell("sh", "-c", "head -c 7 model/weights.bin; echo > model/weights.bin")
    assert done.stdout == "weights" and "Read-only" in done.stderr
    kept = desk.scratch.parent / "kept"
    done = desk.shell("sh", "-c", "echo changed > model/weights.bin; touch new", options=("--keep", kept))
    assert done.returncode == 0, done.stderr
    assert (kept / "model/weights.bin").read_text() == "changed\n" and (kept / "new").exists()
    assert weights.read_bytes().startswith(b"weights") and desk.leaves_nothing()
    again = desk.shell("true", options=("--keep", kept))
    assert again.returncode == 2 and "exists already" in again.stderr


def test_without_a_terminal_it_says_what_to_do_instead(desk: Desk) -> None:
    done = desk.run("shell", desk.model)
    assert done.returncode == 2
    assert "-- COMMAND" in done.stderr and "srun --pty" in done.stderr


def test_a_terminal_and_its_signals(desk: Desk) -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.execve(sys.executable, desk.argv("shell", desk.model), {**desk.env, "TERM": "vt220"})
    told = b""

    def says(words: bytes) -> bool:
        nonlocal told
        while words not in told:
            assert select.select([terminal], [], [], LIMIT_S)[0], told
            told += os.read(terminal, 4096)
        told = told.partition(words)[2]
        return True

    assert says(b"In /contrib_src")
    wait = b"import time; print(6 * 7); time.sleep(60)"
    os.write(terminal, b"test -t 0 && echo on-a-$TERM-terminal; python3 -c '%s'\n" % wait)
    assert says(b"on-a-vt220-terminal") and says(b"42")
    os.write(terminal, b"\x03")
    assert says(b"KeyboardInterrupt")
    os.write(terminal, b"echo code=$?; exit 5\n")
    assert says(b"code=130")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)
    assert desk.leaves_nothing()


def test_killed_it_leaves_nothing(desk: Desk) -> None:
    command = desk.argv("shell", desk.model, "--", "sh", "-c", "echo up; sleep 300")
    with subprocess.Popen(command, env=desk.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.kill()
    assert desk.leaves_nothing()


def test_run_and_modelapi_work_as_they_are(desk: Desk) -> None:
    assert answer(desk.shell("sh", "-c", SERVE_AND_ASK.format(python="python3"))) == [128.0]
    assert answer(desk.shell("python3", "-c", ASK)) == [128.0]


def test_those_of_2018_too(legacy_store: Store, tmp_path: Path) -> None:
    desk = desk_of(STRIPES, tmp_path, str(legacy_store.cache))
    served = answer(desk.shell("sh", "-c", SERVE_AND_ASK.format(python="python")))
    assert max(served, key=lambda each: each["probability"])["label"] == LABELS[2]
    assert answer(desk.shell("python", "-c", ASK)) == served
    assert desk.leaves_nothing()


# -- sandbox ----------------------------------------------------------------------------------------------------


def test_an_image_without_jupyter(desk: Desk) -> None:
    done = desk.run("sandbox", desk.model)
    assert done.returncode == 4
    assert "has no Jupyter" in done.stderr and f"mh-hpc shell {desk.model}" in done.stderr
    assert "--image" in done.stderr and desk.leaves_nothing()


def test_a_notebook_of_the_sandbox(desk: Desk, with_jupyter: str) -> None:
    kept = desk.scratch.parent / "kept"
    with opened(desk, "--image", with_jupyter, "--keep", kept) as (facts, process):
        assert facts["ssh"].startswith(f"ssh -L {facts['port']}:localhost:{facts['port']} ")
        assert facts["url"] == f"http://127.0.0.1:{facts['port']}/?token={facts['token']}"
        assert not [each.command for each in processes() if facts["token"] in each.command]
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{facts['port']}/api/contents")
        refused.value.close()
        names = {each["name"] for each in ask(facts, "contents")["content"]}
        assert {"inference.py", "sample_data"} <= names
        told = asyncio.run(run_code(facts, NOTEBOOK))
        assert told == "/contrib_src [128.0]\noffline: Network is unreachable\n"
        with socket.create_connection(("127.0.0.1", facts["port"])) as waiting:
            waiting.sendall(b"GET /api HTTP/1.1\r\n")
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 0
    said = (desk.scratch.parent / "log").read_text()
    assert "The sandbox is closed. Your copy: " in said and "Traceback" not in said
    assert facts["url"] in said and facts["ssh"] in said and "It has no network" in said
    assert (kept / "sample_data/mine.txt").read_text() == "new"
    assert not (desk.model / "contrib_src/sample_data/mine.txt").exists() and desk.leaves_nothing()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_notebooks_of_models_that_ship(name: str, with_jupyter: str, tmp_path: Path) -> None:
    desk = desk_of(REPO / "registry/contributions" / name, tmp_path)
    notebook = json.loads((desk.model / "contrib_src/sandbox.ipynb").read_bytes())
    cells = ["".join(each["source"]) for each in notebook["cells"] if each["cell_type"] == "code"]
    with opened(desk, "--image", with_jupyter) as (facts, process):
        said = asyncio.run(run_code(facts, "\n".join([*cells, "print('all ran')"])))
        assert said.endswith("all ran\n") and len(said.splitlines()) > 1
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0


def test_ports_and_ends_of_sandboxes(desk: Desk, with_jupyter: str) -> None:
    with opened(desk, "--image", with_jupyter) as (first, process):
        taken = desk.run("sandbox", desk.model, "--image", with_jupyter, "--port", first["port"])
        assert taken.returncode == 2 and f"--port {first['port']} cannot be used" in taken.stderr
        process.kill()
    assert desk.leaves_nothing()


@dataclass
class opened:
    """A sandbox that answers: what it says, and its process."""

    desk: Desk
    words: tuple[object, ...]

    def __init__(self, desk: Desk, *words: object) -> None:
        self.desk, self.words = desk, words

    def __enter__(self) -> tuple[dict[str, Any], subprocess.Popen[bytes]]:
        command = self.desk.argv("sandbox", self.desk.model, "--json", *self.words)
        self.log = open(self.desk.scratch.parent / "log", "wb")
        self.process = subprocess.Popen(command, env=self.desk.env, stdout=subprocess.PIPE, stderr=self.log)
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"}\n"):
            line = self.process.stdout.readline()
            assert line, "the sandbox ended"
            text += line
        return json.loads(text), self.process

    def __exit__(self, *_: object) -> None:
        self.log.close()
        self.process.kill()
        self.process.communicate()


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """What the last line that begins with ANSWER says."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, done.stdout + done.stderr
    return json.loads(lines[-1].removeprefix("ANSWER "))


def ask(facts: dict[str, Any], path: str, method: str = "GET") -> Any:
    head = {"Authorization": f"token {facts['token']}"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{facts['port']}/api/{path}", headers=head, method=method
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as reply:
        return json.load(reply)


async def run_code(facts: dict[str, Any], code: str) -> str:
    """What a new kernel prints, asked as a browser asks."""
    kernel = ask(facts, "kernels", "POST")["id"]
    address = f"ws://127.0.0.1:{facts['port']}/api/kernels/{kernel}/channels"
    channel = await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {facts['token']}"}))
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": ""}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    header["version"] = "5.3"
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await channel.write_message(json.dumps(message))
    printed, idle = "", False
    while not idle:
        reply = json.loads(await asyncio.wait_for(channel.read_message(), LIMIT_S) or "{}")
        if reply["parent_header"].get("msg_id") == header["msg_id"]:
            assert reply["msg_type"] != "error", reply
            printed += reply["content"]["text"] if reply["msg_type"] == "stream" else ""
            idle = reply["content"].get("execution_state") == "idle"
    channel.close()
    while await asyncio.wait_for(channel.read_message(), LIMIT_S) is not None:
        pass  # replies that came after "idle"; None says that the socket is closed
    return printed
