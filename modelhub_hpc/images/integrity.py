"""Whether an image file is still what it was when it was converted: in full, or cheaply before each use."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import config, sif
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, UnfitError, shown
from modelhub_hpc.images.image import Image
from modelhub_hpc.processes import alone, own_folder
from modelhub_hpc.runfolder import drop, read_json, replace_json

# a file that changed this recently may change again without a new time stamp
_SETTLED_S = 2.0
_MEMORY_S = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Inode:
    """The file itself, whatever name it has."""

    device: int
    number: int


def check(image: Image) -> Inode:
    """Make sure that the image's file is whole and unchanged, before it is started.

    The whole file is read only once per node, and again when it was touched. Raises InvalidError, with both
    digests, if it has changed or is for another architecture, and TryAgainError if it is not there.
    """
    with _reading(image.path):
        now = os.stat(image.path)
        digest = known_digest(image.path) if now.st_size == image.bytes else file_digest(image.path)
        if digest != image.sha256:
            raise changed(image, digest, now.st_size)
        sif.require_architecture(sif.read(image.path))
    return Inode(now.st_dev, now.st_ino)


def check_again(image: Image, started: Inode) -> None:
    """Make sure that the file which `check` saw was not changed in place under a model that runs from it.

    Another file under its name, or none, does such a model no harm. Raises as `check` does.
    """
    try:
        now = os.stat(image.path)
    except OSError:
        return
    if Inode(now.st_dev, now.st_ino) == started:
        check(image)


def verify(image: Image) -> None:
    """Read the whole file, whatever is remembered of it. Raises InvalidError and TryAgainError as `check` does."""
    with _reading(image.path):
        digest, size = file_digest(image.path), os.stat(image.path).st_size
        if (digest, size) != (image.sha256, image.bytes):
            raise changed(image, digest, size)
        contents = sif.read(image.path)
        sif.require_architecture(contents)
        _agree(image, contents.embedded(sif.CERTIFICATE))


def known_digest(path: Path) -> str:
    """sha256 of a file, read in full only if this node has not yet done so since it changed. Raises OSError."""
    if (known := _remembered(path)) is not None:
        return known
    with _reading_alone(path):
        if (known := _remembered(path)) is not None:
            return known  # another process has read it meanwhile
        before = _identity(path)
        digest = file_digest(path)
        if _identity(path) == before and _settled(before):
            _remember(path, before, digest)
        return digest


def remember(path: Path, digest: str) -> None:
    """Spare this node to read a file that this process has just written. Raises OSError."""
    _remember(path, _identity(path), digest)


def _remember(path: Path, seen: dict[str, int | str], digest: str) -> None:
    entry = _entry(path)
    if entry is None:
        return
    with contextlib.suppress(ModelHubError, FileNotFoundError):  # the next one reads the file again
        replace_json(entry, {**seen, "sha256": digest})
        for each in entry.parent.iterdir():
            if time.time() - each.lstat().st_mtime > _MEMORY_S:
                drop(each)


def _agree(image: Image, certificate: bytes | None) -> None:
    """The record beside the file must speak of the same source as the certificate inside."""
    if certificate is None:
        return
    try:
        origin = json.loads(certificate)["origin"]["digest"]
    except (ValueError, KeyError, TypeError):
        return  # of a format that says it elsewhere
    if image.digest and origin != image.digest:
        raise InvalidError(
            f"The record of '{shown(image.name)}' and the certificate inside its file disagree.\n"
            f"source in the record:      {image.digest}\nsource in the certificate: {origin}\n"
            "Remove the image (mh-hpc images rm) and convert it again."
        )


def changed(image: Image, digest: str, size: int) -> InvalidError:
    """The error that the image's file is not what was converted; digest and size: what it is instead."""
    return InvalidError(
        f"The image file {shown(image.path)} is not the one that was converted: damaged, or replaced.\n"
        f"expected: {image.bytes} bytes, sha256 {image.sha256}\n"
        f"found:    {size} bytes, sha256 {digest}\n"
        f"Restore that file, or remove the image and convert it again:  mh-hpc images rm {shown(image.name)}"
    )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise TryAgainError(
            f"The image file {shown(path)} is not there (moved, or not mounted here?)."
        ) from None
    except PermissionError as error:
        raise UnfitError(f"The image file {shown(path)} cannot be read: {error.strerror}.") from error
    except OSError as error:
        raise TryAgainError(f"The image file {shown(path)} cannot be read: {error.strerror}.") from error


def _identity(path: Path) -> dict[str, int | str]:
    found = os.stat(path)
    return {
        "host": platform.node(),
        "device": found.st_dev,
        "inode": found.st_ino,
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


def _settled(seen: dict[str, int | str]) -> bool:
    youngest = max(int(seen["mtime_ns"]), int(seen["ctime_ns"])) / 1e9
    return abs(time.time() - youngest) > _SETTLED_S


def _entry(path: Path) -> Path | None:
    """Where this node remembers the digest of a file for this user; None where that would not be this user's alone."""
    folder = own_folder(config.caller().tmpdir / f"mh-hpc-checked-{os.getuid()}")
    found = os.stat(path)
    return folder / f"{found.st_dev}-{found.st_ino}.json" if folder else None


def _remembered(path: Path) -> str | None:
    entry = _entry(path)
    known = read_json(entry) if entry else {}
    digest = known.pop("sha256", None)
    return digest if known == _identity(path) and isinstance(digest, str) else None


@contextlib.contextmanager
def _reading_alone(path: Path) -> Iterator[None]:
    """Of the workers that start together on a node, one reads the file; the others wait for what it has found."""
    entry = _entry(path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # where files cannot be locked each of them reads it
            if entry:
                stack.enter_context(alone(entry.with_suffix(".lock")))
        yield
