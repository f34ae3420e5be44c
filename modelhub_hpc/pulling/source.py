"""A contribution's own files, init/ and contrib_src/: from a git repository, a clone, or a plain folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import git
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.models.entry import Source
from modelhub_hpc.runfolder import storage

FOLDERS = ("init", "contrib_src")
MOST_BYTES = 32 << 30
_NOT_OURS = ("__pycache__", ".git")


@dataclass(frozen=True)
class Taken:
    """Where the files came from. commit: None for a plain folder, of which nobody knows the commit."""

    origin: str
    commit: str | None


def take(source: Source, shelf: Path, given: Path | None, https: bool, work: Path, tree: Path) -> Taken:
    """Write the contribution's files into the new folder `tree`.

    shelf: the folder of the registry, in which the source lies if it has no repository. given: the user's own clone, or
    plain folder, instead of the repository; then no network is used. work: a folder that stays for the next call.
    Raises InvalidError, TryAgainError or UnfitError.
    """
    if given and not _is_clone(given):
        return _copied(root(source, given), tree)
    if not given and source.repository is None:
        return _copied(shelf / source.folder, tree)
    address = _address(given) if given else source.repository or ""
    below = "" if source.folder == "." else source.folder
    commit = git.fetch(address, "" if given else source.branch or "", source.commit, work / "git", https)
    git.export(work / "git", commit, FOLDERS, tree, MOST_BYTES, below)
    if not (tree / "contrib_src").is_dir():
        raise InvalidError(f"{shown(address)} has no folder contrib_src in commit {commit}: it is no contribution.")
    return Taken(str(given or source.repository), commit)


def root(source: Source, given: Path) -> Path:
    """The contribution's folder in the user's own, which may be that itself."""
    inner = given / source.folder
    return inner if (inner / "contrib_src").is_dir() else given


def digest(tree: Path, known: Mapping[str, str | None] | None = None) -> str:
    """sha256 over names and contents of all that is in init/ and contrib_src/, links as links, byte code aside.

    known: the sha256 of files, by their paths, that need not be read; None for those to leave out.
    """
    known = known or {}
    total = hashlib.sha256()
    for path in sorted(path for top in FOLDERS for path in (tree / top).rglob("*")):
        name = str(path.relative_to(tree))
        if known.get(name, "") is None or "__pycache__" in path.parts:
            continue
        if path.is_symlink():
            total.update(f"{name}\0-> {os.readlink(path)}\n".encode("utf-8", "surrogateescape"))
        elif path.is_file():
            total.update(f"{name}\0{known.get(name) or file_digest(path)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _is_clone(folder: Path) -> bool:
    """Whether it is a git repository, with files or bare."""
    bare = (folder / "HEAD").is_file() and (folder / "objects").is_dir()
    return bare or os.path.lexists(folder / ".git")


def _address(clone: Path) -> str:
    return f"file://{urllib.parse.quote(os.fsencode(clone.absolute()))}"


def _copied(folder: Path, tree: Path) -> Taken:
    if not (folder / "contrib_src").is_dir():
        raise InvalidError(f"{shown(folder)} has no folder contrib_src: it is no contribution.")
    with storage(tree):
        tree.mkdir()
        for top in FOLDERS:
            if os.path.lexists(folder / top):
                _copy(folder / top, tree / top)
    return Taken(str(folder), None)


def _copy(path: Path, target: Path) -> None:
    """Files as files, links as links; what they lead to is judged later."""
    if path.is_symlink():
        target.symlink_to(os.readlink(path))
    elif path.is_dir():
        target.mkdir()
        for inner in path.iterdir():
            if inner.name not in _NOT_OURS:
                _copy(inner, target / inner.name)
    elif path.is_file():
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    else:
        raise InvalidError(f"{shown(path)} is neither a file nor a folder.")
