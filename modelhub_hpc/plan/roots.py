"""Which folders a container must see so that every input can be read there."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.plan.manifest import Case

MAX_ROOTS = 64
_FEW = 64  # names in one folder up to which looking at each is cheaper than listing the folder
_MANY = 200_000  # paths that are held at once
_MAX_LINKS = 40
# Folders that a container has of its own: an input there is shown as a file, never by its whole folder.
_OWN = frozenset(
    "/bin /boot /dev /etc /home /lib /lib32 /lib64 /media /mnt /opt /output /proc /root /run"
    " /sbin /srv /sys /temp /tmp /usr /var /working /contrib_src /framework".split()
)


def input_roots(cases: Sequence[Case]) -> list[Path]:
    """The smallest sensible set of folders (or lone files) that shows every input and what its links lead to.

    Never "/", the home folder or a folder of the system: inputs that lie directly there are given one by one.
    InvalidError where that takes more than 64.
    """
    forbidden = {"/", os.path.realpath(Path.home()), os.fspath(Path.home()), *_OWN}
    roots: set[str] = set()
    for folder, names in _by_folder(path for case in cases for _, path in case.inputs):
        roots.update(_roots_of(folder, names, forbidden))
    return [Path(root) for root in _few_enough(roots, forbidden)]


def _by_folder(paths: Iterable[str]) -> Iterator[tuple[str, set[str]]]:
    """Folders and names in them; a folder with very many comes in several parts."""
    folders: dict[str, set[str]] = defaultdict(set)
    for number, path in enumerate(paths, 1):
        folder, name = os.path.split(path)
        folders[folder].add(name)
        if number % _MANY == 0:
            yield from folders.items()
            folders.clear()
    yield from folders.items()


def _roots_of(folder: str, names: set[str], forbidden: set[str]) -> Iterator[str]:
    links, folders = _kinds(folder, names)
    real = os.path.realpath(folder)
    for name in folders:
        yield from {os.path.join(folder, name), os.path.join(real, name)}
    for link in links:
        yield from (_visible(path, forbidden) for path in _trail(os.path.join(folder, link)))
    plain = names - folders
    if folder in forbidden or real in forbidden:
        yield from (os.path.join(folder, name) for name in plain)
    elif plain:
        yield from {folder, real}


def _visible(path: str, forbidden: set[str]) -> str:
    folder = os.path.dirname(path)
    return path if folder in forbidden else folder


def _kinds(folder: str, names: set[str]) -> tuple[set[str], set[str]]:
    """Which of the names are links, and which are folders; missing ones are neither."""
    try:
        if len(names) <= _FEW:
            paths = {name: os.path.join(folder, name) for name in names}
            return (
                {name for name, path in paths.items() if os.path.islink(path)},
                {n for n, path in paths.items() if os.path.isdir(path) and not os.path.islink(path)},
            )
        links, folders = set[str](), set[str]()
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.is_symlink():
                    links.add(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
    except OSError:
        return set(), set()
    return links & names, folders & names


def _trail(path: str) -> Iterator[str]:
    """Every path that a chain of links goes through, and where it ends."""
    for _ in range(_MAX_LINKS):
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(path)), os.readlink(path)))
        yield path
    yield os.path.realpath(path)


def _few_enough(roots: set[str], forbidden: set[str]) -> list[str]:
    kept = _outermost(roots)
    while len(kept) > MAX_ROOTS:
        depth = max(root.count("/") for root in kept)
        raised = {os.path.dirname(root) if root.count("/") == depth else root for root in kept}
        bad = sorted(root for root in raised if root in forbidden or root.count("/") < 2)
        if bad:
            raise InvalidError(
                f"The inputs lie in {len(roots)} places, such as {shown(min(roots))}, and a "
                f"container would have to see all of {shown(bad[0])}. "
                "Group them under one folder of their own."
            )
        kept = _outermost(raised)
    return kept


def _outermost(roots: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for root in sorted(roots, key=lambda each: each.split("/")):
        if not kept or not (root + "/").startswith(kept[-1] + "/"):
            kept.append(root)
    return kept
