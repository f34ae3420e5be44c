"""Measure `mh-hpc serve` beside ModelHub's way to serve: `python benchmarks/service.py --help`."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import REPO, inputs, models, ways
from bench.ways import Setting
from bench.words import describe, machine, say, spread, table, write_json

from modelhub_hpc import config, contribution
from modelhub_hpc.launch import SessionSpec
from modelhub_hpc.session import Session
from modelhub_hpc.wire import Request

CLIENTS = 4
LIMIT_S = 60.0
FASTER, SLOWER = 1.5, 1.2
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'

Ask = Callable[[], object]


def main() -> int:
    options = parse()
    found = machine()
    say(describe(found))
    with tempfile.TemporaryDirectory(prefix="mh-service-") as name:
        folder = Path(name)
        model = models.make(options.model, folder / "models")
        picture = (inputs.photos if options.model in ("squeezenet", "resnet50") else inputs.digits)(folder / "in", 1)[0]
        image = ways.image("apptainer")
        setting = Setting(model, folder / "in", image, workers=1, threads=options.threads)
        rounds = [measure(setting, picture, folder, options) for _ in range(options.repeats)]
    faster = [each["served"] / each["flask"] for each in rounds]
    slower = [each["one served"] / each["one bare"] for each in rounds]
    say(f"{options.model}, {CLIENTS} clients, {options.repeats} rounds; medians, and the smallest and largest")
    unit = {"flask": "per second, Flask's own server, the model in it", "served": "per second, mh-hpc serve"}
    table((text, spread([each[name] for each in rounds], ".1f")) for name, text in unit.items())
    table([(f"ratio (goal: {FASTER} at least)", spread(faster))])
    one = {"one bare": "ms, one request in a bare session", "one served": "ms, one request to mh-hpc serve",
           "one flask": "ms, one request to Flask's own server"}  # fmt: skip
    table((text, spread([1e3 * each[name] for each in rounds], ".2f")) for name, text in one.items())
    table([(f"ratio to the bare session (goal: {SLOWER} at most)", spread(slower))])
    write_json(options, {"machine": found, "rounds": rounds, "faster": faster, "slower": slower})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Requests per second and latency, beside Flask's own server.")
    parser.add_argument("--model", choices=("null-png", "squeezenet", "resnet50", "sleep"), default="squeezenet")
    parser.add_argument("--threads", type=int, default=1, help="of each process that has the model [%(default)s]")
    parser.add_argument("--sessions", type=int, default=config.cores(), help="of mh-hpc serve [%(default)s]")
    parser.add_argument("--requests", type=int, default=200, help="of all clients together, per round [%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, in which the ways take turns [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def measure(setting: Setting, picture: Path, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Requests per second of many clients, and seconds of one request; the bare session stands for the model."""
    with flask_server(setting) as port:
        flask, one_flask = served(port, "/api/predict", {}, picture, options.requests)
    with our_server(setting, folder, options.sessions) as facts:
        key = {"Authorization": f"Bearer {facts['token']}"}
        ours, _ = served(facts["port"], "/api/predict", key, picture, options.requests)
    with our_server(setting, folder, 1) as facts:
        key = {"Authorization": f"Bearer {facts['token']}"}
        _, one_served = served(facts["port"], "/api/predict", key, picture, options.requests)
    one_bare = bare(setting, picture, options.requests // CLIENTS)
    return {"flask": flask, "served": ours, "one flask": one_flask, "one served": one_served, "one bare": one_bare}


def served(port: int, path: str, headers: dict[str, str], picture: Path, count: int) -> tuple[float, float]:
    """Requests per second of the clients together, and the median of seconds of one alone; both once it is warm."""
    body = HEAD + picture.read_bytes() + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b", **headers}

    def client() -> Ask:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)

        def ask() -> None:
            line.request("POST", path, body, kind)
            answer = line.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {text[:500]!r}")

        return ask

    asks = [client() for _ in range(CLIENTS)]
    together(asks, 5 * CLIENTS)
    seconds = together(asks, count)
    return count / seconds, alone(asks[0], count // CLIENTS)


def together(asks: list[Ask], count: int) -> float:
    """Seconds that so many requests take, by a thread for each client."""
    numbers = itertools.count()

    def work(ask: Ask) -> None:
        while next(numbers) < count:
            ask()

    threads = [threading.Thread(target=work, args=(ask,)) for ask in asks]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def alone(ask: Ask, count: int) -> float:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextlib.contextmanager
def flask_server(setting: Setting) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = setting.inside("flask_server.py", str(port))
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=setting.environment(), stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("Flask's server does not start")


@contextlib.contextmanager
def our_server(setting: Setting, folder: Path, sessions: int) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "modelhub_hpc.cli", "serve", str(setting.model), "--sessions", str(sessions)]
    command += ["--gpu", "off", "-c", str(setting.threads), "--json", "--jobs-folder", str(folder / "runs")]
    environment = {**setting.environment(), "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            text += process.stdout.readline()
        yield json.loads(text)
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def bare(setting: Setting, picture: Path, count: int) -> float:
    """Median of the seconds of one request to a session, without a server around it."""
    site = config.load({"workers": 1, "threads": setting.threads, "gpu": "off"})
    model = contribution.read(setting.model)
    spec = SessionSpec.of(site, model, setting.image, "python3", roots=(picture.parent,))
    with Session(spec) as session:

        def ask() -> None:
            for reply in session.predict([Request("a", (("single", str(picture)),))]):
                assert reply.error is None, reply.error

        for _ in range(5):
            ask()
        return alone(ask, count)


if __name__ == "__main__":
    sys.exit(main())
