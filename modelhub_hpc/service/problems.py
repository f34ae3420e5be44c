"""Replies to requests that cannot be served, as RFC 9457 has them; `error` repeats the text for clients of ModelHub."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, g, json

MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, retry_after_s: int | None = None) -> Response:
    """The reply. detail: for strangers, without paths of this machine that they have not named themselves."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "error": detail}
    if "request_id" in g:
        body["request_id"] = g.request_id
    reply = Response(json.dumps(body) + "\n", status, content_type=MEDIA_TYPE)
    if retry_after_s is not None:
        reply.headers["Retry-After"] = str(retry_after_s)
    return reply
