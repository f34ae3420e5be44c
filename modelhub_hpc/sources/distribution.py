"""Ask a container registry: OCI's distribution protocol over HTTP, and what can go wrong with it."""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
import requests.exceptions

from modelhub_hpc import config
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, shown
from modelhub_hpc.sources import manifests
from modelhub_hpc.sources.credentials import DOCKER_HUB_HOST, DOCKER_HUB_NAMES, Login
from modelhub_hpc.sources.reference import Reference

BLOCK = 1 << 16  # a connection that breaks loses this much at most
# OpenSSL's words, old and new, for an answer that is plain HTTP
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER", "record layer", "HTTP_REQUEST")
_WORDS = 300  # characters of what a registry has to say


@dataclass(frozen=True)
class Patience:
    """Seconds to wait for a connection and for the next bytes; how often in vain, and how long before the next try."""

    connect_s: float = 15.0
    read_s: float = 60.0
    tries: int = 5
    pause_s: float = 1.0


class Interrupted(TryAgainError):
    """The registry cannot be reached, or the connection broke."""


class Remote:
    """One repository of a registry. Anonymous until the registry asks who is there. Used by several threads."""

    def __init__(self, reference: Reference, https: bool, patience: Patience) -> None:
        self.reference = reference
        self.host = DOCKER_HUB_HOST if reference.host in ("", *DOCKER_HUB_NAMES) else reference.host
        self._https = https
        self._session = _Session(patience)
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
            with self._network():
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
        with self._network():
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
        with self._network():
            yield from response.iter_content(BLOCK)

    @contextlib.contextmanager
    def _network(self) -> Iterator[None]:
        """Turn what the network answers into an error that a user can act on."""
        try:
            yield
        except requests.RequestException as error:
            raise _failure(self.host, error) from error

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


class _Patient(requests.adapters.HTTPAdapter):
    """No request of anybody waits for ever."""

    def __init__(self, patience: Patience) -> None:
        self._times = (patience.connect_s, patience.read_s)
        super().__init__()

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        options["timeout"] = options.get("timeout") or self._times
        return super().send(request, **options)


class _Session(requests.Session):
    def __init__(self, patience: Patience) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Patient(patience))
        # some registries take a cookie as a sign of a browser
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        # else ~/.netrc would replace the registry's own login
        self.auth = lambda request: request

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """A redirection to another host takes no login with it, neither the registry's nor one of ~/.netrc."""
        before, after = response.request.url, prepared_request.url
        if before is None or after is None or self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


def _failure(host: str, error: requests.RequestException) -> ModelHubError:
    said, reason = str(error), _reason(error)
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return InvalidError(
                f"The certificate of {host} is not trusted here{reason}\n"
                "If an authority of your site has signed it, name that: REQUESTS_CA_BUNDLE=FILE.pem"
            )
        if any(sign in said for sign in _NO_TLS):
            return InvalidError(f"{host} does not speak TLS{reason}\nFor a registry without it: --no-https")
    if isinstance(error, requests.Timeout) or "timed out" in said:
        trouble = "does not answer"
    elif isinstance(error, requests.exceptions.ProxyError):
        trouble = "cannot be reached through the proxy"
    else:
        trouble = "cannot be reached, or broke off"
    return Interrupted(
        f"{host} {trouble}{reason}\n"
        "Check its name, the network and the proxies (HTTPS_PROXY), then run the same command again."
    )


def _reason(error: BaseException) -> str:
    """The innermost reason in the system's words: the libraries' own are long and may quote a proxy's password."""
    found = ""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            found = f": {shown(inner.strerror)}"
        inner = inner.__cause__ or inner.__context__
    return found
