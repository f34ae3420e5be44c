"""Sessions behind a server: how many wait, what becomes of a model that dies, and what is left in the end."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from grounds import OBEDIENT, REPO, below
from servekit import Endpoint, serving

MEAN = REPO / "tests/contributions/mean"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Two at a time, and three may wait; a case may take 20 s."""
    words = (OBEDIENT, "--sessions", "2", "--waiting", "3", "--case-timeout", "20", "--mem", "600")
    with serving(tmp_path_factory.mktemp("sessions"), *words) as found:
        yield found


def order(server: Endpoint, text: str) -> requests.Response:
    """What the model's input tells it to do."""
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(text.encode("ascii"), np.uint8))
    return server.post("/api/predict", files={"file": ("a.npy", stream.getvalue())})


def value(response: requests.Response) -> float:
    assert response.status_code == 200, response.text
    return float(response.json()["output"][0]["prediction"][0])


def meanwhile(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_who_finds_all_places_taken_is_told_when_to_come_back(server: Endpoint) -> None:
    answers = list[requests.Response]()
    threads = meanwhile(8, lambda number: answers.append(order(server, f"SLEEP 2 {number}")))
    for thread in threads:
        thread.join()
    by_status = sorted(each.status_code for each in answers)
    assert by_status == [200] * 5 + [429] * 3
    for each in answers:
        if each.status_code == 429:
            assert int(each.headers["Retry-After"]) > 0 and "again" in each.json()["error"]
    assert value(order(server, "OK 3")) == 3


def test_each_gets_his_own_answer(server: Endpoint) -> None:
    answers = dict[int, float]()

    def ask(number: int) -> None:
        while (answer := order(server, f"OK {number}")).status_code == 429:
            time.sleep(0.05)
        answers[number] = value(answer)

    for thread in meanwhile(16, ask):
        thread.join()
    assert answers == {number: number for number in range(16)}


def test_a_model_that_is_killed_is_started_again_and_the_case_repeated(server: Endpoint) -> None:
    assert value(order(server, "OK 1")) == 1
    answers = list[requests.Response]()
    (thread,) = meanwhile(1, lambda _: answers.append(order(server, "SLEEP 2 7")))
    time.sleep(0.7)
    for process in server.models():
        os.kill(process.pid, signal.SIGKILL)
    thread.join()
    assert value(answers[0]) == 7


@pytest.mark.parametrize("fault", ["SEGV", "ABORT", "EXIT 0", "KILL"])
def test_a_case_that_kills_the_model_twice_is_an_error_and_the_next_is_none(server: Endpoint, fault: str) -> None:
    died = order(server, fault)
    assert died.status_code == 503 and "Retry-After" in died.headers
    assert str(server.log.parent) not in died.text and "Traceback" not in died.text
    assert value(order(server, "OK 2")) == 2


def test_what_the_model_raises_is_its_answer(server: Endpoint) -> None:
    raised = order(server, "NONSENSE")
    assert raised.status_code == 400 and "nonsense" in raised.json()["error"]
    assert "Traceback" not in raised.text and "/" not in raised.json()["error"]


def test_a_crowd_is_answered_or_told_to_come_back(server: Endpoint) -> None:
    answers = dict[int, requests.Response]()

    def ask(number: int) -> None:
        answers[number] = order(server, f"OK {number}")

    for thread in meanwhile(150, ask):
        thread.join()
    assert len(answers) == 150 and {each.status_code for each in answers.values()} <= {200, 429}
    for number, answer in answers.items():
        assert answer.status_code == 429 or value(answer) == number
    assert value(order(server, "OK 5")) == 5


def test_a_model_that_hangs_is_given_up_after_its_time(tmp_path: Path) -> None:
    with serving(tmp_path, OBEDIENT, "--case-timeout", "1") as server:
        assert order(server, "HANG").status_code == 504
        assert order(server, "GILHANG").status_code == 504
        assert value(order(server, "OK 1")) == 1


def test_a_model_that_eats_memory_is_ended(server: Endpoint) -> None:
    assert "600 MiB" in order(server, "LEAK").json()["error"]
    assert value(order(server, "OK 4")) == 4


def test_what_json_has_no_word_for_is_null(server: Endpoint) -> None:
    answer = order(server, "NAN")
    assert answer.status_code == 200 and "NaN" not in answer.text


def test_a_model_that_does_not_start_is_an_error_without_its_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(OBEDIENT, broken)
    with open(broken / "contrib_src/inference.py", "a") as code:
        code.write("\nraise RuntimeError('a secret of the site')\n")
    with serving(tmp_path, broken) as server:
        refused = order(server, "OK 1")
        assert refused.status_code == 503 and "secret" not in refused.text
        assert "a secret of the site" in server.log.read_text()
        for _ in range(5):
            assert order(server, "OK 1").status_code == 503
        assert server.log.read_text().count("StartError") == 1  # it is not tried for each who asks
        assert server.get("/api/get_config").status_code == 200


def test_a_model_that_nobody_uses_is_ended_and_started_again(tmp_path: Path) -> None:
    with serving(tmp_path, OBEDIENT, "--idle", "0.5") as server:
        assert not server.models()
        assert value(order(server, "OK 1")) == 1
        assert server.models()
        deadline = time.monotonic() + 30
        while server.models() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not server.models()
        assert value(order(server, "OK 2")) == 2


def test_it_ends_after_what_is_being_answered_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, OBEDIENT) as server:
        assert value(order(server, "OK 1")) == 1
        answers = list[requests.Response]()
        (thread,) = meanwhile(1, lambda _: answers.append(order(server, "SLEEP 2 7")))
        time.sleep(0.7)
        family = below(server.process.pid)
        assert server.stop() == 0
        thread.join()
        assert value(answers[0]) == 7
        assert family and not [each for each in family if Path(f"/proc/{each.pid}/exe").exists()]
    assert not list((tmp_path / "scratch").iterdir())


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with serving(tmp_path, OBEDIENT) as server:
        assert value(order(server, "OK 1")) == 1
        server.process.kill()
        server.process.wait()
    left = set((tmp_path / "scratch").glob("mh-hpc-serve*"))
    assert left
    with serving(tmp_path, OBEDIENT) as server:
        assert value(order(server, "OK 1")) == 1
        assert not left & set((tmp_path / "scratch").iterdir())


# The command


def refused(folder: Path, *words: object) -> tuple[int, str]:
    command = [sys.executable, "-m", "modelhub_hpc.cli", "serve", *map(str, words), "--runtime", "host"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_port_that_is_taken(server: Endpoint, tmp_path: Path) -> None:
    code, text = refused(tmp_path, OBEDIENT, "--port", server.facts["port"])
    assert code == 75 and "in use" in text and "--port" in text


def test_an_address_that_is_not_of_this_machine(tmp_path: Path) -> None:
    code, text = refused(tmp_path, OBEDIENT, "--bind", "192.0.2.1")
    assert code == 2 and "192.0.2.1" in text


def test_an_unknown_model(tmp_path: Path) -> None:
    code, text = refused(tmp_path, "digit-cnn")
    assert code == 4 and "digits-cnn" in text


def test_two_models_of_one_name(tmp_path: Path) -> None:
    code, text = refused(tmp_path, OBEDIENT, OBEDIENT)
    assert code == 2 and "one name" in text


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.0.2.1"])
def test_nobody_listens_to_the_network_without_a_token(tmp_path: Path, bind: str) -> None:
    code, text = refused(tmp_path, OBEDIENT, "--no-auth", "--bind", bind)
    assert code == 2 and "everybody" in text


@pytest.mark.parametrize(("token", "mode", "word"), [("short", 0o600, "no token"), ("a" * 30, 0o644, "chmod"),
                                                     ("a b" * 20, 0o600, "no token")])  # fmt: skip
def test_a_token_file_that_is_none(tmp_path: Path, token: str, mode: int, word: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(mode)
    code, text = refused(tmp_path, OBEDIENT, "--token-file", file)
    assert code == 2 and word in text


def test_a_socket_file_and_a_token_of_ones_own(tmp_path: Path) -> None:
    file, place = tmp_path / "token", tmp_path / "serve.sock"
    file.touch(mode=0o600)
    file.write_text("a-token-of-my-own-0123456789\n")
    with serving(tmp_path, MEAN, "--bind", f"unix:{place}", "--token-file", file) as server:
        assert server.token == "a-token-of-my-own-0123456789" and place.stat().st_mode & 0o777 == 0o600
        ask = ["curl", "-sS", "--unix-socket", str(place), f"http://localhost/api/get_config?token={server.token}"]
        if shutil.which("curl"):
            assert '"mean"' in subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        code, text = refused(tmp_path, MEAN, "--bind", f"unix:{place}")
        assert code == 75 and "Another server" in text
        assert server.stop() == 0
    assert not place.exists()


def test_what_the_network_can_see_is_said(tmp_path: Path) -> None:
    with serving(tmp_path, MEAN, "--bind", "0.0.0.0") as server:
        assert server.get("/api/get_config", headers={}).status_code == 401
        assert server.get("/api/get_config").status_code == 200
        assert "NOT ENCRYPTED" in server.log.read_text()


def test_it_says_where_it_is_and_how_to_get_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "modelhub_hpc.cli", "serve", str(MEAN), "--runtime", "host"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while "Ctrl-C" not in text:
            line = process.stdout.readline()
            assert line, text
            text += line
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0
        process.stdout.close()
    assert re.search(r"http://127\.0\.0\.1:(\d+)/\?token=[\w-]{43}\n", text)
    assert re.search(r"ssh -L (\d+):127\.0\.0\.1:\1 \S+@\S+\n", text) and "ended" in rest
