"""What SOURCE of `mh-hpc convert` names: resolved to a digest before anything is fetched, then fetched.

docker://NAME  docker-archive:FILE[:TAG]  oci:FOLDER[:TAG]  oci-archive:FILE[:TAG]  FILE.sif  FILE.def  a folder;
an archive or a layout without its word in front is judged by its content.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import cast

from modelhub_hpc import sif
from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.origin import Blob, ImageConfig, Kind, Origin
from modelhub_hpc.runfolder import storage
from modelhub_hpc.sources import archives

__all__ = ["Blob", "ImageConfig", "Origin", "fetch", "forget", "resolve"]

Progress = Callable[[int, int], None]

_DOCKER = "docker://"
_FILES = ("docker-archive", "oci-archive", "oci")
_PATHS = ("sif", "folder", "definition")
_SIF_MAGIC = b"SIF_MAGIC"
_SIF_GROWTH = 3  # once unpacked
_ROOTS = (".singularity.d", "bin", "usr", "etc")
_BOOTSTRAP = re.compile(rb"^\s*bootstrap\s*:\s*(\S+)", re.MULTILINE | re.IGNORECASE)
_LOCAL = (b"localimage", b"docker-archive", b"oci-archive", b"oci", b"scratch")
_LOOK = 1 << 20  # bytes of a definition


def resolve(source: str, *, offline: bool = False, https: bool = True) -> Origin:
    """What the source is, before anything is fetched; offline, the network is left alone.

    Raises UsageError (no form of a source), InvalidError (not there, damaged, not for this machine, no login) or
    TryAgainError (the registry cannot be reached now).
    """
    if source.startswith(_DOCKER):
        from modelhub_hpc.sources import pull  # whose libraries take a while to import

        name = source.removeprefix(_DOCKER)
        return pull.unseen(source, name) if offline else pull.resolve(source, name, https)
    kind, path, name = _local(source)
    try:
        if kind in _PATHS:
            return _path(source, kind, path, offline)
        return archives.resolve(source, kind, path, name)
    except OSError as error:
        raise InvalidError(f"{shown(error.filename or path)} cannot be read: {error.strerror}") from error


def fetch(
    origin: Origin, workspace: Path, blobs: Path, *, https: bool = True, progress: Progress | None = None
) -> str:
    """Make ready what `apptainer build` takes, in the workspace or where it lies; Apptainer then needs no network.

    blobs: a folder for what comes over the network, which an interrupted call leaves for the next one.
    progress: told the bytes done and those in all, from any thread.
    Raises InvalidError, TryAgainError or UnfitError.
    """
    told = progress or (lambda done, total: None)
    if origin.kind == "docker":
        from modelhub_hpc.sources import pull

        return pull.fetch(origin, workspace / "oci", blobs, https, told)
    _, path, _ = _local(origin.source)
    if origin.kind == "definition":
        return str(_called(workspace / "source.def", path))
    if origin.kind in _PATHS:
        return str(path)
    return archives.extract(origin, path, workspace / "oci", told)


def forget(origin: Origin, blobs: Path) -> None:
    """Drop what `fetch` left in `blobs`, once the image is in the store."""
    if origin.kind == "docker":
        from modelhub_hpc.sources import pull

        pull.forget(origin, blobs)


def _local(source: str) -> tuple[Kind, Path, str]:
    """The kind of a source in files, its absolute path, and the name of one image in it."""
    word, colon, rest = source.partition(":")
    if colon and word in _FILES:
        path, name = _split(rest)
        return cast(Kind, word), path, name
    path = Path(os.path.abspath(source))
    if not source or not os.path.lexists(path):
        raise _unknown(source)
    return _kind(path), path, ""


def _split(rest: str) -> tuple[Path, str]:
    """The path that exists and the name behind it: both may hold colons."""
    ends = [len(rest), *(found.start() for found in reversed([*re.finditer(":", rest)]))]
    for end in ends:
        if end and os.path.exists(rest[:end]):
            return Path(os.path.abspath(rest[:end])), rest[end + 1 :]
    raise InvalidError(f"There is no file or folder {shown(rest) or 'without a name'}.")


def _unknown(source: str) -> InvalidError | UsageError:
    scheme = re.match(r"([a-z][a-z0-9+-]*)(://|:)", source)
    if scheme and not os.path.exists(source):
        return UsageError(
            f"'{shown(scheme[0])}' is no kind of source. Known: docker://NAME, docker-archive:FILE, oci-archive:FILE, "
            "oci:FOLDER, FILE.sif, FILE.def, a folder."
        )
    return InvalidError(
        f"There is no file or folder {shown(source) or 'without a name'}.\nAn image in a registry: docker://NAME"
    )


def _kind(path: Path) -> Kind:
    """What lies there, by its content."""
    try:
        if path.is_dir():
            return archives.kind_of(path) or _root(path)
        if not path.is_file():
            raise InvalidError(f"{shown(path)} is neither a file nor a folder.")
        head = _head(path)
    except OSError as error:
        raise InvalidError(f"{shown(path)} cannot be read: {error.strerror}") from error
    if head[32:].startswith(_SIF_MAGIC):
        return "sif"
    if path.suffix == ".def" or _BOOTSTRAP.search(head):
        return "definition"
    found = archives.kind_of(path)
    if found is None:
        raise InvalidError(
            f"{shown(path)} is an archive, but not of an image: no manifest.json, no index.json."
        )
    return found


def _head(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_LOOK)


def _root(path: Path) -> Kind:
    if any(os.path.lexists(path / name) for name in _ROOTS):
        return "folder"
    raise InvalidError(
        f"{shown(path)} is not an image: neither an OCI layout (index.json) nor the root of one ({', '.join(_ROOTS)})."
    )


def _path(source: str, kind: Kind, path: Path, offline: bool) -> Origin:
    """What Apptainer reads itself."""
    size = 0
    if kind == "sif":
        sif.require_architecture(sif.read(path))
        size = path.stat().st_size * _SIF_GROWTH
    elif kind == "folder":
        size = _tree_bytes(path)
    elif offline:
        _require_local(path)
    return Origin(source, str(path), "", None, size, kind)


def _tree_bytes(path: Path) -> int:
    places = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(found.st_size for found in map(os.lstat, places) if stat.S_ISREG(found.st_mode))


def _require_local(path: Path) -> None:
    for found in _BOOTSTRAP.findall(_head(path)):
        if found.lower() not in _LOCAL:
            raise InvalidError(
                f"{shown(path)} starts from '{shown(found.decode(errors='replace'))}', and --offline allows no network."
            )


def _called(link: Path, path: Path) -> Path:
    """The file under another name, which tells Apptainer and others what it is."""
    with storage(link):
        link.symlink_to(path)
    return link
