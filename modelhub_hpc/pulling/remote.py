"""Bring one file over HTTP: whole, checked, and going on where an earlier attempt was interrupted."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, ModelHubError, shown
from modelhub_hpc.runfolder import PART, drop, read_json, replace_json, storage
from modelhub_hpc.sources.web import BLOCK, Interrupted, Patience, PatientAdapter, PatientSession, network, persevere

Progress = Callable[[int, int], None]

MOST_BYTES = 64 << 30  # of a file whose size nobody has said
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_HTML = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class Remote:
    """A file of a server. sha256, bytes: None where nobody has said them."""

    url: str
    sha256: str | None
    bytes: int | None


def require_allowed(url: str, https: bool) -> None:
    """InvalidError unless the address is https://, or http:// of this machine or, without `https`, of any."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, login = parts.hostname or "", parts.username
    except ValueError:
        host = login = ""
    if login is not None and host:
        raise InvalidError(f"An address at {shown(host)} holds a login, for all to read; it is not used.")
    if host and (parts.scheme == "https" or (parts.scheme == "http" and (not https or _is_here(host)))):
        return
    raise InvalidError(
        f"{shown(url)} is no address that a file may come from: https://HOST/...\n"
        "With --no-https also http://, which anybody on the way can change."
    )


def download(
    wanted: Remote, folder: Path, https: bool, progress: Progress, patience: Patience | None = None
) -> Path:
    """The file, below `folder`, where an interrupted call leaves what it got for the next one.

    Nobody else may use the folder at the time. progress: bytes here and in all, 0 for unknown. Raises InvalidError (not
    there, not as it should be), and TryAgainError, after which the same call goes on where this one ended.
    """
    require_allowed(wanted.url, https)
    stem = hashlib.sha256(wanted.url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    kept = folder / stem
    if kept.exists():
        if wanted.sha256 in (None, file_digest(kept)):
            return kept
        drop(kept)
    _Download(wanted, kept, https, progress, patience or Patience()).run()
    return kept


@dataclass(frozen=True)
class _Download:
    wanted: Remote
    kept: Path
    https: bool
    progress: Progress
    patience: Patience

    def run(self) -> None:
        resumed = self._reached() > 0
        self._receive_all()
        found = file_digest(self._part)
        if self.wanted.sha256 not in (None, found):
            drop(self._part)
            if resumed:  # what an earlier attempt left may have been of another file, or damaged since
                return self.run()
            raise InvalidError(
                f"{shown(self.wanted.url)} is not the file that it should be:\n"
                f"expected sha256 {self.wanted.sha256}\nfound    sha256 {found}\n"
                "It may have been changed there, or on the way. Nothing of it was kept."
            )
        with storage(self._part), open(self._part, "rb+") as stream:
            os.fsync(stream.fileno())
        self._part.rename(self.kept)
        drop(self._label)

    @property
    def _part(self) -> Path:
        return self.kept.with_name(f"{self.kept.name}{PART}")

    @property
    def _label(self) -> Path:
        """Which state of the file the part is of, in the server's words."""
        return self.kept.with_name(f"{self.kept.name}.json")

    @property
    def _host(self) -> str:
        return urllib.parse.urlsplit(self.wanted.url).netloc.rpartition("@")[2]

    def _reached(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _receive_all(self) -> None:
        with storage(self._part), open(self._part, "ab"):
            pass
        session = PatientSession(self.patience)
        session.adapters.clear()
        guard = _Guard(self.patience, self.wanted.url, self.https)
        for scheme in ("https://", "http://"):
            session.mount(scheme, guard)
        try:
            persevere(lambda: self._receive(session), self._reached, self.patience, threading.Event())
        except Interrupted as error:
            there = f"{self._reached() / 1e6:.1f} MB of {shown(self.wanted.url)} are here and stay"
            raise Interrupted(f"{str(error).splitlines()[0]}\n{there}; the same command goes on from there.") from error
        finally:
            session.close()

    def _receive(self, session: requests.Session) -> None:
        begun, label = self._reached(), read_json(self._label)
        if begun and begun == self.wanted.bytes:
            return  # only to be checked
        headers = {"Accept-Encoding": "identity"}
        if begun and label.get("state"):
            headers |= {"Range": f"bytes={begun}-", "If-Range": label["state"]}
        with network(self._host):
            response = session.get(self.wanted.url, headers=headers, stream=True)
        with response:
            start = self._start(response, begun)
            length = response.headers.get("Content-Length", "")
            total = start + (int(length) if length.isdecimal() else 0)
            self._require_size(total, exactly=length.isdecimal())
            if not start:
                os.truncate(self._part, 0)  # before it is said to be of another state
                replace_json(self._label, {"state": _state(response)})
            self._write(response, start, total)

    def _start(self, response: requests.Response, begun: int) -> int:
        """At which byte the answer begins."""
        if response.status_code == requests.codes.partial_content:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match and int(match[1]) == begun:
                return begun
        elif response.status_code == requests.codes.ok:
            self._require_no_page(response)
            return 0
        elif response.status_code != requests.codes.requested_range_not_satisfiable:
            raise self._refusal(response)
        drop(self._label)  # without it, the next attempt begins anew
        raise Interrupted(f"{self._host} does not go on where it was interrupted")

    def _write(self, response: requests.Response, start: int, total: int) -> None:
        with open(self._part, "rb+", buffering=0) as stream:
            stream.seek(start)
            for block in self._blocks(response):
                with storage(self._part, self.wanted.bytes or total):
                    stream.write(block)
                self._require_size(stream.tell())
                self.progress(stream.tell(), self.wanted.bytes or total)
            if stream.tell() < (self.wanted.bytes or 0):
                raise Interrupted(f"{self._host} broke off")

    def _blocks(self, response: requests.Response) -> Any:
        with network(self._host):
            yield from response.iter_content(BLOCK)

    def _require_size(self, count: int, exactly: bool = False) -> None:
        expected = self.wanted.bytes
        if count > (MOST_BYTES if expected is None else expected) or (exactly and expected not in (None, count)):
            drop(self._part)
            limit = f"and at most {MOST_BYTES:,} are taken" if expected is None else f"and should have {expected:,}"
            raise InvalidError(f"{shown(self.wanted.url)} has {count:,} bytes or more, {limit}. Nothing was kept.")

    def _require_no_page(self, response: requests.Response) -> None:
        """A page instead of the file: of a portal, a login, an error that calls itself a success."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in _HTML and self.wanted.sha256 is None:
            raise InvalidError(
                f"{self._host} answers with a page for people instead of {shown(self.wanted.url)}.\n"
                "Open that address in a browser to see what it says."
            )

    def _refusal(self, response: requests.Response) -> ModelHubError:
        status = response.status_code
        said = f"HTTP status {status} for {shown(self.wanted.url)}"
        if status == requests.codes.too_many_requests or status >= requests.codes.server_error:
            return Interrupted(f"{self._host} cannot give it now: {said}")
        if status in (requests.codes.not_found, requests.codes.gone):
            return InvalidError(f"The file is not there any more: {said}")
        return InvalidError(f"{self._host} refuses: {said}")


class _Guard(PatientAdapter):
    """Lets no redirection lead from an address that is encrypted to one that is not."""

    def __init__(self, patience: Patience, url: str, https: bool) -> None:
        super().__init__(patience)
        self._plain = url.lower().startswith("http://")
        self._https = https

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        url = request.url or ""
        if not (url.startswith("https://") or self._plain):
            raise InvalidError(f"A server redirects to {shown(url)}, which is not encrypted; it is not followed.")
        require_allowed(url, self._https)
        return super().send(request, **options)


def _state(response: requests.Response) -> str:
    """What If-Range takes: a strong validator, else "" for none."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
