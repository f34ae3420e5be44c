"""A full disk stops the run with a clear word; nothing half-written counts; with room again it goes on.

A real full disk: a small tmpfs in a mount namespace, an ordinary user's in a user namespace of his own, in which the
whole command runs. Apptainer works there as it does outside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import Ended, Site, environment, eventually

from modelhub_hpc.images import Image

CASES = 24
SIZE_MB = 64
ROOM_MB = 6
BALLAST = "ballast"


class Namespace:
    """A mount namespace with a small tmpfs at `folder`, held open by a process that sleeps."""

    def __init__(self, folder: Path, limit: str) -> None:
        mount = f'mount -t tmpfs -o {limit},mode=0777 small "$1" && echo ready && exec sleep 600'
        command = ["unshare", *enter_flags(), "--mount", "sh", "-c", mount, "sh", str(folder)]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        self.ready = self.holder.stdout.readline() == "ready\n"

    def run(self, argv: list[str], limit_s: float = 120.0) -> Ended:
        user = ["--user", "--preserve-credentials"] if rootless() else []
        enter = ["nsenter", f"--target={self.holder.pid}", "--mount", *user, f"--wd={os.getcwd()}"]
        command = [*enter, *argv]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=limit_s)
        return Ended(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        with self.holder:
            self.holder.kill()


def rootless() -> bool:
    return os.geteuid() != 0


def enter_flags() -> list[str]:
    return ["--user", "--map-root-user"] if rootless() else []


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Namespace, Path]]:
    """The namespace and the folder in it that has little room: ROOM_MB, the rest is ballast."""
    folder = tmp_path / "small"
    folder.mkdir()
    namespace = Namespace(folder, getattr(request, "param", f"size={SIZE_MB}m"))
    try:
        if not namespace.ready:
            pytest.skip("this machine lets its users have no mount namespace")
        yield namespace, folder
    finally:
        namespace.close()


def load(namespace: Namespace, folder: Path) -> None:
    inside(namespace, FILL, folder / BALLAST, (SIZE_MB - ROOM_MB) * 2**20)


def unload(namespace: Namespace, folder: Path) -> None:
    inside(namespace, "import os, sys; os.unlink(sys.argv[1])", folder / BALLAST)


def inside(namespace: Namespace, code: str, *arguments: Path | int) -> str:
    """Run Python in the namespace, where the small folder can be seen."""
    ended = namespace.run([sys.executable, "-c", code, *map(str, arguments)])
    assert ended.code == 0, ended.text
    return ended.out


FILL = "import sys; open(sys.argv[1], 'wb').write(bytes(int(sys.argv[2])))"
LIST = "import os, sys; print(*(os.path.join(p, f) for p, _, fs in os.walk(sys.argv[1]) for f in fs), sep='\\n')"
LEFT = "import os, sys; print(*os.listdir(sys.argv[1]), sep='\\n')"
READ = """
import sys
from pathlib import Path
sys.path[:0] = {places!r}
from driving import Site
site = Site.__new__(Site)
site.outdir = Path(sys.argv[1])
for result in site.results():
    print(result.index, result.status, result.attempts)
"""


def results(namespace: Namespace, outdir: Path) -> list[str]:
    here = Path(__file__).parent
    return inside(namespace, READ.format(places=[str(here), str(here.parent)]), outdir).splitlines()


@pytest.fixture
def site(runtime: str, tmp_path: Path) -> Site:
    made = Site(tmp_path, runtime, "inline")
    for number in range(CASES):
        made.order(f"n{number:02d}", f"NOISE 1 {number}")
    return made


def test_a_full_run_folder(site: Site, small: tuple[Namespace, Path]) -> None:
    """24 arrays of 1 MiB that do not compress, 6 MiB of room."""
    namespace, folder = small
    load(namespace, folder)
    site.outdir = folder / "run"
    full = namespace.run(site.argv("--chunk-size", "2"))
    assert full.code == 75, full.text
    assert "No space left on device" in full.err and str(site.outdir) in full.err and "MB free" in full.err
    done = results(namespace, site.outdir)
    assert 0 < len(done) < CASES and all(line.split()[1] == "done" for line in done)
    files = inside(namespace, LIST, site.outdir)
    assert ".part" not in files
    assert files.count(".h5") == files.count(".jsonl") - files.count("skipped.jsonl")
    unload(namespace, folder)
    again = namespace.run(site.argv())
    assert again.code == 0, again.text
    assert f"{len(done)} of {CASES} done, {CASES - len(done)} to go" in again.out
    assert results(namespace, site.outdir) == [f"{n} done 1" for n in range(CASES)]


def test_a_full_scratch_folder(site: Site, small: tuple[Namespace, Path]) -> None:
    """The model finds no room for an array that it wants to hand over: not the case's fault."""
    namespace, folder = small
    load(namespace, folder)
    site.scratch = folder
    site.order("n05", "NOISE 8 5")
    full = namespace.run(site.argv("--chunk-size", "2"))
    assert full.code == 75, full.text
    assert str(folder) in full.err and "full" in full.err
    assert inside(namespace, LEFT, folder).split() == [BALLAST]
    assert all(r.status == "done" for r in site.results()) and len(site.results()) < CASES
    unload(namespace, folder)
    again = namespace.run(site.argv())
    assert again.code == 0, again.text
    assert [r.index for r in site.results()] == list(range(CASES))
    assert eventually(lambda: not site.processes(), 5.0), site.processes()


def test_no_room_for_a_copy_of_the_image(tmp_path: Path, image: Image, small: tuple[Namespace, Path]) -> None:
    """The run needs no copy: it says so, and uses the file where it lies."""
    namespace, folder = small
    site = Site(tmp_path, "apptainer", "inline")
    site.order("a", "OK 1")
    site.scratch = folder
    ended = namespace.run(site.argv("--stage-image"))
    assert ended.code == 0, ended.text
    assert f"no copy of {image.name} in {folder} (it takes " in ended.err and "MB are free)" in ended.err
    assert {Path(path).suffix for path in inside(namespace, LIST, folder).split()} == {".used"}


@pytest.mark.parametrize("small", ["nr_inodes=3"], indirect=True)
def test_a_scratch_folder_without_any_room(site: Site, small: tuple[Namespace, Path]) -> None:
    namespace, folder = small
    site.scratch = folder
    ended = namespace.run(site.argv())
    assert ended.code == 75, ended.text
    assert str(folder) in ended.err and "--scratch-dir" in ended.err
