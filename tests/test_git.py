"""Files are taken out of real repositories, hostile ones included, without git doing anything else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gitkit import Repository, SmartServer
from registry_server import Answers

from modelhub_hpc import git
from modelhub_hpc.errors import InvalidError, TryAgainError, UnfitError

PLENTY = 10**9


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "re po")


def exported(repository: Repository, tmp_path: Path, commit: str, most: int = PLENTY) -> Path:
    found = git.fetch(repository.url, "master", commit, tmp_path / "bare")
    git.export(tmp_path / "bare", found, ("init", "contrib_src"), tmp_path / "out", most)
    return tmp_path / "out"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_files_of_a_commit_that_is_not_the_newest(repository: Repository, tmp_path: Path) -> None:
    first = repository.commit(**{"contrib_src/a b\n": "one", "init/init.json": "{}", "other/c": "not wanted"})
    repository.commit(**{"contrib_src/a b\n": "two"})
    out = exported(repository, tmp_path, first)
    assert names(out) == {"contrib_src/a b\n", "init/init.json"}
    assert (out / "contrib_src/a b\n").read_text() == "one"


def test_the_head_of_a_branch(repository: Repository, tmp_path: Path) -> None:
    old = repository.commit(**{"contrib_src/a": "1"})
    repository("branch", "old")
    new = repository.commit(**{"contrib_src/a": "2"})
    assert git.fetch(repository.url, "old", None, tmp_path / "bare") == old
    assert git.fetch(repository.url, "master", None, tmp_path / "bare") == new
    assert git.fetch(repository.url, "", None, tmp_path / "bare") == new


def test_a_commit_that_is_here_needs_no_repository(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit(**{"contrib_src/a": "1"})
    git.fetch(repository.url, "master", commit, tmp_path / "bare")
    assert git.fetch("file:///nowhere", "master", commit, tmp_path / "bare") == commit


def test_a_server_that_gives_only_branches_is_asked_for_those(repository: Repository, tmp_path: Path) -> None:
    first = repository.commit(**{"contrib_src/a": "1"})
    repository.commit(**{"contrib_src/a": "2"})
    repository("config", "protocol.version", "0")  # in which a server is free to refuse
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(git, "_SAFE", tuple(each.replace("version=2", "version=0") for each in git._SAFE))
        out = exported(repository, tmp_path, first)
    assert (out / "contrib_src/a").read_text() == "1"


def test_what_is_not_there_is_said(repository: Repository, tmp_path: Path) -> None:
    repository.commit(**{"contrib_src/a": "1"})
    with pytest.raises(InvalidError, match="has no commit 1111"):
        git.fetch(repository.url, "master", "1" * 40, tmp_path / "bare")
    with pytest.raises(InvalidError, match="(?s)git fetch has failed.*nosuch"):
        git.fetch(repository.url, "nosuch", None, tmp_path / "bare")
    with pytest.raises(InvalidError, match="does not (exist|appear to be a git repository)"):
        git.fetch(f"file://{tmp_path}/gone", "master", None, tmp_path / "bare2")


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c 'touch /tmp/x'",
        "--upload-pack=touch x",
        "http://example.org/x",
        "http://127.0.0.1:1@example.org/x",
        "fd::17",
        "/etc",
        "git://example.org/x",
        "",
    ],
)
def test_addresses_that_are_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="no address of a git repository"):
        git.fetch(address, "master", None, tmp_path / "bare")


def test_branches_and_commits_that_are_none(tmp_path: Path) -> None:
    for branch in ("--all", "a:b", "a b", "*", "a\nb"):
        with pytest.raises(InvalidError, match="branch"):
            git.fetch("file:///nowhere", branch, None, tmp_path / "bare")
    for commit in ("abc", "HEAD", "-" * 40, "g" * 40):
        with pytest.raises(InvalidError, match="commit"):
            git.fetch("file:///nowhere", "master", commit, tmp_path / "bare")


def test_a_server_that_is_not_there_is_asked_again_later(tmp_path: Path) -> None:
    with pytest.raises(TryAgainError, match="(?s)git fetch has failed.*Check the network"):
        git.fetch("http://127.0.0.1:9/x", "master", None, tmp_path / "bare")


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnfitError, match="git is not installed.*--from"):
        git.fetch("file:///nowhere", "master", None, tmp_path / "bare")


def test_a_folder_of_the_commit_and_a_tag(repository: Repository, tmp_path: Path) -> None:
    repository.commit(**{"models/net/contrib_src/a": "1", "contrib_src/a": "2"})
    repository("tag", "v1")
    repository.commit(**{"models/net/contrib_src/a": "3"})
    commit = git.fetch(repository.url, "v1", None, tmp_path / "bare")
    git.export(tmp_path / "bare", commit, ["contrib_src"], tmp_path / "out", PLENTY, below="models/net")
    assert (tmp_path / "out/contrib_src/a").read_text() == "1"
    with pytest.raises(InvalidError, match="models/nat"):
        git.export(tmp_path / "bare", commit, ["contrib_src"], tmp_path / "out2", PLENTY, below="models/nat")


def test_without_tls_only_when_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="With --no-https also"):
        git.fetch("git://127.0.0.1:9/x", "master", None, tmp_path / "bare")
    with pytest.raises(TryAgainError):
        git.fetch("git://127.0.0.1:9/x", "master", None, tmp_path / "bare", https=False)


def test_over_http(repository: Repository, tmp_path: Path) -> None:
    first = repository.commit(**{"contrib_src/a": "1"})
    second = repository.commit(**{"contrib_src/a": "2"})
    with SmartServer(tmp_path) as server:
        url = f"{server.url}/re%20po/.git"
        assert git.fetch(url, "master", first, tmp_path / "bare") == first
        assert git.fetch(url, "master", None, tmp_path / "bare") == second
        with pytest.raises(InvalidError, match="has no commit 1111"):
            git.fetch(url, "master", "1" * 40, tmp_path / "bare")
        with pytest.raises(InvalidError, match="not found"):
            git.fetch(f"{server.url}/other", "master", None, tmp_path / "bare")
    git.export(tmp_path / "bare", first, ["contrib_src"], tmp_path / "out", PLENTY)
    assert (tmp_path / "out/contrib_src/a").read_text() == "1"


def test_a_server_that_wants_a_password_is_given_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = tmp_path / "asker"
    asker.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho secret\n")
    asker.chmod(0o755)
    for name in ("GIT_ASKPASS", "SSH_ASKPASS"):
        monkeypatch.setenv(name, str(asker))
    with Answers() as server:
        server.answer = lambda path, headers: (401, {"WWW-Authenticate": 'Basic realm="here"'}, b"")
        with pytest.raises(InvalidError, match="private: git knows no login"):
            git.fetch(f"{server.url}/x", "master", None, tmp_path / "bare")
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("place", ["file://{0}", "ftp://127.0.0.1/x", "ext::touch {0}/marker"])
def test_a_server_that_redirects_to_another_protocol(repository: Repository, tmp_path: Path, place: str) -> None:
    repository.commit(**{"contrib_src/a": "1"})
    with Answers() as server:
        target = place.format(repository.folder)
        server.answer = lambda path, headers: (302, {"Location": f"{target}/info/refs"}, b"")
        with pytest.raises((InvalidError, TryAgainError), match="git fetch has failed"):
            git.fetch(f"{server.url}/x", "master", None, tmp_path / "bare")
    assert not (repository.folder / "marker").exists()


def test_neither_attributes_nor_filters_nor_hooks_have_a_say(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    configuration = tmp_path / "gitconfig"
    configuration.write_text(f'[filter "evil"]\n smudge = touch {marker}\n[core]\n hooksPath = {tmp_path}/hooks\n')
    (tmp_path / "hooks").mkdir()
    for hook in ("post-checkout", "post-merge", "reference-transaction"):
        (tmp_path / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (tmp_path / "hooks" / hook).chmod(0o755)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    text = "* filter=evil ident export-ignore export-subst text eol=crlf\n"
    commit = repository.commit(**{"contrib_src/.gitattributes": text, "contrib_src/a": "$Id$ $Format:%H$\n"})
    out = exported(repository, tmp_path, commit)
    assert (out / "contrib_src/a").read_text() == "$Id$ $Format:%H$\n"
    assert not marker.exists()


def test_links_are_kept_as_they_are_and_never_written_through(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "contrib_src").mkdir()
    (repository.folder / "contrib_src/link").symlink_to("/etc/passwd")
    out = exported(repository, tmp_path, repository.commit())
    assert os.readlink(out / "contrib_src/link") == "/etc/passwd"


def test_a_link_and_a_folder_of_one_name(repository: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    blob = repository("hash-object", "-w", "--stdin", text=b"evil")
    link = repository("hash-object", "-w", "--stdin", text=os.fsencode(outside))
    below = repository("mktree", text=f"100644 blob {blob}\tevil\n".encode())
    inner = repository(
        "hash-object", "-w", "-t", "tree", "--literally", "--stdin",
        text=b"120000 a\0" + bytes.fromhex(link) + b"40000 a\0" + bytes.fromhex(below),
    )  # fmt: skip
    commit = repository.commit_tree(f"040000 tree {inner}\tcontrib_src\n".encode())
    with pytest.raises(InvalidError, match="something twice: contrib_src/a"):
        exported(repository, tmp_path, commit)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["..", ".git", ".GIT"])
def test_names_that_leave_the_tree(repository: Repository, tmp_path: Path, name: str) -> None:
    blob = repository("hash-object", "-w", "--stdin", text=b"evil")
    inner = repository(
        "hash-object", "-w", "-t", "tree", "--literally", "--stdin",
        text=b"100644 " + name.encode() + b"\0" + bytes.fromhex(blob),
    )  # fmt: skip
    commit = repository.commit_tree(f"040000 tree {inner}\tcontrib_src\n".encode())
    with pytest.raises(InvalidError, match="no checkout could have"):
        exported(repository, tmp_path, commit)


def test_submodules_and_too_much(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit(**{"contrib_src/a": "x" * 5000})
    with pytest.raises(InvalidError, match="more than"):
        exported(repository, tmp_path, commit, most=4999)
    inner = repository("mktree", "--missing", text=f"160000 commit {commit}\tsub\n".encode())
    commit = repository.commit_tree(f"040000 tree {inner}\tcontrib_src\n".encode())
    with pytest.raises(InvalidError, match="contrib_src/sub is a submodule"):
        exported(repository, tmp_path, commit)


FETCH = """
import sys
from pathlib import Path
from modelhub_hpc import git
git.fetch(sys.argv[1], "master", sys.argv[2], Path(sys.argv[3]))
"""


def test_killed_while_it_fetches(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "contrib_src").mkdir()
    (repository.folder / "contrib_src/big").write_bytes(os.urandom(30_000_000))
    commit = repository.commit()
    bare = tmp_path / "bare"
    words = [sys.executable, "-c", FETCH, repository.url, commit, str(bare)]
    for _ in range(3):
        process = subprocess.Popen(words, start_new_session=True)
        while process.poll() is None and not list(bare.glob("objects/pack/tmp_pack*")):
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was too quick to be killed"
    out = exported(repository, tmp_path, commit)
    assert (out / "contrib_src/big").stat().st_size == 30_000_000


def test_a_working_copy_says_where_it_comes_from_and_no_login(repository: Repository, tmp_path: Path) -> None:
    assert git.checkout(tmp_path) is None
    with pytest.raises(InvalidError, match="has no commit yet"):
        git.checkout(repository.folder)
    commit = repository.commit(**{"model/contrib_src/a": "a"})
    found = git.checkout(repository.folder / "model/contrib_src")
    assert found == git.Checkout(repository.folder.resolve(), "", "master", commit)
    addresses = {
        "https://me:secret@example.org/a.git": "https://example.org/a.git",
        "https://example.org/a@b.git": "https://example.org/a@b.git",
        "git@example.org:lab/a.git": "git@example.org:lab/a.git",
        "ssh://git@example.org/a.git": "ssh://git@example.org/a.git",
        str(tmp_path / "a b.git"): f"file://{tmp_path}/a%20b.git",
        "../b.git": f"{(repository.folder.parent / 'b.git').resolve().as_uri()}",
    }
    repository("remote", "add", "origin", "x")
    for given, plain in addresses.items():
        repository("remote", "set-url", "origin", given)
        found = git.checkout(repository.folder)
        assert found and found.url == plain
    repository("checkout", "--quiet", "--detach")
    found = git.checkout(repository.folder)
    assert found and (found.branch, found.commit) == ("", commit)
