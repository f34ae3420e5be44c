"""Why a model failed where it may not do as it likes: told from its error, its traceback and its last words."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """check: the one that the failure belongs to; what: in words, with what the model did; mend: what to do."""

    check: str
    what: str
    mend: str


_PATH = r"(?P<path>u?'[^'\n]+'|u?\"[^\"\n]+\")"
_FILES = "Put the file into model/ or external_contrib_files, and load it from there."
_ROOT = Reason("no root", "it needs root, which no model is", "Do what needs root when the image is made.")
# the setting in which an error means something, the error, and what it means
_REASONS = (
    # a port below 1024, which only root may open: the error itself says no more than "Permission denied"
    (
        re.compile(r"\.bind\(|socketserver|make_server", re.IGNORECASE),
        re.compile(r"Errno 13|PermissionError|Permission denied"),
        Reason("no root", "it opens a port that is only for root, such as port 80", "The engine serves: open none."),
    ),
    (
        re.compile(r""),
        re.compile(
            r"gaierror|URLError|ConnectionError|ConnectError|NewConnectionError|Max retries exceeded"
            r"|Network is unreachable|name resolution|Name or service not known|nodename nor servname"
            r"|Couldn't (?:resolve|connect)|Failed to connect"
        ),
        Reason("offline", "it phones home: it asks for the network, and there is none where models run", _FILES),
    ),
    (
        re.compile(r""),
        re.compile(rf"(?:Errno 30\]|Read-only file system).{{0,40}}?{_PATH}|Read-only file system"),
        Reason(
            "read-only",
            "it writes outside of the folders that it may write to",
            "Write to /output, /working, /temp, /tmp or $HOME, or not at all.",
        ),
    ),
    (
        # where root does not exist, becoming root is an invalid argument
        re.compile(r"chown|set[eu]*[ug]id"),
        re.compile(r"Errno (?:1|22)\]"),
        _ROOT,
    ),
    (
        re.compile(r""),
        re.compile(
            r"Errno 1\]|Operation not permitted|must be (?:run as )?root|requires root|not running as root"
            r"|(?:'sudo'|sudo: (?:command )?not found)"
        ),
        _ROOT,
    ),
    (
        re.compile(r""),
        re.compile(rf"(?:Errno 13\]|Permission denied).{{0,40}}?{_PATH}"),
        Reason(
            "read-only",
            "it may not use a file or folder",
            "Write to /output, /working, /temp, /tmp or $HOME; what it reads must be open to everybody.",
        ),
    ),
)


def find(text: str) -> Reason | None:
    """The reason in an error with its traceback; None for any other than those of the surroundings."""
    for setting, mark, reason in _REASONS:
        found = mark.search(text)
        if found and setting.search(text):
            path = (found.groupdict().get("path") or "").lstrip("u").strip("'\"")
            return Reason(reason.check, f"{reason.what}: {path}" if path else reason.what, reason.mend)
    return None
