"""One look at every file of an unpacked image: who may read what, and what does not belong into a SIF."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelhub_hpc.errors import shown
from modelhub_hpc.unpacked.tree import Entry, Tree

EXAMPLES = 5
# links to such folders mean the machine that the image was made on, or a volume
_HOSTS_PLACES = ("data", "export", "gpfs", "home", "lustre", "media", "mnt", "nfs", "scratch", "workspace")
# may be writable for anybody; Apptainer mounts something over them, or our sessions do
_OPEN_PLACES = tuple("/dev /proc /run /sys /tmp /var/tmp /var/lock /output /working /temp".split())


@dataclass
class Survey:
    """What the files of an image are like. Paths are as in the image, and printable."""

    files: int = 0
    bytes: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    setuid: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    pipes: list[str] = field(default_factory=list)
    climbing: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)


def survey(tree: Tree) -> Survey:
    """Look at everything once. Raises OSError."""
    found = Survey()
    for entry, heading in _with_headings(tree):
        if heading:
            found.closed[heading] += 1
        _look(tree, entry, found)
    return found


def usable(mode: int) -> int:
    """The mode with which anybody may do what the owner may, writing aside, and no program changes its user."""
    if stat.S_ISDIR(mode):
        return mode | 0o555
    if stat.S_ISREG(mode):
        return (mode | (0o555 if mode & 0o111 else 0o444)) & ~(stat.S_ISUID | stat.S_ISGID)
    return mode


def is_open_place(path: str) -> bool:
    """Whether programs find something writable there in any case."""
    return f"{path}/".startswith(tuple(f"{place}/" for place in _OPEN_PLACES))


def is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _with_headings(tree: Tree) -> Iterator[tuple[Entry, str]]:
    """Each entry, with words for what closes it to others: the topmost such folder, or the folder it lies in."""
    shut: dict[str, str] = {}  # folders that cannot be entered, and all below them
    for entry in tree.walk():
        parent = os.path.dirname(entry.path)
        heading = shut.get(parent, "") if entry.path != "/" else ""
        if stat.S_ISDIR(entry.mode) and (heading or entry.mode | 0o555 != entry.mode):
            heading = heading or f"{shown(entry.path)} ({stat.S_IMODE(entry.mode):04o})"
            shut[entry.path] = heading
        yield entry, heading or (f"in {shown(parent)}" if _is_closed(entry.mode) else "")


def _is_closed(mode: int) -> bool:
    return bool(usable(mode) & 0o555 & ~mode)


def _look(tree: Tree, entry: Entry, found: Survey) -> None:
    mode = entry.mode
    if stat.S_ISREG(mode):
        found.files += 1
        found.bytes += entry.stat.st_size
        if mode & (stat.S_ISUID | stat.S_ISGID):
            found.setuid.append(shown(entry.path))
    elif stat.S_ISLNK(mode):
        if climbs(entry):
            found.climbing.append(shown(entry.path))
        elif _is_foreign(tree, entry):
            found.foreign.append(shown(entry.path))
    elif stat.S_ISDIR(mode):
        if mode & stat.S_IWOTH and not is_open_place(entry.path):
            found.writable.append(shown(entry.path))
    else:
        (found.devices if is_device(mode) else found.pipes).append(shown(entry.path))


def climbs(entry: Entry) -> bool:
    """Whether a link goes up more often than it can, by its words alone; it then stays at the root."""
    target = os.readlink(entry.place)
    depth = 0 if target.startswith("/") else entry.path.count("/") - 1
    for step in target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(step, 1)
        if depth < 0:
            return True
    return False


def _is_foreign(tree: Tree, entry: Entry) -> bool:
    """Whether a link points to a place of some machine that the image does not hold."""
    first, *others = os.readlink(entry.place).split("/")
    return not first and bool(others) and others[0] in _HOSTS_PLACES and not tree.mode(entry.path)
