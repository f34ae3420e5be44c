"""HTTP with patience: no request waits for ever, what breaks is tried again, and what cannot work is said."""

from __future__ import annotations

import contextlib
import http.cookiejar
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
import requests.exceptions

from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, shown

BLOCK = 1 << 16  # a connection that breaks loses this much at most
# OpenSSL's words, old and new, for an answer that is plain HTTP
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER", "record layer", "HTTP_REQUEST")
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Patience:
    """Seconds to wait for a connection and for the next bytes; how often in vain, and how long before the next try."""

    connect_s: float = 15.0
    read_s: float = 60.0
    tries: int = 5
    pause_s: float = 1.0


class Interrupted(TryAgainError):
    """The server cannot be reached, or the connection broke."""


class PatientAdapter(requests.adapters.HTTPAdapter):
    """No request of anybody waits for ever; one that is cut off before its answer begins is sent once more."""

    def __init__(self, patience: Patience) -> None:
        self._times = (patience.connect_s, patience.read_s)
        super().__init__()

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        options["timeout"] = options.get("timeout") or self._times
        try:
            return super().send(request, **options)
        except requests.ConnectionError as error:
            if request.method != "GET" or not _was_cut_off(error):
                raise
            return super().send(request, **options)


class PatientSession(requests.Session):
    """Sends neither cookies nor what ~/.netrc holds."""

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, PatientAdapter(patience))
        # some registries take a cookie as a sign of a browser
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        # else ~/.netrc would replace the registry's own login
        self.auth = lambda request: request

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """A redirection to another host takes no login with it, neither the registry's nor one of ~/.netrc."""
        before, after = response.request.url, prepared_request.url
        if before is None or after is None or self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


@contextlib.contextmanager
def network(host: str) -> Iterator[None]:
    """Turn what the network answers into an error that a user can act on."""
    try:
        yield
    except requests.RequestException as error:
        raise _failure(host, error) from error


def persevere(
    attempt: Callable[[], None], reached: Callable[[], int], patience: Patience, ended: threading.Event
) -> None:
    """Attempt until it succeeds; Interrupted once it got no further several times in a row, or `ended` is set.

    reached: how far it is, in bytes.
    """
    failures = 0
    while True:
        begun = reached()
        try:
            attempt()
            return
        except Interrupted:
            failures = 1 if reached() > begun else failures + 1
            if failures >= patience.tries or ended.is_set():
                raise
            ended.wait(min(patience.pause_s * 2**failures, _LONGEST_PAUSE_S))


def _was_cut_off(error: BaseException) -> bool:
    """Whether the server hung up, as busy ones do: no refusal, and nothing that was waited for."""
    return any(isinstance(inner, ConnectionResetError) for inner in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came from, and so on inwards."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__


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
    if isinstance(error, (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)):
        return InvalidError(f"{host} redirects to what is no address for a file: {shown(error)}")
    if isinstance(error, requests.TooManyRedirects):
        return InvalidError(f"{host} redirects again and again.")
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
    said = [shown(inner.strerror) for inner in _chain(error) if isinstance(inner, OSError) and inner.strerror]
    return f": {said[-1]}" if said else ""
