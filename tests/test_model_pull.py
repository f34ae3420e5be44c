"""Models are pulled whole or not at all, once, as they were, and from nobody who means harm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from grounds import IMAGE, OBEDIENT
from modelshop import PLACE, WEIGHTS, FileServer, Shop
from registry_server import Proxy
from runkit import eventually, finish, local_run

from modelhub_hpc import images, models
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.models import pulled
from modelhub_hpc.pulling import files

LIMIT_S = 20.0


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(**{"weights.bin": WEIGHTS}) as made:
        yield made


@pytest.fixture
def shop(tmp_path: Path, server: FileServer) -> Shop:
    return Shop(tmp_path / "a shop", server)


def test_a_model_comes_with_its_files_and_says_what_was_seen(shop: Shop) -> None:
    shop.file()
    commit = shop.publish(pin=True)
    done = json.loads(shop.pull("--json").out)
    assert done["new"] and done["version"] == "1.0.0" and Path(done["path"]) == shop.place
    assert (shop.place / PLACE).read_bytes() == WEIGHTS
    assert {"init/init.json", "entry.json", "lock.json", "contrib_src/inference.py"} <= shop.names()
    lock = shop.lock()
    assert lock["commit"] == commit and lock["image"] is None and lock["origin"] == shop.source.url
    assert [(each["path"], each["bytes"]) for each in lock["files"]] == [(PLACE, len(WEIGHTS))]
    assert json.loads((shop.place / "entry.json").read_bytes()) == shop.entry
    assert not list((shop.cache / "models/.work").iterdir())


def test_what_is_here_is_said_and_not_fetched(shop: Shop, server: FileServer) -> None:
    shop.file()
    shop.publish()
    shop.pull()
    asked = len(server.asked)
    shutil.rmtree(shop.source.folder)
    assert "is here already, since 20" in shop.pull().out
    assert "is here already" in shop.pull(model="toy@1.0.0").out
    assert len(server.asked) == asked
    [listed] = json.loads(shop.pull("--list", "--json").out)
    assert (listed["name"], listed["version"], listed["path"]) == ("toy", "1.0.0", str(shop.place))


def test_a_pulled_model_runs_by_its_name(shop: Shop, tmp_path: Path) -> None:
    shop.publish()
    shop.pull()
    site = local_run(tmp_path / "job", one="OK 7")
    words = ("--inputs", site.inputs, "--outdir", site.outdir, "--runtime", "host", "--executor", "inline")
    done = shop.here("submit", "--model", "toy@1.0.0", *words)
    assert done.code == 0, done.text
    run = json.loads((site.outdir / "run.json").read_bytes())
    assert run["model"]["path"] == str(shop.place) and run["model"]["version"] == "1.0.0"
    assert shop.here("run", "toy", site.inputs / "one.npy", "--runtime", "host").code == 0


def test_models_that_nobody_has(shop: Shop) -> None:
    shop.publish()
    assert "Did you mean 'toy'?" in shop.pull(model="tou", code=4).err
    assert "no version 2.0.0. It has: 1.0.0" in shop.pull(model="toy@2.0.0", code=4).err
    assert "Name a model" in shop.here("pull").err
    assert "exclude each other" in shop.pull("--image", "x", code=2).err


def test_a_model_of_this_package_is_here(shop: Shop) -> None:
    done = shop.pull(model="digits-cnn")
    assert "ships with mh-hpc, there is nothing to fetch" in done.out and not (shop.cache / "models").exists()


def test_a_model_in_the_folder_of_its_registry(shop: Shop) -> None:
    shutil.copytree(shop.source.folder / "contrib_src", shop.registry / "contributions/toy/contrib_src")
    shutil.copytree(shop.source.folder / "init", shop.registry / "contributions/toy/init")
    shop.version["source"] = {"repository": None, "branch": None, "commit": None, "folder": "contributions/toy"}
    shop.publish()
    shop.pull("--offline")
    assert "contrib_src/inference.py" in shop.names() and shop.lock()["commit"] is None


# -- what was seen before -------------------------------------------------------------------------------------------


def test_a_version_that_changes_is_refused_and_what_is_here_stays(shop: Shop) -> None:
    first = shop.publish()
    shop.pull()
    before = shop.lock()
    second = shop.source.commit(**{"contrib_src/inference.py": "import evil\n"})
    said = shop.pull("--again", code=4).err
    assert f"commit {first} -> commit {second}" in said and "--accept-changes" in said
    assert shop.lock() == before and "evil" not in (shop.place / "contrib_src/inference.py").read_text()
    assert f"changed: the contribution: commit {first}" in shop.pull("--accept-changes").out
    assert shop.lock()["commit"] == second and "evil" in (shop.place / "contrib_src/inference.py").read_text()


def test_a_branch_may_move_where_the_model_stays_the_same(shop: Shop) -> None:
    shop.publish()
    shop.pull()
    folder = shop.place.stat().st_ino
    commit = shop.source.commit(**{"README.md": "more words"})
    assert "toy 1.0.0 is as it was" in shop.pull("--again").out
    assert shop.lock()["commit"] == commit
    assert shop.place.stat().st_ino == folder, "runs may be using it"


def test_a_file_of_which_nobody_had_said_the_sha256_must_stay_the_same(shop: Shop, server: FileServer) -> None:
    shop.file(known=False)
    shop.publish()
    shop.pull()
    server.files["/weights.bin"] = b"other"
    said = shop.pull("--again", code=4).err
    assert f"{PLACE}: sha256 {shop.lock()['files'][0]['sha256']} -> " in said
    assert (shop.place / PLACE).read_bytes() == WEIGHTS
    shop.pull("--accept-changes")
    assert (shop.place / PLACE).read_bytes() == b"other"


def test_files_that_were_changed_here(shop: Shop) -> None:
    shop.publish()
    shop.pull()
    (shop.place / "contrib_src/inference.py").write_text("mine")
    assert "changed in the folder here" in shop.pull("--again", code=4).err
    shop.pull("--accept-changes")
    assert "mine" not in (shop.place / "contrib_src/inference.py").read_text()


def test_a_registry_that_says_something_else_now(shop: Shop) -> None:
    shop.publish()
    shop.pull()
    shop.source.commit(**{"contrib_src/a": "1"})
    shop.publish(pin=True)
    assert "The registry says other things of toy 1.0.0 now" in shop.pull().err


def test_a_folder_in_the_way(shop: Shop) -> None:
    shop.publish()
    shop.place.mkdir(parents=True)
    assert "no pulled model: it has no lock.json" in shop.pull(code=4).err
    shop.place.rmdir()
    shop.pull()
    (shop.place / "lock.json").write_text("{}")
    assert "cannot be read" in shop.pull(code=4).err


# -- versions and names ---------------------------------------------------------------------------------------------


def brought(cache: Path, name: str, *versions: str) -> None:
    for version in versions:
        shutil.copytree(OBEDIENT, cache / "models" / name / version)
        (cache / "models" / name / version / "lock.json").write_text(json.dumps({"version": version}))


def test_the_newest_version_by_default_and_any_by_its_number(tmp_path: Path) -> None:
    site = SiteConfig(cache_dir=tmp_path)
    brought(tmp_path, "net", "1.9.0", "1.10.0", "2.0.0-rc.1")
    assert models.find("net@1.9.0", site).version == "1.9.0"
    assert models.find("net", site).version == "1.10.0"
    with pytest.raises(InvalidError, match="(?s)in version .*1.9.0.*mh-hpc pull net@3.0.0"):
        models.find("net@3.0.0", site)
    with pytest.raises(InvalidError, match="Did you mean 'net'"):
        models.find("nat", site)


def test_a_folder_of_the_site_wins_over_a_pulled_one_and_a_pinned_one_over_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(OBEDIENT, tmp_path / "site/net")
    brought(tmp_path, "net", "3.0.0")
    site = SiteConfig(cache_dir=tmp_path, model_dirs=(tmp_path / "site",))
    assert models.find("net", site).path == tmp_path / "site/net"
    assert models.find("net@3.0.0", site).path == tmp_path / "models/net/3.0.0"
    assert models.find("net@1.0.0", site).path == tmp_path / "site/net"
    shutil.copytree(tmp_path / "site/net", tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    assert models.find("./net", site).path == tmp_path / "net" != models.find("net", site).path


def test_what_is_not_whole_is_not_found(tmp_path: Path) -> None:
    brought(tmp_path, "net", "1.0.0")
    (tmp_path / "models/net/1.0.0/lock.json").unlink()
    with pytest.raises(InvalidError, match="There is no model"):
        models.find("net", SiteConfig(cache_dir=tmp_path))
    with pytest.raises(InvalidError, match="There is no model"):
        models.find("../models/net", SiteConfig(cache_dir=tmp_path / "x"))


# -- external files -------------------------------------------------------------------------------------------------


def test_files_that_only_init_json_names(shop: Shop) -> None:
    shop.write_init((f"{shop.server.url}/weights.bin", "contrib_src/model/weights.bin/"))
    shop.publish(agree=False)
    shop.pull()
    assert (shop.place / PLACE).read_bytes() == WEIGHTS


def test_registry_and_init_json_that_disagree(shop: Shop) -> None:
    made = shop.file(known=False)
    shop.write_init((made["url"], "contrib_src/model/other.bin"))
    shop.publish(agree=False)
    assert "disagree: init.json names contrib_src/model/other.bin" in shop.pull(code=4).err
    shop.write_init((f"{made['url']}?x", PLACE))
    shop.publish(agree=False)
    assert "disagree about contrib_src/model/weights.bin" in shop.pull(code=4).err
    assert not shop.place.exists()


def test_another_address_is_as_good_where_the_content_is_known(shop: Shop) -> None:
    shop.file()
    shop.write_init(("https://gone.invalid/weights.bin", PLACE))
    shop.publish(agree=False)
    shop.pull()
    assert (shop.place / PLACE).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "place",
    ["../x", "contrib_src/../../x", "/etc/passwd", "contrib_src", "/", "", "init/x", "contrib_src//x",
     "contrib_src/./x", "contrib_src/a\nb", "contrib_src\\x", "contrib_src/model/.."],
)  # fmt: skip
def test_places_where_no_file_may_be(place: str) -> None:
    with pytest.raises(InvalidError, match="is no place for a file of a model"):
        files.confined(place)


def test_a_place_outside_is_refused_before_anything_is_fetched(shop: Shop, server: FileServer) -> None:
    shop.write_init((f"{server.url}/weights.bin", "/contrib_src/../../../../x"))
    shop.publish(agree=False)
    assert "is no place for a file" in shop.pull(code=4).err
    assert not server.asked and not shop.place.exists()


def test_a_link_in_the_place_of_a_folder(shop: Shop, tmp_path: Path) -> None:
    (shop.source.folder / "contrib_src").rename(tmp_path / "outside")
    # from where the tree is put together it leads to the folder that is there
    (shop.source.folder / "contrib_src").symlink_to("../../../../../../outside")
    shop.publish()
    assert "contrib_src is a link that leaves" in shop.pull(code=4).err
    assert (shop.cache / "models/.work/toy@1.0.0/tree/contrib_src/inference.py").exists()
    shutil.copytree(shop.source.folder / "init", tmp_path / "plain/init")
    (tmp_path / "plain/contrib_src").symlink_to(tmp_path / "outside")
    assert "contrib_src is a link that leaves" in shop.pull("--from", tmp_path / "plain", code=4).err
    assert not shop.place.exists()


@pytest.mark.parametrize("target", ["/etc", "../..", "../../init", "/contrib_src/model"])
def test_links_that_leave_the_model(shop: Shop, target: str) -> None:
    (shop.source.folder / "contrib_src/link").symlink_to(target)
    shop.publish()
    assert "contrib_src/link is a link that leaves" in shop.pull(code=4).err
    assert not shop.place.exists()


def test_a_link_within_the_model_is_kept_and_no_file_goes_through_one(shop: Shop) -> None:
    (shop.source.folder / "contrib_src/other").symlink_to("model")
    shop.publish()
    shop.pull()
    assert os.readlink(shop.place / "contrib_src/other") == "model"
    shop.file(path="contrib_src/other/weights.bin")
    shop.publish()
    assert "contrib_src/other is no plain folder" in shop.pull("--accept-changes", code=4).err


@pytest.mark.parametrize(
    ("url", "words"),
    [("ftp://127.0.0.1/x", "no address"), ("file:///etc/passwd", "no address"),
     ("http://example.org/x", "no address"),     ("https://me:secret@example.org/x", "holds a login")],
)  # fmt: skip
def test_addresses_that_are_not_used(shop: Shop, url: str, words: str) -> None:
    shop.write_init((url, PLACE))
    shop.publish(agree=False)
    said = shop.pull(code=4).err
    assert words in said and "secret" not in said


def test_redirections(shop: Shop, server: FileServer) -> None:
    server.redirects = {"/here": "/weights.bin", "/away": "http://example.org/x", "/odd": "ftp://127.0.0.1/x"}
    for name, words in (("away", "no address that a file may come from"), ("odd", "ftp://127.0.0.1/x")):
        shop.version["files"].clear()
        shop.file(name, known=False)
        shop.publish()
        assert words in shop.pull(code=4).err
    shop.version["files"].clear()
    shop.file("here", known=False)
    shop.publish()
    shop.pull()
    assert (shop.place / PLACE).read_bytes() == WEIGHTS


def test_other_content_than_was_promised(shop: Shop, server: FileServer) -> None:
    shop.file(sha256="0" * 64)
    shop.publish()
    said = shop.pull(code=4).err
    assert "expected sha256 0000" in said and "Nothing of it was kept" in said
    assert not list(shop.cache.rglob("*.part")) and not shop.place.exists()


def test_other_sizes_than_were_promised(shop: Shop, server: FileServer) -> None:
    made = shop.file(known=False, bytes=len(WEIGHTS) - 1)
    shop.publish()
    assert "should have 1,023,999" in shop.pull(code=4).err
    made["bytes"] = len(WEIGHTS) + 1
    shop.publish()
    assert "should have 1,024,001" in shop.pull(code=4).err
    assert len(server.asked) == 2


def test_what_is_not_there_and_what_is_a_page(shop: Shop, server: FileServer) -> None:
    shop.file("gone", known=False)
    shop.publish()
    assert "not there any more: HTTP status 404" in shop.pull(code=4).err
    server.files["/gone"], server.headers = b"<html>", {"Content-Type": "text/html; charset=utf-8"}
    assert "a page for people" in shop.pull(code=4).err


def test_pointers_of_git_lfs(shop: Shop, tmp_path: Path) -> None:
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(WEIGHTS)}\n"
    (shop.source.folder / PLACE).write_text(pointer)
    shop.publish(pin=True)
    assert "in Git LFS, from which nothing is fetched" in shop.pull(code=4).err
    shutil.copytree(shop.source.folder, tmp_path / "clone")
    (tmp_path / "clone" / PLACE).write_bytes(WEIGHTS)
    shop.pull("--from", tmp_path / "clone")
    assert (shop.place / PLACE).read_bytes() == WEIGHTS


# -- without a network ----------------------------------------------------------------------------------------------


def test_from_a_clone_at_the_pinned_commit_and_with_the_files_beside_it(shop: Shop, tmp_path: Path) -> None:
    shop.file()
    commit = shop.publish(pin=True)
    shutil.copytree(shop.source.folder, tmp_path / "a % clone")
    shutil.rmtree(shop.source.folder)
    shop.server.files.clear()
    (tmp_path / "a % clone/contrib_src/inference.py").write_text("not committed")
    said = shop.pull("--from", tmp_path / "a % clone", "--offline", code=4).err
    assert f"{PLACE} is missing, and --offline allows no network" in said and "--from FOLDER" in said
    (tmp_path / "a % clone" / PLACE).write_bytes(WEIGHTS)
    shop.pull("--from", tmp_path / "a % clone", "--offline")
    assert (shop.place / PLACE).read_bytes() == WEIGHTS and shop.lock()["commit"] == commit
    assert "not committed" not in (shop.place / "contrib_src/inference.py").read_text()


def test_from_a_bare_clone(shop: Shop, tmp_path: Path) -> None:
    commit = shop.publish(pin=True)
    shop.source("clone", "--quiet", "--mirror", ".", str(tmp_path / "mirror"))
    shop.pull("--from", tmp_path / "mirror", "--offline")
    assert shop.lock()["commit"] == commit and "contrib_src/inference.py" in shop.names()


def test_from_a_plain_folder(shop: Shop, server: FileServer, tmp_path: Path) -> None:
    shop.file(known=False)
    shop.publish()
    shutil.copytree(shop.source.folder, tmp_path / "plain", ignore=shutil.ignore_patterns(".git"))
    (tmp_path / "plain" / PLACE).write_bytes(b"as it is here")
    said = shop.pull("--from", tmp_path / "plain", "--offline").out
    assert "no commit is known" in said
    assert (shop.place / PLACE).read_bytes() == b"as it is here" and not server.asked


def test_the_wrong_file_in_the_folder_is_fetched_instead(shop: Shop, tmp_path: Path) -> None:
    shop.file()
    shop.publish()
    shutil.copytree(shop.source.folder, tmp_path / "plain", ignore=shutil.ignore_patterns(".git"))
    (tmp_path / "plain" / PLACE).write_bytes(b"wrong")
    shop.pull("--from", tmp_path / "plain")
    assert (shop.place / PLACE).read_bytes() == WEIGHTS


def test_folders_that_are_no_source(shop: Shop, tmp_path: Path) -> None:
    shop.publish(pin=True)
    assert "--from FOLDER" in shop.pull("--offline", code=4).err
    assert "is no contribution" in shop.pull("--from", tmp_path, code=4).err
    shutil.copytree(shop.source.folder, tmp_path / "clone")
    shop.source.commit()
    shop.publish(pin=True)
    assert "has no commit" in shop.pull("--from", tmp_path / "clone", code=4).err
    (tmp_path / "plain").mkdir()
    shutil.copytree(shop.source.folder / "init", tmp_path / "plain/init")
    shutil.copytree(shop.source.folder / "contrib_src", tmp_path / "plain/contrib_src")
    (tmp_path / "plain/contrib_src/model/link").symlink_to("/etc/passwd")
    assert "is a link that leaves" in shop.pull("--from", tmp_path / "plain", code=4).err
    (tmp_path / "plain/contrib_src/model/link").unlink()
    os.mkfifo(tmp_path / "plain/contrib_src/fifo")
    assert "neither a file nor a folder" in shop.pull("--from", tmp_path / "plain", code=4).err


# -- whatever breaks ------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server: FileServer) -> Iterator[Proxy]:
    with Proxy(int(server.address.rpartition(":")[2])) as made:
        yield made


def behind(shop: Shop, proxy: Proxy, **facts: object) -> None:
    shop.server.files["/weights.bin"] = WEIGHTS * 20
    shop.file(**{**facts, "url": f"http://{proxy.address}/weights.bin"})  # type: ignore[arg-type]
    shop.publish()


def test_a_connection_that_is_cut_again_and_again(shop: Shop, proxy: Proxy) -> None:
    behind(shop, proxy)
    proxy.cut_after = 8_000_000
    shop.pull()
    assert (shop.place / PLACE).read_bytes() == WEIGHTS * 20
    asked = shop.server.ranges_asked("/weights.bin")
    assert len(asked) == 3 and all(each.startswith("bytes=") for each in asked[1:])


@pytest.mark.parametrize("known", [True, False])
def test_killed_in_the_middle_and_then_again(shop: Shop, proxy: Proxy, known: bool) -> None:
    behind(shop, proxy, known=known)
    proxy.stall_after = 8_000_000
    process = shop.start()
    assert eventually(lambda: parts(shop) > 7_000_000, LIMIT_S)
    os.killpg(process.pid, signal.SIGKILL)
    assert finish(process, 10).code == -signal.SIGKILL
    assert not shop.place.exists() and not pulled.everything(SiteConfig(cache_dir=shop.cache))
    there, proxy.stall_after = parts(shop), None
    shop.pull()
    assert (shop.place / PLACE).read_bytes() == WEIGHTS * 20
    assert shop.server.ranges_asked("/weights.bin") == ["", f"bytes={there}-"]


def parts(shop: Shop) -> int:
    return sum(path.stat().st_size for path in shop.cache.rglob("*.part"))


def test_a_file_that_changed_between_two_attempts_is_not_mixed(shop: Shop, proxy: Proxy) -> None:
    behind(shop, proxy, known=False)
    proxy.stall_after = 8_000_000
    process = shop.start()
    assert eventually(lambda: parts(shop) > 7_000_000, LIMIT_S)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process, 10)
    proxy.stall_after, shop.server.files["/weights.bin"] = None, b"new" * 5_000_000
    shop.pull()
    assert (shop.place / PLACE).read_bytes() == b"new" * 5_000_000


def test_a_damaged_part_is_fetched_anew(shop: Shop, proxy: Proxy) -> None:
    behind(shop, proxy)
    proxy.stall_after = 8_000_000
    process = shop.start()
    assert eventually(lambda: parts(shop) > 7_000_000, LIMIT_S)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process, 10)
    proxy.stall_after = None
    [part] = shop.cache.rglob("*.part")
    with open(part, "rb+") as stream:
        stream.write(b"damage")
    shop.pull()
    assert (shop.place / PLACE).read_bytes() == WEIGHTS * 20


def test_a_server_that_knows_no_ranges_and_one_without_a_state(shop: Shop, proxy: Proxy) -> None:
    behind(shop, proxy, known=False)
    shop.server.validate = False
    proxy.end_after = 8_000_000
    said = shop.here.start("pull", "toy", "--no-image")
    assert eventually(lambda: parts(shop) > 7_000_000, LIMIT_S)
    proxy.end_after = None
    assert finish(said, 60).code == 0
    assert (shop.place / PLACE).read_bytes() == WEIGHTS * 20
    assert set(shop.server.ranges_asked("/weights.bin")) == {""}


def test_two_pulls_at_once_fetch_once(shop: Shop, proxy: Proxy) -> None:
    behind(shop, proxy)
    proxy.stall_after = 8_000_000
    first = shop.start()
    assert eventually(lambda: parts(shop) > 7_000_000, LIMIT_S)
    second = shop.start()
    assert second.stderr and "Waiting for pid" in second.stderr.readline()
    os.killpg(first.pid, signal.SIGKILL)
    proxy.stall_after = None
    ended = finish(second, 60)
    assert ended.code == 0 and "toy 1.0.0 is here" in ended.out, ended.text
    finish(first, 10)
    three = [shop.start() for _ in range(3)]
    assert all("is here already" in finish(each, 60).out for each in three)


def test_several_at_once_from_the_start(shop: Shop, server: FileServer) -> None:
    shop.file()
    shop.publish()
    ended = [finish(each, 60) for each in [shop.start() for _ in range(3)]]
    assert [each.code for each in ended] == [0, 0, 0]
    assert sum("is here already" in each.out for each in ended) == 2
    assert len(server.asked) == 1


def test_killed_between_the_two_renames(shop: Shop) -> None:
    shop.publish()
    shop.pull()
    work = shop.cache / "models/.work/toy@1.0.0"
    work.mkdir(parents=True)
    shop.place.rename(work / "replaced")
    assert "is here already" in shop.pull().out


def test_a_full_disk(shop: Shop) -> None:
    shop.file(known=False, bytes=10**15)
    shop.publish()
    said = shop.pull(code=75).err
    assert "MB are free" in said and "1,000,000,000.0 MB" in said


# -- the image ------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_image(shop: Shop, image: images.Image, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The image is in a library, so that nothing is converted."""
    monkeypatch.setenv("MH_HPC_LIBRARY_DIRS", str(image.path.parent))
    return shop


def test_an_image_that_is_here_is_taken(with_image: Shop, image: images.Image) -> None:
    with_image.publish()
    done = json.loads(with_image.pull("--json", image=True).out)
    assert done["image"]["name"] == IMAGE
    seen = with_image.lock()["image"]
    assert (seen["name"], seen["digest"], seen["tree"]) == (IMAGE, image.digest, image.tree)
    assert "is as it was" in with_image.pull("--again", image=True).out


def test_an_image_that_was_left_comes_with_the_next_pull(with_image: Shop) -> None:
    with_image.publish()
    assert f"its image is left: {IMAGE}" in with_image.pull().out
    assert "is here already" in with_image.pull(image=True).out
    assert with_image.lock()["image"]["name"] == IMAGE


def test_an_image_that_is_only_made_from_a_recipe_is_asked_of_nobody(shop: Shop) -> None:
    shop.publish()
    said = shop.pull(image=True, code=4).err
    assert "in no registry: it is made from a recipe" in said and "--no-image" in said


def test_an_image_that_cannot_be_had_leaves_no_model_and_loses_no_file(shop: Shop, server: FileServer) -> None:
    shop.file()
    shop.publish()
    said = shop.pull("--image", "docker-archive:/nowhere.tar", image=True, code=4).err
    assert "--no-image" in said and not shop.place.exists()
    shop.pull()
    assert len(server.asked) == 1 and (shop.place / PLACE).read_bytes() == WEIGHTS
