"""Copies of images on a node's own disk, and what several workers of a node do at once."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grounds import REPO
from sifs import write_sif

from modelhub_hpc import images
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.images import Image, staging

MB = 2**20
STAGE = """
import logging, sys
from pathlib import Path
from modelhub_hpc import images
from modelhub_hpc.config import SiteConfig
logging.basicConfig(level=logging.INFO, format="%(message)s")
name, path, sha256, size, scratch = sys.argv[1:]
image = images.Image(name, Path(path), sha256, int(size), "python3")
print(images.stage(image, SiteConfig(scratch_dir=Path(scratch))).path, flush=True)
sys.stdin.read()
"""
DIGEST = """
import sys
from pathlib import Path
from modelhub_hpc.images import integrity
read = integrity.file_digest
integrity.file_digest = lambda path: print("read", end=" ") or read(path)
print(integrity.known_digest(Path(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return SiteConfig(scratch_dir=scratch)


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    yield
    while staging._held:  # the test's process goes on, and would hold them
        staging._held.popitem()[1].close()


def made(folder: Path, content: bytes = b"files") -> Image:
    path = write_sif(folder / f"{hashlib.sha256(content).hexdigest()[:8]}.sif", content)
    return Image("lab/net:1", path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, "python3")


def copies(site: SiteConfig) -> list[Path]:
    assert site.scratch_dir is not None
    return sorted(site.scratch_dir.glob("*/*.sif"))


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )


def start_staging(image: Image, site: SiteConfig) -> subprocess.Popen[str]:
    return start(STAGE, image.name, image.path, image.sha256, image.bytes, site.scratch_dir)


def test_a_copy_is_whole_private_and_made_once(site: SiteConfig, tmp_path: Path) -> None:
    image = made(tmp_path)
    copy = images.stage(image, site)
    assert copy.path != image.path and copy.path.read_bytes() == image.path.read_bytes()
    assert stat.S_IMODE(copy.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(copy.path.stat().st_mode) == 0o400
    images.check(copy)
    image.path.unlink()  # so it is not asked again
    assert images.stage(image, site) == copy
    assert len(copies(site)) == 1 and {path.suffix for path in copy.path.parent.iterdir()} == {".sif", ".used"}


def test_what_was_copied_is_not_read_again(site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = images.stage(made(tmp_path), site)

    def never(_: Path) -> str:
        raise AssertionError("the whole file was read again")

    monkeypatch.setattr("modelhub_hpc.images.integrity.file_digest", never)
    started = images.check(copy)
    images.check_again(copy, started)


def test_several_workers_of_a_node_make_one_copy(site: SiteConfig, tmp_path: Path) -> None:
    image = made(tmp_path, os.urandom(32 * MB))
    ended = [each.communicate() for each in [start_staging(image, site) for _ in range(4)]]
    (copy,) = copies(site)
    assert [out.strip() for out, _ in ended] == [str(copy)] * 4
    assert sum("copied lab/net:1" in err for _, err in ended) == 1
    assert copy.read_bytes() == image.path.read_bytes()


def test_a_killed_copier_leaves_nothing_that_counts(site: SiteConfig, tmp_path: Path) -> None:
    image = made(tmp_path, os.urandom(4 * MB))
    data = image.path.read_bytes()
    image.path.unlink()
    os.mkfifo(image.path)  # from which half of the image comes, and then nothing
    first = start_staging(image, site)
    with open(image.path, "wb", buffering=0) as half:
        half.write(data[: len(data) // 2])
        second = start_staging(image, site)  # waits for the first
        first.kill()
        first.communicate()
    image.path.unlink()
    assert not copies(site)
    image.path.write_bytes(data)
    second.communicate()
    assert images.stage(image, site).path.read_bytes() == data
    assert len(list(copies(site)[0].parent.iterdir())) == 2


@pytest.mark.parametrize("how", ["in place", "another file", "cut"])
def test_a_changed_copy_is_noticed_and_replaced(
    site: SiteConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    image = made(tmp_path)
    copy = images.stage(image, site).path
    wrong = bytes(reversed(copy.read_bytes()))
    copy.chmod(0o600)
    if how == "another file":
        copy.unlink()
    copy.write_bytes(wrong[:-1] if how == "cut" else wrong)
    assert images.stage(image, site).path.read_bytes() == image.path.read_bytes()
    assert "was damaged or changed, and is copied anew" in caplog.text


def test_an_image_that_is_not_what_was_converted_is_not_copied(site: SiteConfig, tmp_path: Path) -> None:
    image = made(tmp_path)
    image.path.write_bytes(image.path.read_bytes()[::-1])
    with pytest.raises(InvalidError, match=f"{image.sha256}(?s:.*)found: "):
        images.stage(image, site)
    assert not copies(site)


@pytest.mark.parametrize("what", ["open to others", "a link", "not there"])
def test_without_a_place_of_ones_own_the_image_is_used_where_it_lies(
    site: SiteConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    assert site.scratch_dir is not None
    place = site.scratch_dir / f"mh-hpc-images-{os.getuid()}"
    if what == "open to others":
        place.mkdir()
        place.chmod(0o777)
    elif what == "a link":
        place.symlink_to(tmp_path)
    else:
        site.scratch_dir.rmdir()
    image = made(tmp_path)
    assert images.stage(image, site) is image
    assert "its file is used where it lies" in caplog.text


def test_old_copies_go_unless_a_process_uses_them(
    site: SiteConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modelhub_hpc")
    old, used, new = (made(tmp_path, content) for content in (b"old", b"used", b"new"))
    gone = images.stage(old, site).path
    staging._held.pop(gone).close()
    worker = start_staging(used, site)
    assert worker.stdout is not None
    stays = Path(worker.stdout.readline().strip())
    long_ago = time.time() - staging.UNUSED_S - 60
    for copy in (gone, stays):
        os.utime(copy.with_suffix(".used"), (long_ago, long_ago))
    made_now = images.stage(new, site).path
    assert copies(site) == sorted([stays, made_now])
    worker.communicate()  # its process has ended, and now it may go
    images.stage(made(tmp_path, b"newer"), site)
    assert stays not in copies(site) and made_now in copies(site)


def test_workers_that_start_together_read_an_image_once(tmp_path: Path) -> None:
    image = made(tmp_path, os.urandom(64 * MB))
    while time.time() - image.path.stat().st_ctime < 2.1:  # before that nothing is remembered
        time.sleep(0.1)
    answers = [each.communicate()[0] for each in [start(DIGEST, image.path) for _ in range(4)]]
    assert sum(answer.startswith("read") for answer in answers) == 1, answers
    assert {answer.split()[-1] for answer in answers} == {image.sha256}
