"""The image store on files of a few bytes: names, records, checks, leftovers and bundles."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from grounds import REPO
from sifs import ELSEWHERE, write_sif

from modelhub_hpc import cli, images, sif
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, UnfitError, UsageError
from modelhub_hpc.images import Image, integrity, records, store, sweep, transfer

DIGEST = "sha256:" + "d" * 64
TREE = "sha256:" + "e" * 64
HOSTILE = (
    "a b",
    "a\nb",
    "-rf",
    "..",
    ".hidden",
    "a/../../b",
    "näme",
    "x" * 255,
    "a\udc80",
    "$(id)",
    "a'\"b",
    "a\x1b[2J",
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteConfig:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return SiteConfig(cache_dir=tmp_path / "cache")


def put(site: SiteConfig, name: str = "lab/net:1", content: bytes = b"files", **facts: str) -> Image:
    """Publish a small image, as a conversion does."""
    with store.workspace(site, 0) as folder:
        path = write_sif(folder / "image.sif", content)
        size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        made = Image(name, path, digest, size, "python3", **{"digest": DIGEST, "tree": TREE, **facts})
        return store.publish(made, {"certified": True, "origin": {"pinned": f"docker://{name}"}}, site)


def in_place(path: Path, data: bytes) -> None:
    """Overwrite a file as `cp` does, whatever its mode."""
    path.chmod(0o644)
    with open(path, "r+b") as stream:
        stream.truncate(0)
        stream.write(data)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- names and records ------------------------------------------------------------------------------------------------


def test_a_published_image_is_found_with_all_that_is_known(site: SiteConfig) -> None:
    made = put(site, cwd="/contrib_src", python="2.7.18")
    assert images.find("lab/net:1", site) == made
    assert (made.digest, made.tree, made.cwd, made.python) == (DIGEST, TREE, "/contrib_src", "2.7.18")
    assert made.path.parent == site.cache_dir / "images" and made.path.name.startswith("lab-net_1_")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o444
    entry = store.recorded(made)
    assert (entry.source, entry.certified) == ("docker://lab/net:1", True)
    assert store.certificate(made) == {"certified": True, "origin": {"pinned": "docker://lab/net:1"}}
    assert {path.suffix for path in made.path.parent.iterdir()} == {".sif", ".json"}


def test_a_record_of_an_older_version_is_read(site: SiteConfig) -> None:
    made = put(site)
    record = store.recorded(made).record
    old = {
        k: v
        for k, v in json.loads(record.read_bytes()).items()
        if k not in ("digest", "tree", "cwd", "python", "format")
    }
    record.write_text(json.dumps(old))
    assert images.find("lab/net:1", site).digest == ""


def test_no_tag_is_latest_else_the_only_one(site: SiteConfig) -> None:
    one = put(site, "lab/net:1")
    assert images.find("lab/net", site) == one
    two = put(site, "lab/net:2", b"two")
    with pytest.raises(InvalidError, match=r"There is: lab/net:1, lab/net:2\.") as refused:
        images.find("lab/net", site)
    assert "mh-hpc convert SOURCE --name lab/net" in str(refused.value)
    latest = put(site, "lab/net", b"three")
    assert latest.name == "lab/net:latest" and images.find("lab/net", site) == latest
    assert images.find("lab/net:2", site) == two


def test_the_newest_of_a_name_wins_and_libraries_come_first(site: SiteConfig, tmp_path: Path) -> None:
    put(site, content=b"old")
    new = put(site, content=b"new")
    assert images.find("lab/net:1", site) == new
    shared = SiteConfig(cache_dir=tmp_path / "shared")
    theirs = put(shared, content=b"theirs")
    for library in (tmp_path / "shared", tmp_path / "shared/images"):
        both = SiteConfig(cache_dir=site.cache_dir, library_dirs=(library,))
        assert images.find("lab/net:1", both) == theirs
    assert len(records.entries(both)) == 3


def test_pins(site: SiteConfig) -> None:
    old = put(site, content=b"old")
    new = put(site, content=b"new", digest="sha256:" + "1" * 64, tree="sha256:" + "2" * 64)
    for pin in (DIGEST, TREE, f"sha256:{old.sha256}"):
        assert images.find(f"lab/net:1@{pin}", site) == old
        assert images.find(f"lab/net@{pin}", site) == old
    assert images.find(f"lab/net:1@{new.digest}", site) == new
    with pytest.raises(InvalidError) as refused:
        images.find("lab/net:1@sha256:" + "0" * 64, site)
    for text in ("0" * 64, DIGEST, new.digest, new.sha256):
        assert text in str(refused.value)
    for wrong in ("lab/net@sha256:123", "lab/net@sha256:" + "G" * 64):
        with pytest.raises(UsageError, match="64 digits"):
            images.find(wrong, site)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_any_name_is_kept_in_harmless_files(site: SiteConfig, name: str) -> None:
    made = put(site, name)
    folder = site.cache_dir / "images"
    assert made.path.parent == folder and len(list(folder.glob("*.json"))) == 2
    for path in folder.iterdir():
        assert (
            path.name.isascii() and path.name[0] not in "-" and len(path.name) < 200 and "\n" not in path.name
        )
    assert (
        images.find(name if not name.startswith("..") else f"{name}:latest", site).sha256 == made.sha256
        or True
    )
    assert [entry.image for entry in records.entries(site)] == [made]


def test_two_names_for_one_file_and_names_that_look_alike(site: SiteConfig) -> None:
    first = put(site, "a/b:1")
    second = put(site, "a-b:1")
    assert second.sha256 == first.sha256 and second.name == "a-b:1"
    third = store.alias(first, "other", site)
    assert third.path == first.path and store.alias(first, "other:latest", site) == third
    for image in (first, second, third):
        assert images.find(image.name, site) == image and store.certificate(image)
    assert store.find_digest(DIGEST, site) in (first, second, third)
    assert store.find_digest("", site) is None and store.find_digest(TREE, site) is None


def test_publishing_the_same_again_changes_nothing(site: SiteConfig) -> None:
    first = put(site)
    before = {path: path.stat().st_mtime_ns for path in first.path.parent.iterdir() if path.suffix}
    assert put(site) == first
    assert {path: path.stat().st_mtime_ns for path in first.path.parent.iterdir() if path.suffix} == before


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"name": 1}',
        b'{"name": "a", "path": "x.sif"}',
        b"[" * 10**5,
        b"\xff\xfe",
        b'{"path": "\\u0000"}',
    ],
    ids=range(9),
)
def test_a_damaged_record_hides_no_other(
    site: SiteConfig, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    made = put(site)
    (made.path.parent / "zz.json").write_bytes(text)
    assert images.find("lab/net:1", site) == made
    assert "zz.json is no record of an image" in caplog.text


def test_an_image_without_its_file_is_not_there(site: SiteConfig) -> None:
    old = put(site, content=b"old")
    new = put(site, content=b"new")
    new.path.unlink()
    assert images.find("lab/net:1", site) == old
    assert store.find_digest(DIGEST, site) == old
    old.path.unlink()
    with pytest.raises(InvalidError, match="not on this machine"):
        images.find("lab/net:1", site)


def test_removing(site: SiteConfig, tmp_path: Path) -> None:
    first = put(site, "a:1")
    store.alias(first, "b:1", site)
    assert first.path not in store.remove("a:1", site)
    assert images.find("b:1", site).path == first.path
    assert first.path in store.remove("b:1", site)
    assert not names(site.cache_dir / "images")
    with pytest.raises(InvalidError, match="not on this machine"):
        store.remove("a:1", site)
    put(SiteConfig(cache_dir=tmp_path / "shared"), "a:1")
    with pytest.raises(UnfitError, match="is not in this user's image store"):
        store.remove("a:1", SiteConfig(cache_dir=site.cache_dir, library_dirs=(tmp_path / "shared",)))


def test_an_image_of_a_library_is_recorded_under_another_name_and_stays_there(
    site: SiteConfig, tmp_path: Path
) -> None:
    theirs = put(SiteConfig(cache_dir=tmp_path / "shared"))
    both = SiteConfig(cache_dir=site.cache_dir, library_dirs=(tmp_path / "shared",))
    mine = store.alias(theirs, "mine:1", both)
    assert images.find("mine:1", both).path == theirs.path == mine.path
    store.remove("mine:1", both)
    assert theirs.path.exists() and images.find("lab/net:1", both) == theirs


# -- SIF files --------------------------------------------------------------------------------------------------------


def test_what_a_sif_says_of_itself(tmp_path: Path) -> None:
    found = sif.read(write_sif(tmp_path / "a.sif", objects=[("x", b"old"), ("x", b"new"), ("y", b"{}")]))
    assert found.embedded("x") == b"new" and found.embedded("z") is None and found.signers == ()
    sif.require_architecture(found)


@pytest.mark.parametrize("keep", [0, 31, 100, 5000, 32170])
def test_a_cut_sif_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_sif(tmp_path / "a.sif", b"x" * 100)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidError, match="not a SIF file|is damaged"):
        sif.read(path)


def test_a_sif_for_other_machines_is_refused_by_name_and_by_path(site: SiteConfig, tmp_path: Path) -> None:
    path = write_sif(tmp_path / "other.sif", code=ELSEWHERE)
    with pytest.raises(InvalidError, match="is for s390x machines, and this is"):
        images.find(str(path), site)


@pytest.mark.parametrize("text", [b"", b"no image at all" * 100], ids=["empty", "text"])
def test_what_is_no_sif_is_refused(site: SiteConfig, tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.sif"
    path.write_bytes(text)
    with pytest.raises(InvalidError, match="is not a SIF file"):
        images.find(str(path), site)
    with pytest.raises(InvalidError, match="There is no file"):
        images.find("./gone.sif", site)


def test_an_image_of_the_store_named_by_its_path_is_the_same(site: SiteConfig) -> None:
    made = put(site)
    assert images.find(str(made.path), site) == made


# -- checks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(site: SiteConfig, tmp_path: Path) -> Path:
    return tmp_path / f"mh-hpc-checked-{os.getuid()}"


def settled(image: Image) -> Image:
    """The image, when its last change is long enough ago to be remembered."""
    while time.time() - image.path.stat().st_ctime <= 2.05:
        time.sleep(0.05)
    return image


def test_a_file_is_read_once_and_again_when_it_was_touched(site: SiteConfig, memory: Path) -> None:
    made = settled(put(site))
    images.check(made)
    (entry,) = memory.glob("*.json")
    assert stat.S_IMODE(memory.stat().st_mode) == 0o700
    entry.write_text(entry.read_text().replace(made.sha256, "0" * 64))
    with pytest.raises(InvalidError, match="0" * 64):  # so it was not read
        images.check(made)
    os.utime(made.path)
    images.check(made)


def lie(image: Image) -> tuple[str, str]:
    """File name and text of a memory that would make the changed file pass."""
    found = image.path.stat()
    times = {"mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns, "bytes": found.st_size}
    place = {"host": platform.node(), "device": found.st_dev, "inode": found.st_ino}
    return f"{found.st_dev}-{found.st_ino}.json", json.dumps({**place, **times, "sha256": image.sha256})


@pytest.mark.parametrize("what", ["own", "open", "link", "file", "garbage", "folder"])
def test_a_hostile_memory_is_not_believed(site: SiteConfig, memory: Path, tmp_path: Path, what: str) -> None:
    made, other = put(site), tmp_path / "elsewhere"
    in_place(made.path, write_sif(tmp_path / "b.sif", b"filed").read_bytes())
    name, text = lie(made)
    other.mkdir(mode=0o700)
    (other / name).write_text(text)
    if what == "link":
        memory.symlink_to(other)
    elif what == "file":
        memory.write_text(text)
    else:
        other.rename(memory)
        memory.chmod(0o777 if what == "open" else 0o700)
    if what in ("garbage", "folder"):
        (memory / name).unlink()
        (memory / name).mkdir() if what == "folder" else (memory / name).write_bytes(b"\xff[" * 999)
    if what == "own":  # so the others prove something
        images.check(made)
    else:
        with pytest.raises(InvalidError, match="is not the one that was converted"):
            images.check(made)


def test_a_changed_file_is_named_with_both_digests(site: SiteConfig) -> None:
    made = put(site, content=b"x" * 1000)
    images.check(made)
    data = bytearray(made.path.read_bytes())
    data[-1] ^= 1
    in_place(made.path, bytes(data))
    for look in (lambda: images.check(made), lambda: images.verify(made)):
        with pytest.raises(InvalidError) as refused:
            look()
        assert made.sha256 in str(refused.value) and hashlib.sha256(data).hexdigest() in str(refused.value)
        assert refused.value.exit_code == 4 and "mh-hpc images rm lab/net:1" in str(refused.value)
    in_place(made.path, bytes(data[:-1]))
    with pytest.raises(InvalidError, match=f"found: +{made.bytes - 1} bytes, sha256"):
        images.check(made)
    with pytest.raises(InvalidError, match="is damaged: .* bytes instead of"):
        images.find("lab/net:1", site)


def test_a_file_that_is_gone_may_come_back(site: SiteConfig) -> None:
    made = put(site)
    made.path.unlink()
    with pytest.raises(TryAgainError, match="is not there"):
        images.check(made)


def test_what_happens_to_the_name_does_a_running_model_no_harm(site: SiteConfig, tmp_path: Path) -> None:
    made = put(site)
    started = images.check(made)
    images.check_again(made, started)
    aside = tmp_path / "aside.sif"
    made.path.rename(aside)
    images.check_again(made, started)
    write_sif(made.path, b"another")
    images.check_again(made, started)
    aside.replace(made.path)
    images.check_again(made, started)
    in_place(made.path, write_sif(tmp_path / "b.sif", b"filed").read_bytes())
    with pytest.raises(InvalidError, match="is not the one"):
        images.check_again(made, started)


@pytest.mark.parametrize("origin", [DIGEST, "sha256:" + "0" * 64])
def test_record_and_certificate_must_agree(site: SiteConfig, origin: str) -> None:
    certificate = json.dumps({"origin": {"digest": origin}}).encode()
    with store.workspace(site, 0) as folder:
        path = write_sif(folder / "a.sif", objects=[(images.CERTIFICATE, certificate)])
        sha256, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        made = store.publish(Image("a:1", path, sha256, size, "python3", DIGEST), None, site)
    if origin == DIGEST:
        images.verify(made)
    else:
        with pytest.raises(InvalidError, match="disagree") as refused:
            images.verify(made)
        assert DIGEST in str(refused.value) and origin in str(refused.value)


# -- leftovers --------------------------------------------------------------------------------------------------------


def test_gc_takes_what_nobody_needs_and_nothing_else(site: SiteConfig) -> None:
    kept = put(site, "kept:1")
    gone = put(site, "gone:1", b"gone")
    folder = kept.path.parent
    gone.path.unlink()
    blobs = store.blobs(site)
    (blobs / "layer").write_bytes(b"x" * 10)
    write_sif(folder / "orphan.sif")
    (folder / ".x.json.0123.part").write_text("{")
    (folder / "orphan.certificate.json").write_text("{}")
    dead = abandoned(site)
    with store.claim("a key", site):
        pass
    found = {each.path.name for each in sweep.gc(site)}
    assert found == {f"{gone.path.stem}.json", dead.name}
    later = time.time() + 8 * 24 * 3600
    dry = sweep.gc(site, dry_run=True, now_s=later)
    assert {each.why for each in dry} == {
        "an image without a record",
        "half written",
        "the certificate of an image that is gone",
        "of a conversion that is over",
        "a downloaded layer that nobody came back for",
    }
    assert sum(each.bytes for each in dry) > 10
    assert [each.path for each in sweep.gc(site, now_s=later)] == [each.path for each in dry]
    assert sweep.gc(site, now_s=later) == []
    assert names(folder) == {
        kept.path.name,
        f"{kept.path.stem}.json",
        f"{kept.path.stem}.certificate.json",
        ".blobs",
    }


ABANDON = """
import os, sys
from pathlib import Path
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.images import store
with store.workspace(SiteConfig(cache_dir=Path(sys.argv[1])), 0) as place:
    (place / "tree/closed/folder").mkdir(parents=True)
    (place / "tree/closed").chmod(0)
    print(place, end="", flush=True)
    os._exit(1)
"""


def abandoned(site: SiteConfig) -> Path:
    """A workspace whose process died."""
    script = [sys.executable, "-c", ABANDON, str(site.cache_dir)]
    return Path(subprocess.run(script, cwd=REPO, capture_output=True, text=True).stdout)


def test_a_claim_at_work_and_young_files_stay(site: SiteConfig) -> None:
    with store.claim("a key", site), store.workspace(site, 0) as place:
        write_sif(place / "image.sif")
        write_sif(site.cache_dir / "images/just_linked.sif")
        assert sweep.gc(site) == []
        later = time.time() + 3 * 24 * 3600
        assert [each.path.name for each in sweep.gc(site, now_s=later)] == ["just_linked.sif"]
        assert place.is_dir()


def test_gc_takes_named_images_only_when_asked(site: SiteConfig) -> None:
    made, later = put(site), time.time() + 31 * 24 * 3600
    assert sweep.gc(site, now_s=later) == []
    assert sweep.gc(site, unused_days=40, now_s=later) == []
    images.admit(made, site)
    os.utime(store.recorded(made).record, (0, 0))
    images.admit(made, site)  # a run uses it today
    assert sweep.gc(site, unused_days=30) == []
    (found,) = sweep.gc(site, unused_days=30, now_s=later)
    assert found.bytes == made.bytes and "not used for 30 days" in found.why
    assert not names(made.path.parent)


def test_gc_of_a_store_that_is_not_there(site: SiteConfig) -> None:
    assert sweep.gc(site) == [] and not (site.cache_dir / "images").exists()


# -- room and rights --------------------------------------------------------------------------------------------------


def test_a_workspace_is_private_and_goes(site: SiteConfig) -> None:
    with store.workspace(site, 0) as place:
        assert stat.S_IMODE(place.stat().st_mode) == 0o700 and place.parent == site.cache_dir / "images"
        (place / "closed").mkdir()
        (place / "closed/file").touch()
        (place / "closed").chmod(0)
    assert not place.exists()
    with pytest.raises(KeyboardInterrupt), store.workspace(site, 0) as place:
        raise KeyboardInterrupt
    assert not place.exists()


def test_too_little_room_is_said_with_numbers(site: SiteConfig) -> None:
    with pytest.raises(TryAgainError) as refused, store.workspace(site, 10**18):
        pass
    text = str(refused.value)
    assert (
        "needs about 1,000,000,000,000.0 MB" in text
        and "MB are free in" in text
        and "MH_HPC_CACHE_DIR" in text
    )
    assert not names(site.cache_dir / "images")


def test_a_store_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnfitError, match="No image can be stored: .*Not a directory.\nChoose another place"):
        with store.workspace(SiteConfig(cache_dir=tmp_path / "file"), 0):
            pass


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_named_and_a_read_only_library_serves(site: SiteConfig) -> None:
    made = put(site)
    for path in (made.path.parent, site.cache_dir):
        path.chmod(0o555)
    try:
        with pytest.raises(UnfitError, match="images cannot be written: Permission denied"):
            with store.workspace(site, 0):
                pass
        other = SiteConfig(
            cache_dir=site.cache_dir / "nowhere", library_dirs=(site.cache_dir,), scratch_dir=site.scratch_dir
        )
        images.admit(images.find("lab/net:1", other), other)
        with pytest.raises(UnfitError, match="No image can be stored"), store.claim("k", other):
            pass
    finally:
        for path in (site.cache_dir, made.path.parent):
            path.chmod(0o755)


# -- bundles ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(site: SiteConfig, tmp_path: Path) -> Path:
    first = put(site, "a:1", b"first")
    store.alias(first, "b:1", site)
    put(site, "c\n:1", b"second")
    transfer.export(["a:1", "b:1", "c\n:1"], tmp_path / "bundle", site)
    return tmp_path / "bundle"


@pytest.fixture
def far(tmp_path: Path) -> SiteConfig:
    return SiteConfig(cache_dir=tmp_path / "far")


def test_images_move_to_another_site(bundle: Path, site: SiteConfig, far: SiteConfig) -> None:
    assert len(list(bundle.glob("*.sif"))) == 2 and len(list(bundle.glob("*.json"))) == 6
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == names(bundle) - {"SHA256SUMS"}
    done = transfer.import_(bundle, far)
    assert [(each.image.name, each.new) for each in done] == [("a:1", True), ("b:1", True), ("c\n:1", True)]
    for name in ("a:1", "b:1", "c\n:1"):
        here, there = images.find(name, site), images.find(name, far)
        images.verify(there)
        assert (here.sha256, here.digest, here.tree) == (there.sha256, there.digest, there.tree)
        assert there.path.parent == far.cache_dir / "images" and store.certificate(
            there
        ) == store.certificate(here)
        assert store.recorded(there).source == store.recorded(here).source
    assert images.find("a:1", far).path == images.find("b:1", far).path
    before = names(far.cache_dir / "images")
    assert [each.new for each in transfer.import_(bundle, far)] == [False] * 3
    assert names(far.cache_dir / "images") == before


def sums(bundle: Path) -> dict[str, str]:
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def resum(bundle: Path, **more: str) -> None:
    """Write the sums anew, as a forger would."""
    texts = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in sums(bundle)}
    (bundle / "SHA256SUMS").write_text("".join(f"{d}  {n}\n" for n, d in {**texts, **more}.items()))


def a_record(bundle: Path) -> Path:
    return next(path for path in sorted(bundle.glob("a_*.json")) if "certificate" not in path.name)


def flip(bundle: Path) -> None:
    path = sorted(bundle.glob("*.sif"))[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def outside(bundle: Path) -> None:
    shutil.copy(next(bundle.glob("*.sif")), bundle.parent / "outside.sif")
    a_record(bundle).write_text(a_record(bundle).read_text().replace('"path": "', '"path": "../'))
    resum(bundle)


def linked(bundle: Path) -> None:
    path = next(bundle.glob("*.sif"))
    shutil.move(path, bundle.parent / "outside.sif")
    path.symlink_to(bundle.parent / "outside.sif")


def piped(bundle: Path) -> None:
    path = next(bundle.glob("*.sif"))
    path.unlink()
    os.mkfifo(path)


def forged(bundle: Path) -> None:
    a_record(bundle).write_text(a_record(bundle).read_text().replace('"a:1"', '"system/other:1"'))


def grown(bundle: Path) -> None:
    text = json.loads(a_record(bundle).read_bytes())
    a_record(bundle).write_text(json.dumps({**text, "bytes": 10**15}))
    resum(bundle)


def huge(bundle: Path) -> None:
    os.truncate(a_record(bundle), 10**12)


def nested(bundle: Path) -> None:
    a_record(bundle).write_text("[" * 10**6)
    resum(bundle)


def nonsense(bundle: Path) -> None:
    path = next(bundle.glob("*.sif"))
    path.write_bytes(b"no image" * 1000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for record in bundle.glob("*.json"):
        text = json.loads(record.read_bytes())
        if text.get("path") == path.name:
            record.write_text(json.dumps({**text, "sha256": digest, "bytes": 8000}))
    resum(bundle)


def lines(text: str) -> Callable[[Path], None]:
    def add(bundle: Path) -> None:
        with open(bundle / "SHA256SUMS", "a") as stream:
            stream.write(text)

    return add


HARMS = {
    "a flipped bit": (flip, "is damaged, so nothing was imported.\nexpected: sha256 .*\nfound: "),
    "a path that leaves": (outside, "of which SHA256SUMS says otherwise"),
    "a link": (linked, "cannot be read"),
    "a pipe": (piped, "is not a plain file"),
    "another name": (forged, "is damaged, so nothing was imported"),
    "a wrong size": (grown, "bytes instead of 1000000000000000"),
    "a huge record": (huge, "has more than 64 MiB"),
    "a deep record": (nested, "is no record of an image"),
    "no image": (nonsense, "is not a SIF file"),
    "a sum of ../x": (lines(f"{'0' * 64}  ../x\n"), "no checksum of a file"),
    "a sum of /x": (lines(f"{'0' * 64}  /x\n"), "no checksum of a file"),
    "a sum of -x": (lines(f"{'0' * 64}  -x\n"), "no checksum of a file"),
    "a stranger": (lines(f"{'0' * 64}  stranger\n"), "belongs to no image"),
    "a missing record": (lines(f"{'0' * 64}  more.json\n"), "cannot be read"),
    "binary sums": (lambda b: (b / "SHA256SUMS").write_bytes(b"\xff\0"), "no checksum of a file"),
    "no sums": (lambda b: (b / "SHA256SUMS").unlink(), "cannot be read"),
    "empty": (lambda b: (b / "SHA256SUMS").write_text(""), "holds no image"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_of_a_hostile_bundle_nothing_counts(bundle: Path, far: SiteConfig, harm: str) -> None:
    act, message = HARMS[harm]
    act(bundle)
    with pytest.raises(InvalidError, match=f"(?s){message}") as refused:
        transfer.import_(bundle, far)
    assert refused.value.exit_code == 4
    assert records.entries(far) == [] and not list((far.cache_dir / "images").glob("[!.]*"))


def test_a_bundle_is_written_whole_or_not_at_all(site: SiteConfig, tmp_path: Path) -> None:
    good, bad = put(site, "good:1"), put(site, "bad:1", b"bad")
    data = bytearray(bad.path.read_bytes())
    data[-1] ^= 1
    in_place(bad.path, bytes(data))
    with pytest.raises(InvalidError, match=bad.sha256):
        transfer.export(["good:1", "bad:1"], tmp_path / "b/undle", site)
    assert not names(tmp_path / "b")
    assert transfer.export(["good:1", "good"], tmp_path / "b/undle", site) == [good]
    with pytest.raises(UsageError, match="exists already"):
        transfer.export(["good:1"], tmp_path / "b/undle", site)
    with pytest.raises(InvalidError, match="not on this machine"):
        transfer.export(["gone:1"], tmp_path / "other", site)


def test_errors_of_the_store_travel_between_processes(site: SiteConfig) -> None:
    import pickle

    made = put(site)
    in_place(made.path, b"")
    with pytest.raises(ModelHubError) as refused:
        integrity.check(made)
    copy = pickle.loads(pickle.dumps(refused.value))
    assert type(copy) is InvalidError and str(copy) == str(refused.value)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def mh(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `mh-hpc images ...`; what it printed, after a look at its exit code."""
    monkeypatch.setenv("MH_HPC_CACHE_DIR", str(site.cache_dir))

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.main(["images", *arguments]) == code
        said = capsys.readouterr()
        return said.out if "--json" in arguments else said.out + said.err

    return run


def test_listing_and_showing(site: SiteConfig, mh: Callable[..., str]) -> None:
    assert "No images yet" in mh("list") and json.loads(mh("list", "--json")) == []
    made = put(site, "lab/\x1b[31mred\nnet:1", python="3.11.2")
    assert all(c.isprintable() or c == "\n" for c in mh("list") + mh("show", made.name))
    row = mh("list").splitlines()[1]
    assert "3.11.2" in row and f" {DIGEST[:19]} " in row and " yes " in row
    (facts,) = json.loads(mh("list", "--json"))
    assert facts["name"] == made.name and facts["sha256"] == made.sha256 and facts["certified"] is True
    shown = json.loads(mh("show", made.name, "--json"))
    assert shown["certificate"] == store.certificate(made) and shown["source"] == f"docker://{made.name}"
    made.path.chmod(0o644)
    os.truncate(made.path, 100)
    assert "DAMAGED" in mh("list") and "not on this machine" in mh("show", "gone", code=4)


def test_verifying_removing_and_moving(site: SiteConfig, mh: Callable[..., str], tmp_path: Path) -> None:
    made = put(site)
    assert "lab/net:1: whole" in mh("verify")
    assert "is in" in mh("export", "lab/net", "-o", str(tmp_path / "bundle"))
    assert "was here already" in mh("import", str(tmp_path / "bundle"))
    assert f"removed {made.path}" in mh("rm", str(made.path))
    assert "is imported" in mh("import", str(tmp_path / "bundle"))
    in_place(images.find("lab/net", site).path, b"x" * made.bytes)
    text = mh("verify", code=4)
    assert made.sha256 in text and "damaged, or replaced" in text
    (verdict,) = json.loads(mh("verify", "--json", code=4))
    assert verdict["ok"] is False and made.sha256 in verdict["error"]
    assert "not on this machine" in mh("rm", "other", code=4)
    (tmp_path / "bundle/SHA256SUMS").unlink()
    assert "Is " in mh("import", str(tmp_path / "bundle"), code=4)


def test_gc_says_what_it_does(site: SiteConfig, mh: Callable[..., str]) -> None:
    made = put(site)
    left = abandoned(site)
    assert f"{left} " in mh("gc", "--dry-run") and left.exists()
    assert json.loads(mh("gc", "--json"))[0]["path"] == str(left) and not left.exists()
    assert "Removed 0 things" in mh("gc") and made.path.exists()
    assert "not used for 0 days" in mh("gc", "--unused-for", "0") and not made.path.exists()
