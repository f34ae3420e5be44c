"""Show inputs to a model under names that cannot crash its readers."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from modelhub_hpc.errors import InputError, TryAgainError

Inputs = tuple[tuple[str, str], ...]  # (input key, path)


class Aliases:
    """Copies of inputs in a folder of the session, which the model sees as `inside`."""

    def __init__(self, folder: Path, inside: str) -> None:
        self._folder = folder
        self._inside = inside
        self._numbers = itertools.count()

    def visible(self, inputs: Inputs) -> Inputs:
        """The inputs under the paths at which the model sees them.

        That is their own path, or a copy's where the name could crash a reader. Raises InputError.
        """
        return tuple((key, path if _is_safe(path) else self._alias(path)) for key, path in inputs)

    def gathered(self, paths: Sequence[str]) -> str:
        """A folder, as the model sees it, that holds copies of just these files. Raises InputError."""
        name = str(next(self._numbers))
        (self._folder / name).mkdir()
        for number, path in enumerate(paths):
            _copy(path, self._folder / name / f"{number:06d}{_plain_suffix(path)}")
        return f"{self._inside}/{name}"

    def forget(self, inputs: Inputs) -> None:
        """Remove the copies among these inputs; those at their own path are left alone."""
        for _, path in inputs:
            if os.path.dirname(path) == self._inside:
                alias = self._folder / os.path.basename(path)
                shutil.rmtree(alias) if alias.is_dir() else alias.unlink()

    def _alias(self, path: str) -> str:
        name = f"{next(self._numbers)}{_plain_suffix(path)}"
        _copy(path, self._folder / name)
        return f"{self._inside}/{name}"


def is_plain(path: str) -> bool:
    """Whether a model may see this name: valid UTF-8 without control characters."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return path.isprintable()


def _is_safe(path: str) -> bool:
    return is_plain(path) and (not os.path.islink(path) or is_plain(os.path.realpath(path)))


def _plain_suffix(path: str) -> str:
    name = os.path.basename(path)
    suffix = name[name.find(".") :] if "." in name else ""
    return suffix if suffix.isascii() and suffix.isprintable() and len(suffix) < 20 else ""


def _copy(path: str, target: Path) -> None:
    try:
        (shutil.copytree if os.path.isdir(path) else shutil.copyfile)(path, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgainError(f"The scratch folder is full: {target.parent}.") from error
        raise InputError("unreadable", f"{path!r}: {error.strerror}") from error
