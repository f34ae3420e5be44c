"""Ask a container registry: OCI's distribution protocol over HTTP, and what can go wrong with it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping

import requests

from modelhub_hpc import config
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, shown
from modelhub_hpc.sources import manifests
from modelhub_hpc.sources.credentials import DOCKER_HUB_HOST, DOCKER_HUB_NAMES, Login
from modelhub_hpc.sources.reference import Reference
from modelhub_hpc.sources.web import BLOCK, Interrupted, PatientSession, Patience, network

_WORDS = 300  # characters of what a registry has to say


class Remote:
    """One repository of a registry. Anonymous until the registry asks who is there. Used by several threads."""

    def __init__(self, reference: Reference, https: bool, patience: Patience) -> None:
        self.reference = reference
        self.host = DOCKER_HUB_HOST if reference.host in ("", *DOCKER_HUB_NAMES) else reference.host
        self._https = https
        self._session = PatientSession(patience)
        self._login = Login(self.host, self._session, https)
        self._authorization: dict[str, str] = {}
        self._lock = threading.Lock()
        self._open: set[requests.Response] = set()

    def manifest(self, wanted: str) -> bytes:
        """A manifest or an index as it is, by tag or digest; compared with the digest.

        Raises InvalidError, or TryAgainError if the registry cannot be reached now.
        """
        accept = ", ".join((*manifests.MANIFESTS, *manifests.INDEXES))
        with self._get(f"manifests/{wanted}", {"Accept": accept}) as response:
            return self._small(response, wanted)

    def document(self, digest: str) -> bytes:
        """A small blob, compared with its digest. Raises as manifest() does."""
        with self._get(f"blobs/{digest}", {}) as response:
            return self._small(response, digest)

    @contextlib.contextmanager
    def blob(self, digest: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Where the answer begins and its blocks: at byte `start`, or at 0 if the registry knows no ranges.

        The blocks are compared with nothing. Raises as manifest() does, while they are read too.
        """
        with self._get(f"blobs/{digest}", {"Range": f"bytes={start}-"} if start else {}) as response:
            partial = response.status_code == requests.codes.partial_content
            yield start if partial else 0, self._blocks(response)

    def close(self) -> None:
        """End what is being read, in whatever thread."""
        with self._lock:
            for response in self._open:
                with contextlib.suppress(AttributeError, ValueError, RuntimeError, OSError):
                    response.raw.shutdown()
        self._session.close()

    @contextlib.contextmanager
    def _get(self, path: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        response = self._sent(path, headers)
        if response.status_code == requests.codes.unauthorized:
            response.close()
            with network(self.host):
                answer = self._login.answer(response)
            if answer:
                self._authorization = {"Authorization": answer}
                response = self._sent(path, headers)
        with response:
            if not response.ok:
                raise self._refusal(response)
            with self._lock:
                self._open.add(response)
            try:
                yield response
            finally:
                with self._lock:
                    self._open.discard(response)

    def _sent(self, path: str, headers: Mapping[str, str]) -> requests.Response:
        scheme = "https" if self._https else "http"
        repository = self.reference.repository
        if self.host == DOCKER_HUB_HOST and "/" not in repository:
            repository = f"library/{repository}"
        url = f"{scheme}://{self.host}/v2/{repository}/{path}"
        with network(self.host):
            # compressed on the way it would be something else than its digest says
            plain = {"Accept-Encoding": "identity", **headers, **self._authorization}
            return self._session.get(url, headers=plain, stream=True)

    def _small(self, response: requests.Response, wanted: str) -> bytes:
        data = b""
        for block in self._blocks(response):
            data += block
            if len(data) > manifests.MOST_BYTES:
                raise InvalidError(f"{self.host} answers with far too much for {self.reference}.")
        if manifests.DIGEST.fullmatch(wanted):
            manifests.require_digest(data, wanted, f"What {self.host} sends for {self.reference}")
        return data

    def _blocks(self, response: requests.Response) -> Iterator[bytes]:
        with network(self.host):
            yield from response.iter_content(BLOCK)

    def _refusal(self, response: requests.Response) -> ModelHubError:
        status, said = response.status_code, self._words(response)
        if status == requests.codes.too_many_requests:
            wait = response.headers.get("Retry-After", "")
            when = f"in {wait} s" if wait.isdecimal() else f"after {shown(wait)[:40]}" if wait else "later"
            return TryAgainError(
                f"{self.host} limits how much may be pulled{said}\nTry again {when}, or log in there."
            )
        if status >= requests.codes.server_error:
            return Interrupted(f"{self.host} has trouble of its own: HTTP status {status}{said}")
        if status in (requests.codes.unauthorized, requests.codes.forbidden):
            return self._locked(said)
        if status == requests.codes.not_found:
            return InvalidError(f"{self.host} has no image {self.reference}{said}")
        hint = "\nIf it speaks TLS, leave out --no-https." if not self._https else ""
        return InvalidError(f"{self.host} refuses {self.reference}: HTTP status {status}{said}{hint}")

    def _locked(self, said: str) -> InvalidError:
        log_in = f"Log in with `apptainer registry login docker://{self.host}` or `docker login {self.host}`."
        if self._login.source:
            return InvalidError(
                f"{self.host} does not give {self.reference} to the user of {self._login.source}{said}\n{log_in}"
            )
        files = ", ".join(shown(path) for path in config.logins().files)
        return InvalidError(
            f"{self.host} gives {self.reference} to nobody without a login, or has no such image{said}\n"
            f"No login for it was found in {files}.\n{log_in}"
        )

    def _words(self, response: requests.Response) -> str:
        """What the registry says itself, if it does."""
        try:
            errors = json.loads(next(self._blocks(response), b""))["errors"]
            return f" ({shown(errors[0]['message'])[:_WORDS]})"
        except (Interrupted, ValueError, LookupError, TypeError, RecursionError):
            return ""
