"""The files of a model that are not in its repository: which they are, and where they belong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelhub_hpc.contribution import file_place
from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.models.entry import File

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?"
    rb"oid sha256:(?P<sha256>[0-9a-f]{64})\nsize (?P<bytes>\d+)\n"
)
_LARGEST_POINTER = 1024


def needed(tree: Path, init: dict[str, Any], known: Sequence[File]) -> list[File]:
    """What the contribution in `tree` lacks: `known` to its registry, else what its init.json names, and what its
    repository keeps in Git LFS (with "" for a URL).

    Raises InvalidError where registry and init.json contradict each other, or a file belongs where none may be.
    """
    named = list(_named(init))
    if known:
        _require_agreement(known, named)
    files = [_placed(each) for each in known or named]
    paths = [each.path for each in files]
    for path in paths:
        if paths.count(path) > 1:
            raise InvalidError(f"Two files are to become {shown(path)}.")
    return files + [pointer for pointer in _pointers(tree) if pointer.path not in paths]


def confined(text: str) -> str:
    """A path of init.json as one that is relative to the model's folder; InvalidError outside contrib_src."""
    path = file_place(text)
    if path is None:
        raise InvalidError(
            f"'{shown(text)}' is no place for a file of a model: it must be below contrib_src/, and without '..'."
        )
    return path


def require_no_links(tree: Path, path: str) -> None:
    """InvalidError if something on the way to the path is no plain folder, or if its end is one."""
    place = tree
    for part in Path(path).parts[:-1]:
        place /= part
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise InvalidError(f"{shown(path)} cannot be written: {shown(place.relative_to(tree))} is no plain folder.")
    if (tree / path).is_dir() and not (tree / path).is_symlink():
        raise InvalidError(f"{shown(path)} cannot be written: it is a folder of the repository.")


def require_confined(tree: Path) -> None:
    """InvalidError if a link leads out of init/ or contrib_src/, or something is neither file, folder nor link."""
    for top in ("init", "contrib_src"):
        within = os.path.join(os.path.realpath(tree), top)
        for path in _walk(tree / top):
            if path.is_symlink():
                end = os.path.realpath(path)
                leaves = path == tree / top or os.path.commonpath((end, within)) != within
                if leaves or os.path.isabs(os.readlink(path)):
                    raise InvalidError(
                        f"{shown(path.relative_to(tree))} is a link that leaves the model's folder: "
                        f"{shown(os.readlink(path))}"
                    )
            elif not (path.is_file() or path.is_dir()):
                raise InvalidError(f"{shown(path.relative_to(tree))} is neither a file nor a folder.")


def _walk(top: Path) -> Iterator[Path]:
    if top.is_symlink():
        yield top
        return
    for folder, folders, names in os.walk(top):
        yield from (Path(folder, name) for name in (*folders, *names))


def _named(init: dict[str, Any]) -> Iterator[File]:
    listed = init.get("external_contrib_files") or []
    for each in listed if isinstance(listed, list) else [listed]:
        try:
            url, place = each["src_url"], each["dest_file_path"]
        except (KeyError, TypeError, IndexError):
            url = place = None
        if not (isinstance(url, str) and isinstance(place, str)):
            raise InvalidError(
                f"init.json names an external file without src_url and dest_file_path: {shown(each)[:200]}"
            )
        yield File(url, place, None, None)


def _placed(file: File) -> File:
    return File(file.url, confined(file.path), file.sha256, file.bytes)


def _require_agreement(known: Sequence[File], named: Sequence[File]) -> None:
    """The same places; and the same addresses, but for files whose content the registry knows."""
    registry = {confined(each.path): each for each in known}
    own = {confined(each.path): each for each in named}
    for path in sorted(set(registry) | set(own)):
        if path not in registry or path not in own:
            where, other = ("init.json", "the registry") if path in own else ("the registry", "init.json")
            raise InvalidError(f"Registry and init.json disagree: {where} names {shown(path)}, {other} does not.")
        mine = registry[path]
        if mine.sha256 is None and mine.url != own[path].url:
            raise InvalidError(
                f"Registry and init.json disagree about {shown(path)}:\n"
                f"registry   {shown(mine.url)}\ninit.json  {shown(own[path].url)}"
            )


def _pointers(tree: Path) -> Iterator[File]:
    """Files of which the repository has only a pointer to Git LFS."""
    for path in _walk(tree / "contrib_src"):
        if not path.is_symlink() and path.is_file() and path.stat().st_size <= _LARGEST_POINTER:
            if match := _POINTER.fullmatch(path.read_bytes()):
                size = int(match["bytes"])
                yield File("", str(path.relative_to(tree)), match["sha256"].decode("ascii"), size)
