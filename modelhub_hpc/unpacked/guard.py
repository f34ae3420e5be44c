"""Keep an image's links from leading Apptainer out of it.

`apptainer build` unpacks layers safely, but then writes files of its own into the tree, and follows the links there:
an image with `.singularity.d/runscript -> /home/jane/.bashrc` would overwrite that file of Jane, who converts it.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from modelhub_hpc.errors import InvalidError, shown

# what Apptainer makes anew, whatever an image has there, ...
_MADE = (
    *(".singularity.d", ".exec", ".run", ".shell", ".test", "singularity", "environment"),
    *("etc/hosts", "etc/resolv.conf"),
)
# ... and the folders that it makes things in
_FOLDERS = ("etc", "var")
_WHITEOUT = ".wh."


def guard_layer() -> bytes:
    """A last layer for an image from a registry or an archive: a tar, not compressed, and always the same.

    It removes what Apptainer makes anew, and has folders where Apptainer needs them, which replace links.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in _FOLDERS:
            tar.addfile(_folder(name))
        for name in _MADE:
            folder, last = os.path.split(name)
            tar.addfile(tarfile.TarInfo(os.path.join(folder, _WHITEOUT + last)))
    return buffer.getvalue()


def require_guarded(folder: Path) -> None:
    """Check an unpacked image that has had no `guard_layer`, before Apptainer copies or packs it.

    Raises InvalidError if Apptainer would write through a link that leads out of it, OSError if it cannot be read.
    """
    root = os.path.realpath(folder)
    for path in (*(os.path.join(root, name) for name in (*_FOLDERS, *_MADE)), *_below(root, _MADE[0])):
        leads_to = os.path.realpath(path)
        if os.path.commonpath((root, leads_to)) != root:
            raise InvalidError(
                f"{shown(folder)} is not safe to convert: {shown(os.path.relpath(path, root))} leads out of it, to\n"
                f"{shown(leads_to)}, and Apptainer would write there. Remove that link."
            )


def _below(root: str, name: str) -> Iterator[str]:
    for parent, folders, files in os.walk(os.path.join(root, name)):
        yield from (os.path.join(parent, each) for each in (*folders, *files))


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info
