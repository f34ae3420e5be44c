"""The Flask application: which parts there are, and how errors look."""

from __future__ import annotations

import errno
import logging
import re

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response

from modelhub_hpc.service import jobs_api, metrics, pages, rest
from modelhub_hpc.service.guard import Guard
from modelhub_hpc.service.problems import problem
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import Service

log = logging.getLogger(__name__)

_OLD = re.compile(r"/api/|/models/[^/]*/api/")  # whose clients know {"error": ...}
_NEW = re.compile(r"/(jobs\b|healthz$|metrics$|openapi\.json$)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
FORM_PARTS = 1000
FORM_BYTES = 2**20


def create_app(service: Service) -> flask.Flask:
    """The application over a service, whose models it serves until the service is closed."""
    app = flask.Flask("modelhub_hpc.service")
    app.config.update(
        MAX_CONTENT_LENGTH=service.settings.max_upload_bytes,
        MAX_FORM_PARTS=FORM_PARTS,
        MAX_FORM_MEMORY_SIZE=FORM_BYTES,
        PROPAGATE_EXCEPTIONS=False,
    )
    Guard(service.settings).watch(app)
    app.register_error_handler(Refused, _show_refused)
    app.register_error_handler(HTTPException, _show_http)
    app.register_error_handler(Exception, _show_bug)
    for number, (name, model) in enumerate(service.models.items()):
        app.register_blueprint(rest.blueprint(model.rest, f"rest-{number}"), url_prefix=f"/models/{name}/api")
        if len(service.models) == 1:
            app.register_blueprint(rest.blueprint(model.rest, "rest"), url_prefix="/api")
    for part in (jobs_api, metrics, pages):
        app.register_blueprint(part.blueprint(service))
    return app


def _show_refused(error: Refused) -> Response:
    response = _told(error.status, str(error), error.retry_after_s)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _show_http(error: HTTPException) -> Response:
    if error.response is not None or error.code is None or error.code < 400:
        return error.get_response()
    response = _told(error.code, error.description or error.name)
    response.headers.extend({k: v for k, v in error.get_headers() if k not in ("Content-Type", "Content-Length")})
    return response


def _show_bug(error: Exception) -> Response:
    """Strangers learn nothing of it but its number, under which the log has it all."""
    if isinstance(error, OSError) and error.errno in _FULL:
        log.error("%s: %s", flask.g.request_id, error)
        return _show_refused(Refused(503, "The server's storage is full.", 60))
    log.exception("request %s", flask.g.request_id, exc_info=error)
    return _told(500, f"Something went wrong here. The server's log has more, under {flask.g.request_id}.")


def _told(status: int, message: str, retry_after: int | None = None) -> Response:
    path, accepts = flask.request.path, flask.request.accept_mimetypes
    if _NEW.match(path):
        return problem(status, message, retry_after)
    if _OLD.match(path) or "text/html" not in accepts.values():
        return flask.make_response({"error": message}, status)
    title = HTTP_STATUS_CODES.get(status, "Error")
    page = flask.render_template(
        "error.html", status=status, title=title, message=message, retry_after=retry_after
    )
    return flask.make_response(page, status)
