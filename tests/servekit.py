"""`mh-hpc serve` as users start it, and clients of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from grounds import CACHE, Process, below

START_S = 60.0
END_S = 60.0


@dataclass
class Endpoint:
    """A server that runs. url: without a slash at its end; log: what it has said on stderr."""

    url: str
    token: str | None
    facts: dict[str, Any]
    process: subprocess.Popen[str]
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def get(self, path: str, **how: Any) -> requests.Response:
        return self.ask("GET", path, **how)

    def post(self, path: str, **how: Any) -> requests.Response:
        return self.ask("POST", path, **how)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **how: Any) -> requests.Response:
        """With the token, unless other headers are given; path: also a whole address."""
        url = path if path.startswith("http") else self.url + path
        given = self.headers if headers is None else headers
        return requests.request(method, url, headers=given, **{"allow_redirects": False, "timeout": 60, **how})

    def models(self) -> list[Process]:
        """The processes in which models are, once they have started."""
        return [each for each in below(self.process.pid) if "pipeservice" in each.command]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_S)


@contextmanager
def serving(folder: Path, *words: object, runtime: str = "host", **variables: str) -> Iterator[Endpoint]:
    """A server in a folder of its own, below which everything that it makes has to lie."""
    scratch, log = folder / "scratch", folder / "serve.log"
    scratch.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "modelhub_hpc.cli", "serve", *map(str, words), "--runtime", runtime, "--json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MH_HPC_")}
    settings = {"MH_HPC_SCRATCH_DIR": str(scratch), "MH_HPC_CACHE_DIR": str(CACHE), "TMPDIR": str(scratch)}
    with open(log, "ab") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env={**kept, **settings, **variables}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        facts = _facts(process, log)
        url, _, _ = facts.get("url", "http://localhost/").partition("?")
        yield Endpoint(url.rstrip("/"), facts["token"], facts, process, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(END_S)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _facts(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """What it says first: a JSON object over several lines."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.rstrip() == "}":
            found: dict[str, Any] = json.loads("".join(lines))
            return found
    raise AssertionError(f"it ended with {process.wait(START_S)}:\n{log.read_text()}")
