"""Many clients at once, and a model that is killed meanwhile: each gets his own answer, or is told to ask again."""

from __future__ import annotations

import collections
import io
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import pytest
import requests
from grounds import REPO
from PIL import Image
from servekit import Endpoint, serving

CLIENTS, KILLS = 32, 3
UPLOADS = {"host": 1000, "apptainer": 200}
DIFFERENT = 60
RETRYABLE = (429, 503)

Files = dict[str, tuple[str, bytes]]
Question = tuple[Files, Any]  # what to upload, and the one right answer


@pytest.fixture(scope="module")
def server(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    words = ("digits-cnn", REPO / "tests/contributions/pair", "--sessions", "2")
    with serving(tmp_path_factory.mktemp("load"), *words, runtime=runtime) as found:
        yield found


@pytest.fixture(scope="module", params=["host", "apptainer"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param == "apptainer":
        request.getfixturevalue("image")
    return str(request.param)


def test_pictures(server: Endpoint, runtime: str) -> None:
    pixels = np.random.default_rng(1)
    scans = [pixels.integers(0, 256, (8, 8), np.uint8) for _ in range(DIFFERENT)]
    pictures = [{"file": (f"{number}.png", png(scan))} for number, scan in enumerate(scans)]
    alone = [digits(server.post("/models/digits-cnn/api/predict", files=picture)) for picture in pictures]
    assert len({str(each) for each in alone}) == DIFFERENT
    ask_all(server, "/models/digits-cnn/api/predict", list(zip(pictures, alone)), UPLOADS[runtime], digits)


def test_several_inputs_whose_arrays_are_fetched(server: Endpoint, runtime: str) -> None:
    def question(number: int) -> Question:
        first, second = np.full((4, 5), float(number)), np.full((4, 5), -2.0 * number)
        files = {"first": ("a.npy", npy(first)), "second": ("b.npy", npy(second))}
        return files, ([20.0 * number, -40.0 * number], float(number), -2.0 * number)

    def read(response: requests.Response) -> Any:
        sums, both = response.json()["output"]
        with h5py.File(io.BytesIO(server.get(both["prediction"]).content)) as file:
            stack = file["both"][...]
        assert (stack[0] == stack[0, 0, 0]).all() and (stack[1] == stack[1, 0, 0]).all()
        return sums["prediction"], stack[0, 0, 0], stack[1, 0, 0]

    questions = [question(number) for number in range(1, 1000)]
    ask_all(server, "/models/pair/api/predict", questions, UPLOADS[runtime], read)


def ask_all(
    server: Endpoint, path: str, questions: list[Question], count: int, read: Callable[[requests.Response], Any]
) -> None:
    """So many uploads by so many clients, the models killed from time to time; no answer may be another's."""
    todo = collections.deque(random.Random(2).choices(questions, k=count))
    wrong, statuses = list[Any](), collections.Counter[int]()

    def client() -> None:
        while len(wrong) < 5:
            try:
                files, right = todo.popleft()
            except IndexError:
                return
            for _ in range(100):
                response = server.post(path, files=files)
                statuses[response.status_code] += 1
                if response.status_code not in RETRYABLE:
                    break
                assert int(response.headers["Retry-After"]) > 0 and response.json()["error"]
                time.sleep(0.1)
            if response.status_code != 200 or read(response) != right:
                wrong.append((response.status_code, response.text, right))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    killed = kill_meanwhile(server, todo, wrong, count)
    for thread in threads:
        thread.join()
    assert killed == KILLS
    assert not wrong, wrong[:3]
    assert statuses[200] == count and set(statuses) <= {200, *RETRYABLE}, statuses
    assert server.process.poll() is None
    requests_left = list((server.log.parent / "scratch").glob("mh-hpc-serve*/requests/*/*"))
    assert not requests_left


def kill_meanwhile(server: Endpoint, todo: collections.deque[Question], wrong: list[Any], count: int) -> int:
    """Kill all models once a quarter of the work is done, then half, then three quarters; how often that was."""
    for number in range(1, KILLS + 1):
        while len(todo) > count * (KILLS + 1 - number) // (KILLS + 1):
            assert not wrong, wrong[:3]
            time.sleep(0.01)
        found = server.models()
        assert found
        for process in found:
            end(process.pid)
    return KILLS


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # another of its family took it along


def digits(response: requests.Response) -> Any:
    return response.json()["output"][0]["prediction"]


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
