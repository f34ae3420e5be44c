"""Who may come in, and what every answer says: looked at before any view, and after each."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import string
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

import flask
from werkzeug.wrappers import Response

from modelhub_hpc.errors import UsageError, shown
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.settings import ServiceSettings

log = logging.getLogger("modelhub_hpc.service.access")

# for who watches servers, and tells nothing; and what the page looks like that says where the token is to be had
PUBLIC = frozenset({"/healthz", "/static/pages.css", "/static/pages.js", "/static/icon.svg"})
CSRF_FIELD, CSRF_HEADER = "csrf_token", "X-CSRF-Token"
_SHORTEST = 20
_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all browsers send forms from "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    return secrets.token_urlsafe(32)


def read_token(file: Path) -> str:
    """The token that a file holds. Raises UsageError where others can read it, or it is none."""
    try:
        if file.stat().st_mode & 0o077:
            raise UsageError(f"Others can read {shown(file)}:  chmod 600 {shown(file)}")
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{shown(file)} cannot be read as a token: {error}") from error
    if len(token) < _SHORTEST or not set(token) <= _ALPHABET:
        raise UsageError(f"""
            {shown(file)} holds no token: at least {_SHORTEST} letters, digits, "-" or "_".
            A good one:  (umask 077; head -c 32 /dev/urandom | base64 | tr +/ -_ | tr -d = > {shown(file)})""")
    return token


class Guard:
    """One server's. Give it an application once."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        key = (settings.token or secrets.token_urlsafe()).encode()
        # what the browser keeps is not the token; cookies are shared by all ports of a host, so each server has a name
        self._cookie = _derived(key, "cookie")
        self._cookie_name = f"mh-hpc-{_derived(key, 'name')[:8]}"
        self.csrf_token = _derived(key, "csrf")

    def watch(self, app: flask.Flask) -> None:
        app.before_request(self._before)
        app.after_request(self._after)
        app.jinja_env.globals["csrf_token"] = lambda: self.csrf_token

    def _before(self) -> Response | None:
        request = flask.request
        flask.g.request_id, flask.g.began = secrets.token_hex(8), time.monotonic()
        self._know_host()
        if request.method == "OPTIONS" and self._is_listed():
            return Response(status=204)
        self._refuse_other_sites()
        if request.path in PUBLIC:
            return None
        came_by = self._let_in()
        if (request.content_length or 0) > self._settings.max_upload_bytes:
            raise Refused(413, f"The request is larger than {self._settings.max_upload_bytes} bytes.")
        if came_by == "query" and _wants_page():
            return self._remember()
        if request.method not in _SAFE and (came_by == "cookie" or (not came_by and _is_browser())):
            self._refuse_forged()
        return None

    def _know_host(self) -> None:
        """A name of somebody else's that leads here would make this server part of his site."""
        name = flask.request.host.rpartition(":")[0] or flask.request.host
        if flask.request.host.endswith("]") or name.isdigit():
            name = flask.request.host
        if self._settings.hosts is not None and name.strip("[]").lower() not in self._settings.hosts:
            raise Refused(403, "This server is not known by that name (mh-hpc serve --host-name NAME).")

    def _is_listed(self) -> bool:
        return flask.request.headers.get("Origin") in self._settings.origins

    def _refuse_other_sites(self) -> None:
        """Only this server's own pages, and those that were listed, may use it; anybody may link to it."""
        request = flask.request
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
        if self._is_listed():
            return
        linked = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        foreign = origin is not None and origin != request.host_url.rstrip("/")
        if foreign or (site not in ("same-origin", "none") and not linked):
            raise Refused(403, "Pages of other sites may not use this server.")

    def _let_in(self) -> str:
        """By what the request may come in: "header", "query", "cookie"; "" where nothing is asked. Refused (401)."""
        request, token = flask.request, self._settings.token
        if token is None:
            return ""
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), token):
            return "header"
        if _same(request.args.get("token", ""), token):
            return "query"
        if _same(request.cookies.get(self._cookie_name, ""), self._cookie):
            return "cookie"
        raise Refused(401, "The token is missing or wrong. `mh-hpc serve` printed an address that has it.")

    def _remember(self) -> Response:
        """Have the browser keep a cookie, and the token out of its history."""
        rest = [(name, value) for name, value in flask.request.args.items(multi=True) if name != "token"]
        clean = flask.request.path + (f"?{urlencode(rest)}" if rest else "")
        response = flask.redirect("/" + clean.lstrip("/"), 303)
        secure = flask.request.is_secure
        response.set_cookie(self._cookie_name, self._cookie, httponly=True, samesite="Lax", secure=secure)
        return response

    def _refuse_forged(self) -> None:
        request = flask.request
        given = request.headers.get(CSRF_HEADER) or request.form.get(CSRF_FIELD, "")
        if not self._is_listed() and not _same(given, self.csrf_token):
            raise Refused(403, "The form is too old, or not of this server. Load the page again.")

    def _after(self, response: flask.Response) -> flask.Response:
        request = flask.request
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["X-Request-Id"] = flask.g.request_id
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if self._is_listed():
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, Idempotency-Key"
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if self._settings.origins:
            response.headers.add("Vary", "Origin")
        took_ms = (time.monotonic() - flask.g.began) * 1000
        # without the query, which may hold a token
        who, what = request.remote_addr or "-", shown(f"{request.method} {request.path}")
        log.info("%s %s %s %d %.0f ms", flask.g.request_id, who, what, response.status_code, took_ms)
        return response


def may_come_in(head: Iterable[str], settings: ServiceSettings) -> bool:
    """Whether a body is worth receiving: a line of the head has in it what only those who may come in know."""
    if settings.token is None:
        return True
    words = (settings.token, _derived(settings.token.encode(), "cookie"))
    return any(word in text for word in words for text in head)


def _derived(key: bytes, use: str) -> str:
    return hmac.new(key, use.encode(), hashlib.sha256).hexdigest()


def _same(given: str, wanted: str) -> bool:
    """In a time that tells nothing."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _wants_page() -> bool:
    accepted = flask.request.accept_mimetypes
    return flask.request.method == "GET" and "text/html" in accepted.values()


def _is_browser() -> bool:
    return "Origin" in flask.request.headers or "Sec-Fetch-Site" in flask.request.headers
