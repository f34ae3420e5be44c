"""What the tests of registries share: a registry with an image, a user without logins, and a place to pull to."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerimages import DockerImage, file, gone, save_layout
from registry_server import PASSWORD, RegistryServer, basic

from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.origin import Origin
from modelhub_hpc.platforms import this_machine
from modelhub_hpc.sources import pull
from modelhub_hpc.sources.web import Interrupted, Patience

HERE = this_machine().architecture
QUICK = Patience(connect_s=20.0, read_s=20.0, tries=3, pause_s=0.01)
HASTY = Patience(connect_s=20.0, read_s=0.5, tries=2, pause_s=0.01)
# the size of the layers that are interrupted: they do not compress, and a cut leaves a good part of them
BYTES = 3_000_000
OVERHEAD = 150_000  # headers, manifests, and what was on its way when a connection was cut
NOISE = random.Random(1).randbytes(BYTES)


def image(architecture: str = HERE, **options: bool) -> DockerImage:
    layers = [
        [file("etc/one", NOISE), file("etc/two", b"2")],
        [gone("etc/two"), file("etc/three", NOISE[::-1])],
        [file("etc/four", architecture.encode())],
    ]
    return DockerImage(layers, {"Cmd": ["/bin/true"]}, architecture=architecture, **options)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_layout([image()], tmp_path_factory.mktemp("layout") / "one")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        server.push(layout, "lab/net", "1")
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any login, proxy or authorities of his own."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("DOCKER_", "APPTAINER", "REQUESTS_", "CURL_")):
            monkeypatch.delenv(name)
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    return place


class Place:
    """A workspace and a folder of blobs, as a store has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        self.seen: list[tuple[int, int]] = []
        self._count = 0

    def fetch(self, origin: Origin, patience: Patience = QUICK, https: bool = False) -> Path:
        """The layout, every blob of which is compared with its digest."""
        self._count += 1
        work = self.folder / f"work{self._count}"
        work.mkdir()
        what = pull.fetch(
            origin, work / "oci", self.blobs, https, lambda *count: self.seen.append(count), patience
        )
        for blob in (work / "oci/blobs/sha256").iterdir():
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        assert what == f"oci:{work}/oci"
        return work / "oci"

    def parts(self) -> int:
        return sum(part.stat().st_size for part in self.blobs.glob("*.part"))

    def names(self) -> set[str]:
        return {entry.name for entry in self.blobs.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def resolve(address: str, name: str = "lab/net:1", https: bool = False, patience: Patience = QUICK) -> Origin:
    return pull.resolve(f"docker://{address}/{name}", f"{address}/{name}", https, patience)


def refused(address: str, kind: type[ModelHubError], name: str = "lab/net:1", https: bool = False) -> str:
    with pytest.raises(kind) as caught:
        resolve(address, name, https)
    assert type(caught.value) in (kind, Interrupted)
    assert PASSWORD not in str(caught.value) and basic() not in str(caught.value)
    return str(caught.value)


def log_in(path: Path, address: str, login: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {address: {"auth": login or basic()}}}))


# a process of its own that fetches SOURCE into FOLDER/NAME, with blobs in FOLDER/blobs
FETCH = """
import sys
from pathlib import Path
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.sources import fetch, resolve
source, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
(folder / name).mkdir()
(folder / "blobs").mkdir(exist_ok=True)
try:
    fetch(resolve(source, https=False), folder / name, folder / "blobs", https=False)
except ModelHubError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def fetching(source: str, folder: Path, name: str = "work") -> list[str]:
    return [sys.executable, "-c", FETCH, source, str(folder), name]
