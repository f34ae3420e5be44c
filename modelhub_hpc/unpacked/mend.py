"""Change an unpacked image so that anybody can run it."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

from modelhub_hpc.unpacked import environment
from modelhub_hpc.unpacked.audit import MOUNT_POINTS, Audit, Finding, hindrances, is_barred
from modelhub_hpc.unpacked.survey import climbs, is_device, survey, usable
from modelhub_hpc.unpacked.tree import Entry, Tree


def mend(folder: Path, audit: Audit) -> Audit:
    """Do what the audit's "mended" findings say; the audit, those that a second look still finds "open".

    All of the tree must be this user's, as `apptainer.unpack` leaves it. Doing it twice changes nothing more.
    Raises OSError when the storage fails.
    """
    tree = Tree(folder)
    for entry in tree.walk():
        _mend_entry(tree, entry)
    for path in (*MOUNT_POINTS, audit.cwd):
        if not tree.is_folder(path) and not is_barred(tree, path):
            _make_folder(tree, path)
    _mend_environment(tree)
    again = hindrances(tree, survey(tree), audit.cwd)
    left = {finding.code for finding in again if finding.state == "mended"}
    return dataclasses.replace(audit, findings=tuple(_judged(finding, left) for finding in audit.findings))


def _mend_entry(tree: Tree, entry: Entry) -> None:
    if stat.S_ISLNK(entry.mode):
        if climbs(entry):
            _shorten(tree, entry)
    elif is_device(entry.mode):
        os.unlink(entry.place)
    elif stat.S_IMODE(usable(entry.mode)) != stat.S_IMODE(entry.mode):
        os.chmod(entry.place, stat.S_IMODE(usable(entry.mode)))


def _shorten(tree: Tree, entry: Entry) -> None:
    """Let a link say directly where it leads."""
    target = tree.resolve(entry.path) or os.path.normpath("/" + os.readlink(entry.place).lstrip("/"))
    os.unlink(entry.place)
    os.symlink(target, entry.place)


def _make_folder(tree: Tree, path: str) -> None:
    """Make a folder where the path leads in the image, which need not be where it says."""
    place = tree.place(tree.resolve(path))
    os.makedirs(place, exist_ok=True)
    while place != os.fspath(tree.root) and not stat.S_IMODE(os.stat(place).st_mode) & 0o555 == 0o555:
        os.chmod(place, 0o755)  # whatever the umask
        place = os.path.dirname(place)


def _mend_environment(tree: Tree) -> None:
    dropped = frozenset(misfit.name for misfit in environment.misfits(tree))
    if dropped or environment.garbled(tree):
        place = tree.place(tree.resolve(environment.SCRIPT))
        with open(place, "r+", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            script = environment.mended(stream.read(), dropped)
            stream.seek(0)
            stream.truncate()
            stream.write(script)


def _judged(finding: Finding, left: set[str]) -> Finding:
    return dataclasses.replace(finding, state="open") if finding.code in left else finding
