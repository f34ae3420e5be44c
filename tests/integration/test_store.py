"""The image store among processes that race and die, on odd file systems, and under runs that use its images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import Ended, Site, environment, eventually, finish
from grounds import OBEDIENT, REPO
from sifs import write_sif
from test_storage import in_small_disk, shim

from modelhub_hpc import images
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.images import Image, records, store, sweep, work

__all__ = ["shim"]

CASES = 8
PRELUDE = """
import hashlib, os, signal, sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
from sifs import write_sif
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.images import Image, records, store, work
site = SiteConfig(cache_dir=Path(sys.argv[1]))
step = sys.argv[2] if len(sys.argv) > 2 else ""
def die(now):
    if step == now:
        os.kill(os.getpid(), signal.SIGKILL)
def convert(key="k", waiting=None):
    \"\"\"What a conversion does with the store: True if this process did the work.\"\"\"
    with store.claim(key, site, waiting):
        die("claimed")
        if store.find_digest("sha256:" + key, site):
            return False
        with store.workspace(site, 10_000) as folder:
            path = write_sif(folder / "image.sif", b"files of " + key.encode() + str(os.getpid()).encode())
            die("written")
            time.sleep(0.05)
            data = path.read_bytes()
            made = Image("net:1", path, hashlib.sha256(data).hexdigest(), len(data), "python3", "sha256:" + key)
            if step == "linked":
                records.write = lambda *_: die("linked")
            store.publish(made, {{"certified": True}}, site)
            die("published")
        return True
"""


def start(script: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    text = PRELUDE.format(tests=str(REPO / "tests")) + script
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        cwd=REPO,
        env=environment(**variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ran(script: str, *arguments: object, **variables: str) -> str:
    process = start(script, *arguments, **variables)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return SiteConfig(cache_dir=tmp_path / "cache")


def visible(site: SiteConfig) -> set[str]:
    folder = site.cache_dir / "images"
    return (
        {path.name for path in folder.iterdir() if not path.name.startswith(work.CLAIM)}
        if folder.is_dir()
        else set()
    )


# -- many and mortal --------------------------------------------------------------------------------------------------

ROUNDS = """
import sys
for number in range(5):
    while not (site.cache_dir / f"go{number}").exists():
        time.sleep(0.001)
    print(convert(f"k{number}"), flush=True)
"""


def test_of_ten_processes_one_does_the_work_and_all_succeed(site: SiteConfig) -> None:
    """Five rounds; in every other one somebody had begun, and died."""
    site.cache_dir.mkdir()
    ten = [start(ROUNDS, site.cache_dir) for _ in range(10)]
    for number in range(5):
        if number % 2:
            process = start(f"convert('k{number}')", site.cache_dir, "written")
            assert process.wait() == -signal.SIGKILL and not process.communicate()[0]
        (site.cache_dir / f"go{number}").touch()
        said = sorted(process.stdout.readline().strip() for process in ten if process.stdout)
        assert said == ["False"] * 9 + ["True"]
    assert all(process.wait() == 0 and process.communicate() for process in ten)
    assert len(records.entries(site)) == 5 and len(visible(site)) == 15


@pytest.mark.parametrize("step", ["claimed", "written", "linked", "published"])
def test_a_process_killed_at_any_step_leaves_nothing_that_counts(site: SiteConfig, step: str) -> None:
    died = start("convert()", site.cache_dir, step)
    assert died.wait() == -signal.SIGKILL and not died.communicate()[0]
    entries = records.entries(site)
    assert len(entries) == (1 if step == "published" else 0)
    began = time.monotonic()
    assert ran("print(convert())", site.cache_dir) == str(step != "published")
    assert time.monotonic() - began < 5, "a dead process of this host is followed at once"
    image = images.find("net:1", site)
    images.verify(image)
    sweep.gc(site, now_s=time.time() + 8 * 24 * 3600)
    stem = image.path.stem
    assert visible(site) == {f"{stem}.sif", f"{stem}.json", f"{stem}.certificate.json"}


def test_a_waiting_process_says_for_whom_and_can_be_interrupted(site: SiteConfig) -> None:
    with store.claim("k", site):
        waiting = start("convert(waiting=lambda who: print(who, flush=True))", site.cache_dir)
        assert waiting.stdout
        line = waiting.stdout.readline()
        assert line.startswith(f"pid {os.getpid()} on {os.uname().nodename} (user ")
        waiting.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in waiting.communicate(timeout=5)[1]
    assert ran("print(convert())", site.cache_dir) == "True"


def test_a_claim_of_another_host_lives_while_its_heart_beats(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_BEAT_S", 0.2)
    place = work.claim_folder("k", site)
    with store.claim("k", site):
        record = place / "owner.000001"
        record.write_text(
            json.dumps({**json.loads(record.read_bytes()), "host": "node7", "boot_id": "another"})
        )
        waited: list[str] = []

        def hear(who: str) -> None:
            waited.append(who)
            if len(waited) == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError), store.claim("k", site, hear):
            pass
        assert all("on node7" in who for who in waited)
        (place / "owner.000001.released").unlink(missing_ok=True)
    (place / "owner.000001.released").unlink()  # it died instead
    began = time.monotonic()
    with store.claim("k", site):
        assert 0.6 <= time.monotonic() - began < 5, "three heartbeats are waited for"


def test_two_keys_do_not_wait_for_each_other(site: SiteConfig) -> None:
    with store.claim("one", site), store.claim("two\udc80\n", site):
        pass


# -- odd file systems -------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_nothing_counts(site: SiteConfig, tmp_path: Path) -> None:
    script = """
import hashlib
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.images import Image, records, store
site = SiteConfig(cache_dir=Path(sys.argv[1]))
with store.workspace(site, 100_000) as folder:
    path = folder / "image.sif"
    path.write_bytes(b"x" * 500_000)
    made = Image("net:1", path, hashlib.sha256(path.read_bytes()).hexdigest(), 500_000, "python3")
    (site.cache_dir / "ballast").write_bytes(b"x" * 380_000)
    for data in (2**20, 2**17, 2**12):
        try:
            open(site.cache_dir / "more", "ab", buffering=0).write(b"x" * data)
        except OSError:
            pass
    try:
        store.publish(made, {"certified": True}, site)
        raise AssertionError("it fitted")
    except TryAgainError as error:
        assert "No space left on device" in str(error), error
assert records.entries(site) == []
try:
    store.workspace(site, 600_000).__enter__()
    raise AssertionError("it fitted")
except TryAgainError as error:
    assert "needs about 0.6 MB" in str(error), error
print("survived", end="")
"""
    assert in_small_disk(script, tmp_path) == "survived"


@pytest.mark.parametrize("mode", ["unsupported", "lost"])
def test_without_hard_links_and_with_lost_answers_one_still_does_the_work(
    site: SiteConfig, shim: str, mode: str
) -> None:
    site.cache_dir.mkdir()
    five = [start("print(convert())", site.cache_dir, LD_PRELOAD=shim, SHIM_LINK=mode) for _ in range(5)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in five)
    assert said == ["False"] * 4 + ["True"]
    images.verify(images.find("net:1", site))


def test_a_file_system_without_exclusive_names_is_refused(site: SiteConfig, shim: str) -> None:
    script = "try:\n    convert()\nexcept ModelHubError as error:\n    print(error)"
    text = ran(script, site.cache_dir, LD_PRELOAD=shim, SHIM_LINK="unsupported", SHIM_RENAME="unsupported")
    assert "neither hard links nor exclusive renames" in text and "MH_HPC_CACHE_DIR" in text
    assert visible(site) == set()


# -- signatures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two keyrings with a key each: name -> fingerprint; the folder of each has its name."""
    if not shutil.which("apptainer"):
        pytest.skip("Apptainer is not installed")
    top, found = tmp_path_factory.mktemp("keys"), {"": ""}
    for name in ("ours", "theirs"):
        keyring = ["--keysdir", str(top / name)]
        pair = [
            "--name",
            name,
            "--email",
            f"{name}@example.org",
            "--comment",
            "",
            "--password",
            "",
            "--push=false",
        ]
        apptainer("key", "newpair", *keyring, "--bit-length", "2048", *pair)
        listed = apptainer("key", "list", *keyring)
        found[name] = next(line.split()[-1] for line in listed.splitlines() if "Fingerprint" in line)
    return {**found, "": str(top)}


def apptainer(*arguments: str) -> str:
    return subprocess.run(["apptainer", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def keyring(keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("APPTAINER_KEYSDIR", f"{keys['']}/ours")
    return keys


def mh(site: SiteConfig, *arguments: str, **variables: str) -> Ended:
    command = [sys.executable, "-m", "modelhub_hpc.cli", *arguments]
    own = {"MH_HPC_CACHE_DIR": str(site.cache_dir)}
    process = subprocess.Popen(
        command,
        env=environment(**{**own, **variables}),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    return finish(process)


@pytest.fixture
def small(site: SiteConfig, tmp_path: Path, keys: dict[str, str]) -> Image:
    """A real SIF of a few kilobytes in the store, with a certificate inside."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello").write_bytes(os.urandom(50_000))
    with store.workspace(site, 0) as folder:
        path = folder / "image.sif"
        images.store.apptainer.build(path, str(tree), folder)
        images.store.apptainer.embed(path, images.CERTIFICATE, b'{"origin": {"digest": ""}}', folder)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        made = Image("small:1", path, sha256, path.stat().st_size, "python3")
        return store.publish(made, {"certified": True}, site)


@pytest.mark.apptainer
def test_signing_and_who_is_trusted(site: SiteConfig, small: Image, keyring: dict[str, str]) -> None:
    assert "small:1: whole\n" in mh(site, "images", "verify").out
    signed = mh(site, "images", "sign", "small:1", "--key", keyring["ours"][-16:], "--json")
    assert signed.code == 0, signed.text
    made = images.find("small:1", site)
    assert made.path != small.path and json.loads(signed.out)["path"] == str(made.path)
    assert made.path.exists() and small.path.exists() and store.certificate(made) == {"certified": True}
    assert json.loads(mh(site, "images", "sign", "small:1", "--key", keyring["ours"], "--json").out)[
        "path"
    ] == str(made.path)
    verdict = json.loads(mh(site, "images", "verify", "small:1", "--json").out)
    assert [(each["ok"], each["signers"]) for each in verdict] == [(True, [keyring["ours"]])]
    strict = {"MH_HPC_REQUIRE_SIGNATURE": f"{keyring['theirs']}:{keyring['ours']}"}
    assert mh(site, "images", "verify", "small:1", **strict).code == 0
    refused = mh(site, "images", "verify", "small:1", MH_HPC_REQUIRE_SIGNATURE=keyring["theirs"])
    assert (
        refused.code == 4
        and keyring["theirs"] in refused.text
        and f"signed by: {keyring['ours']}" in refused.text
    )
    table = mh(site, "images", "list").out.splitlines()
    assert [line.split()[5:7] for line in table[1:]] == [["yes", "yes"], ["yes", "-"]]


@pytest.mark.apptainer
def test_a_key_that_is_not_there(site: SiteConfig, small: Image, keyring: dict[str, str]) -> None:
    before = visible(site)
    for key in ("0" * 40, "", keyring["theirs"]):
        refused = mh(site, "images", "sign", "small:1", "--key", key)
        assert refused.code == 2 and f"There are: {keyring['ours']}" in refused.err
    assert visible(site) == before


@pytest.mark.apptainer
@pytest.mark.parametrize("how", ["unsigned", "unknown key", "wrong key", "tampered", "added"])
def test_require_signature_refuses(
    site: SiteConfig,
    small: Image,
    keyring: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    tmp_path: Path,
) -> None:
    image, strict = small, SiteConfig(**{**vars(site), "require_signature": (keyring["ours"],)})
    if how in ("unknown key", "wrong key"):
        monkeypatch.setenv("APPTAINER_KEYSDIR", f"{keyring['']}/theirs")
        image = images.signatures.sign(small, keyring["theirs"], site)
    elif how != "unsigned":
        image = images.signatures.sign(small, keyring["ours"], site)
        images.admit(image, strict)
    if how == "unknown key":
        monkeypatch.setenv("APPTAINER_KEYSDIR", f"{keyring['']}/ours")
    if how == "tampered":
        flip(image.path, 40_000)
        image = recorded_anew(image)  # as if the record were forged, too
    if how == "added":
        image.path.chmod(0o644)
        images.store.apptainer.embed(image.path, images.CERTIFICATE, b'{"certified": true}', tmp_path)
        image = recorded_anew(image)
    with pytest.raises(
        images.signatures.InvalidError, match="is not signed as this site requires"
    ) as refused:
        images.admit(image, strict)
    assert keyring["ours"] in str(refused.value) and "small:1" in str(refused.value)
    if how in ("unknown key", "wrong key"):
        assert f"signed by: {keyring['theirs']}" in str(refused.value)
    images.admit(image, site)


def flip(path: Path, offset: int) -> None:
    path.chmod(0o644)
    with open(path, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))


def recorded_anew(image: Image) -> Image:
    return Image(
        image.name,
        image.path,
        hashlib.sha256(image.path.read_bytes()).hexdigest(),
        image.path.stat().st_size,
        "python3",
    )


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(image: Image, tmp_path: Path) -> Iterator[tuple[Site, Path]]:
    """A run of an image file of its own, which it can lose; the image is large, so it is linked where possible."""
    file = tmp_path / "model.sif"
    shutil.copyfile(image.path, file)
    made = Site(tmp_path, "apptainer", "inline")
    for number in range(CASES):
        made.order(f"n{number:02d}", f"SLEEP 0.2 {number}")
    yield made, file
    file.unlink(missing_ok=True)


@pytest.mark.apptainer
@pytest.mark.parametrize("harm", ["flipped", "cut", "text"])
def test_a_damaged_image_is_refused_before_a_run(study: tuple[Site, Path], image: Image, harm: str) -> None:
    site, file = study
    library = file.parent / "library"
    library.mkdir()
    place = library / image.path.name
    file.rename(place)
    shutil.copyfile(records_of(image), library / records_of(image).name)
    if harm == "flipped":
        flip(place, 40 * 2**20)
    else:
        os.truncate(place, 10**6 if harm == "cut" else 0)
    refused = site.submit("--image", image.name, variables={"MH_HPC_LIBRARY_DIRS": str(library)})
    assert refused.code == 4, refused.text
    if harm == "flipped":
        assert image.sha256 in refused.err and hashlib.sha256(place.read_bytes()).hexdigest() in refused.err
    assert not site.outdir.exists()


def records_of(image: Image) -> Path:
    return store.recorded(image).record


@pytest.mark.apptainer
@pytest.mark.parametrize("what", ["replaced", "removed", "overwritten", "cut"])
def test_an_image_that_changes_under_a_run(study: tuple[Site, Path], what: str) -> None:
    """A new file under the name, or none, does no harm; a change in place ends the run, and what is done stays."""
    site, file = study
    driver = site.started("--image", str(file), "--chunk-size", "2", shards=1)
    committed = site.shards()
    if what == "replaced":
        write_sif(file.with_name("new"), b"another")
        os.replace(file.with_name("new"), file)
    elif what == "removed":
        file.unlink()
    elif what == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        with open(file, "r+b") as stream:  # as `cp new.sif model.sif` does
            stream.write(os.urandom(2**20))
    ended = finish(driver)
    if what in ("replaced", "removed"):
        assert ended.code == 0, ended.text
        assert [r.status for r in site.results()] == ["done"] * CASES
        return
    assert ended.code == 4, ended.text
    assert (
        "is not the one that was converted" in ended.err
        and "expected: " in ended.err
        and "found: " in ended.err
    )
    results = site.results()
    assert committed <= len(results) < CASES and {r.status for r in results} == {"done"}
    again = site.submit("--image", str(file))
    assert again.code == 4 and "This run was begun with that image" in again.err
    assert eventually(lambda: not site.leftovers(), 5.0), site.leftovers()


@pytest.mark.apptainer
def test_a_copy_on_the_node_that_changes_under_a_run(study: tuple[Site, Path]) -> None:
    """What was computed from it since does not count; a new copy is made, and the run goes on."""
    site, file = study
    site.executor = "local"
    how = ("--image", str(file), "--chunk-size", "2", "--workers", "2", "--stage-image")
    driver = site.started(*how, shards=1)
    (copy,) = site.scratch.glob("*/*.sif")
    assert any(str(copy) in each for each in site.processes())
    copy.chmod(0o600)
    with open(copy, "r+b") as stream:
        stream.write(os.urandom(2**20))
    ended = finish(driver)
    if ended.code:  # else a model had to be started again meanwhile, and that was from a new copy
        assert ended.code == 75 and "was changed while the model ran from it" in ended.err, ended.text
        ended = site.submit(*how)
    assert ended.code == 0, ended.text
    assert [r.status for r in site.results()] == ["done"] * CASES
    (copy,) = site.scratch.glob("*/*.sif")
    assert copy.read_bytes() == file.read_bytes()
    assert eventually(lambda: [path.name for path in site.scratch.iterdir()] == [copy.parent.name], 5.0)


@pytest.mark.apptainer
def test_a_run_needs_the_signature_that_its_site_requires(
    study: tuple[Site, Path], keyring: dict[str, str]
) -> None:
    site, file = study
    for path in sorted(site.inputs.iterdir())[1:]:
        path.unlink()
    strict = {"MH_HPC_REQUIRE_SIGNATURE": keyring["ours"]}
    refused = site.submit("--image", str(file), variables=strict)
    assert refused.code == 4 and "signed by: nobody" in refused.err and keyring["ours"] in refused.err
    assert not site.outdir.exists()
    subprocess.run(["apptainer", "-q", "sign", "--keyidx", "0", str(file)], check=True, capture_output=True)
    assert site.submit("--image", str(file), variables=strict).code == 0
    again = site.submit(variables={"MH_HPC_REQUIRE_SIGNATURE": keyring["theirs"]})
    assert again.code == 4 and f"signed by: {keyring['ours']}" in again.err, (
        "what a site requires is what it requires now"
    )


@pytest.mark.apptainer
def test_a_one_off_checks_its_image_too(
    study: tuple[Site, Path], keyring: dict[str, str], site: SiteConfig
) -> None:
    run, file = study
    arguments = ["run", str(OBEDIENT), str(run.inputs / "n00.npy"), "--image", str(file)]
    assert mh(site, *arguments).code == 0
    refused = mh(site, *arguments, MH_HPC_REQUIRE_SIGNATURE=keyring["ours"])
    assert refused.code == 4 and "is not signed as this site requires" in refused.err
