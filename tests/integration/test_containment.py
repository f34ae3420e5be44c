"""What a model can see and do inside its container: a probe tries, and its findings are compared with a golden file."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from driving import Site, environment
from grounds import REPO

from modelhub_hpc.images import Image

PROBE = REPO / "tests/integration/contributions/probe"
GOLDEN = REPO / "tests/golden/containment.json"
SECRET = "hunter2"
# What could pierce the flags of Apptainer, or tell a model what is none of its business.
SECRETS = {
    "APPTAINER_BIND": "/etc:/leaked",
    "APPTAINER_BINDPATH": "/etc:/leaked",
    "SINGULARITY_BIND": "/etc:/leaked",
    "APPTAINER_CONTAIN": "0",
    "APPTAINERENV_LEAK": SECRET,
    "SINGULARITYENV_LEAK": SECRET,
    "APPTAINERENV_PREPEND_PATH": f"/{SECRET}",
    "APPTAINERENV_LD_LIBRARY_PATH": f"/{SECRET}",
    "http_proxy": f"http://user:{SECRET}@127.0.0.1:9",
    "HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:9",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "SLURM_JOB_NAME": SECRET,
    "SSH_AUTH_SOCK": f"/tmp/{SECRET}",
}


@pytest.fixture(scope="module")
def seen(image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The probe's findings, from one run."""
    site = Site(tmp_path_factory.mktemp("containment"), "apptainer", "inline", PROBE)
    home = pwd.getpwuid(os.getuid()).pw_dir
    with canary(home) as in_home, canary("/tmp") as in_tmp, canary("/var/tmp") as beside, listener() as port:
        paths = {"home": in_home, "tmp": in_tmp, "var_tmp": beside, "leaked": "/leaked", "run": str(site.outdir)}
        site.order("probe", json.dumps({"port": port, "paths": paths}))
        ended = site.submit("--cpus-per-task", "1", variables=SECRETS)
    assert ended.code == 0, ended.text
    (result,) = site.results()
    found = result.outputs[0].prediction
    assert isinstance(found, dict)
    return found


class canary:
    """A file that a model must not find, for as long as the block lasts."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="mh-canary-", dir=folder)

    def __enter__(self) -> str:
        return self._file.name

    def __exit__(self, *_: object) -> None:
        self._file.close()


class listener:
    """A service on the host's loopback; its port."""

    def __enter__(self) -> int:
        self._socket = socket.create_server(("127.0.0.1", 0))
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_no_secret_of_the_caller_reaches_the_model(seen: dict[str, Any]) -> None:
    environment: dict[str, str] = seen["environment"]
    values = json.dumps(list(environment.values()))
    assert not [secret for secret in (SECRET, "/leaked", "127.0.0.1") if secret in values]
    assert not [name for name in ("LEAK", "MH_HPC_CACHE_DIR", "SSH_AUTH_SOCK", "http_proxy") if name in environment]


def test_a_model_sees_and_does_what_it_always_did(seen: dict[str, Any]) -> None:
    """Everything else, fact by fact. MH_TEST_UPDATE_GOLDEN=1 rewrites the file: look at the difference."""
    facts = {name: value for name, value in seen.items() if name != "environment"}
    facts["identity"]["uid"] = "the caller's" if facts["identity"]["uid"] == os.getuid() else "another"
    facts["environment"] = sorted(seen["environment"])
    if os.environ.get("MH_TEST_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    assert facts == json.loads(GOLDEN.read_text())


def test_the_essentials_hold_whatever_the_golden_file_says(seen: dict[str, Any]) -> None:
    assert not any(seen["visible"].values())
    assert seen["network"] != "allowed" and seen["interfaces"] == ["lo"]
    assert seen["privileges"]["Seccomp"] == "2" and seen["privileges"]["NoNewPrivs"] == "1"
    assert int(seen["privileges"]["CapEff"], 16) == 0
    refused = ("unshare", "clone", "mount", "ptrace", "input", "input_folder")
    assert not [name for name in refused if seen[name] == "allowed"]
    assert seen["threads"] == [0, 1, 2, 3] and seen["core_limit"] == [0, 0] and seen["stdin"] == ""
    for folder in ("/contrib_src", "/framework", "/usr", "/"):
        assert seen["writable"][folder] != "allowed"
    for folder in ("/home/model", "/tmp", "/output", "/working", "/temp"):
        assert seen["writable"][folder] == "allowed"


def test_a_host_without_a_time_zone(image: Image, tmp_path: Path) -> None:
    """Apptainer's default configuration binds /etc/localtime, which minimal systems lack: no container would start."""
    etc = tmp_path / "etc"
    # what an ordinary user may not read, a run does not need
    shutil.copytree("/etc", etc, symlinks=True, ignore=_unreadable)
    (etc / "localtime").unlink(missing_ok=True)
    site = Site(tmp_path, "apptainer", "inline")
    site.order("n0", "OK 3")
    me = ["unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}"] if os.geteuid() else []
    apart = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() else []), "--mount"]
    stage = ["sh", "-c", 'mount --bind "$0" /etc || exit 77; exec "$@"', str(etc), *me]
    command = [*apart, *stage, *site.argv()]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    if done.returncode == 77:
        pytest.skip(f"this machine lets its users have no mount namespace: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [result.outputs[0].prediction for result in site.results()] == [[3.0, 6.0]]


def _unreadable(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not os.access(os.path.join(folder, name), os.R_OK)]
