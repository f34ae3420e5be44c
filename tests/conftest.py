"""What the tests share: the two runtimes, and a model that obeys its input."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from grounds import CACHE, IMAGE, OBEDIENT, Write
from slurm_cluster import cluster, start_cluster  # noqa: F401  # fixtures

from modelhub_hpc import images
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.launch import SessionSpec

# no memory of failed examples in the checkout, which may not be writable
hypothesis.settings.register_profile("forgetful", database=None)
hypothesis.settings.load_profile("forgetful")

# Background jobs and nohup have signals ignored, children inherit that, and mh-hpc respects it; the tests of
# signals want to be heard all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for a cluster are tests of SLURM, which run beside the others."""
    for item in items:
        if {"cluster", "start_cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A command that a test runs in its own process sets the log up for itself, which the next test is spared."""
    ours = logging.getLogger("modelhub_hpc")
    before = ours.handlers, ours.propagate, ours.level
    yield
    ours.handlers, ours.propagate, level = before
    ours.setLevel(level)


@pytest.fixture(scope="session")
def image() -> images.Image:
    """The real image; absent Apptainer skips, unless this machine is meant to have it."""
    try:
        if not shutil.which("apptainer"):
            raise ModelHubError("Apptainer is not installed")
        return images.find(IMAGE, SiteConfig(cache_dir=CACHE))
    except ModelHubError as error:
        if os.environ.get("MH_TEST_REQUIRE_APPTAINER"):
            raise
        pytest.skip(f"needs Apptainer and the image of `make image`: {error}")


@pytest.fixture(params=["host", "apptainer"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Each test that takes this runs in both worlds."""
    if request.param == "apptainer":
        request.getfixturevalue("image")
    return str(request.param)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def command(tmp_path: Path) -> Write:
    """Write an input that commands the obedient model: command("SLEEP 1", name="a")."""
    folder = tmp_path / "inputs"
    folder.mkdir(exist_ok=True)

    def write(text: str, name: str | None = None) -> Path:
        path = folder / f"{name or text.split()[0].lower()}.npy"
        np.save(path, np.frombuffer(text.encode("ascii"), np.uint8))
        return path

    return write


@pytest.fixture
def spec(runtime: str, scratch: Path, tmp_path: Path, request: pytest.FixtureRequest) -> SessionSpec:
    found = request.getfixturevalue("image") if runtime == "apptainer" else None
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / "inputs").mkdir(exist_ok=True)
    return SessionSpec(
        runtime=runtime,
        image=found.path if found else None,
        interpreter=found.interpreter if found else sys.executable,
        contrib_src=OBEDIENT / "contrib_src",
        roots=(tmp_path / "inputs",),
        gpus=(),
        threads=1,
        scratch=scratch,
        logs=logs,
        start_timeout_s=60.0,
        case_timeout_s=20.0,
        mem_mb=0,
        max_log_mb=1,
        network=False,
        seccomp=True,
    )
