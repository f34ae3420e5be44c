"""An image on this machine, and what people call it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.errors import UsageError, shown

LATEST = "latest"

_PIN = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST_STEM = 120  # bytes; with digest, ending and the marks of a file in the making far from the usual 255


@dataclass(frozen=True)
class Image:
    """A SIF file that this machine can start.

    name: "repository/image:tag"; sha256: of the file, in hex; interpreter: the Python of its start command;
    digest: "sha256:..." of the manifest (or image configuration) it was converted from; tree: "sha256:..." over
    all its files; cwd: where its start command expects to run; python: version. "" where something is not known.
    """

    name: str
    path: Path
    sha256: str
    bytes: int
    interpreter: str
    digest: str = ""
    tree: str = ""
    cwd: str = ""
    python: str = ""

    def is_pinned_by(self, pin: str) -> bool:
        """Whether "sha256:..." is the digest of its source, of its files, or of the SIF itself."""
        return pin in (self.digest, self.tree, f"sha256:{self.sha256}")


@dataclass(frozen=True)
class ImageName:
    """What a user wrote: NAME[:TAG][@sha256:...]. tag and pin are "" where not given."""

    repository: str
    tag: str = ""
    pin: str = ""

    @property
    def full(self) -> str:
        """With a tag, as images are recorded: no tag means latest, as with Docker."""
        return f"{self.repository}:{self.tag or LATEST}"


def parse(text: str) -> ImageName:
    """
    >>> parse("127.0.0.1:5000/a/b:1.0")
    ImageName(repository='127.0.0.1:5000/a/b', tag='1.0', pin='')

    Raises UsageError for a pin that is no digest, and for no name at all.
    """
    name, at, pin = text.partition("@sha256:")
    if at and not _PIN.fullmatch(f"sha256:{pin}"):
        raise UsageError(f"{shown(text)}: after '@' comes sha256: and 64 digits of 0-9 and a-f.")
    folder, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    if not last:
        raise UsageError(f"'{shown(text)}' names no image. Write REPOSITORY/IMAGE:TAG.")
    return ImageName(f"{folder}{slash}{last}", tag, f"sha256:{pin}" if at else "")


def file_stem(name: str, sha256: str) -> str:
    """The name of an image's files without their endings: harmless, whatever the image is called.

    >>> file_stem("modelhub/keras:1.0", "0123456789abcdef")
    'modelhub-keras_1.0_0123456789ab'
    """
    plain = re.sub("[^A-Za-z0-9._-]+", "-", name.replace(":", "_")).lstrip("-.")
    return f"{plain[:_LONGEST_STEM] or 'image'}_{sha256[:12]}"


def distinct_stem(name: str, sha256: str) -> str:
    """For a name whose `file_stem` is taken by another name."""
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{file_stem(name, sha256)}-{mark}"
