"""The network's graph, drawn by Netron in the browser. Its files are those of its Python package, unchanged but for
the head of its page: what would have it report usage, and ask for updates, is left out.
"""

from __future__ import annotations

import importlib.metadata
import mimetypes
import re
from functools import lru_cache
from pathlib import Path

import flask
from markupsafe import escape
from werkzeug.wrappers import Response

from modelhub_hpc.service import guard
from modelhub_hpc.service.pages import catalogue
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import Service

_POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; worker-src 'self'; font-src 'self'; form-action 'none'; base-uri 'none'; "
)
_ASKS = re.compile(r'<meta name="(?:version|date)"[^>]*>\s*')  # by which it would tell its maker, and grow old
MISSING = "The graph is drawn by Netron, which is not installed here: pip install netron"


def add(pages: flask.Blueprint, service: Service) -> None:
    @pages.get("/models/<name>/graph")
    def graph(name: str) -> flask.Response:
        known = catalogue.find(service, name)
        file = network(known)
        page = flask.render_template("graph.html", known=known, file=file, missing="" if _folder() else MISSING)
        response = flask.make_response(page)
        response.headers["Content-Security-Policy"] = f"{guard.POLICY}; frame-src 'self'"
        return response

    @pages.get("/models/<name>/netron/")
    def netron_page(name: str) -> Response:
        file = _network_or_refuse(catalogue.find(service, name))
        html = (_folder_or_refuse() / "index.html").read_text("utf-8")
        response = flask.Response(_dressed(html, f"data/{file.name}"))
        response.headers["Content-Security-Policy"] = f"{_POLICY}frame-ancestors 'self'"
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        # what it asks for on the first visit, and a service on the internet where its user is, before it does
        response.set_cookie("consent", "none", path=flask.request.path, samesite="Strict")
        return response

    @pages.get("/models/<name>/netron/data/<file>")
    def network_file(name: str, file: str) -> Response:
        path = _network_or_refuse(catalogue.find(service, name))
        if path.name != file:
            raise Refused(404, "There is no such file of the network.")
        return flask.send_file(path, "application/octet-stream")

    @pages.get("/models/<name>/netron/<file>")
    def netron_file(name: str, file: str) -> Response:
        path = _folder_or_refuse() / file
        kind, _ = mimetypes.guess_type(file)
        if path.suffix not in (".js", ".json", ".css", ".png", ".ico") or not path.is_file():
            raise Refused(404, "Netron has no such file.")
        response = flask.send_file(path, "text/javascript" if path.suffix == ".js" else kind)
        response.headers["Content-Security-Policy"] = f"{_POLICY}frame-ancestors 'self'"  # workers have their own
        response.headers["Cache-Control"] = "private, max-age=3600"
        return response


def network(known: catalogue.Known) -> Path | None:
    """The file with the network, as the template of contributions has it: model/model.<format>."""
    if known.contribution is None:
        return None
    model = known.facts.get("model")
    ending = str(model.get("format", "")) if isinstance(model, dict) else ""
    folder = known.contribution.contrib_src / "model"
    path = folder / f"model{ending}"
    return path if ending.startswith(".") and "/" not in ending and path.is_file() else None


def _network_or_refuse(known: catalogue.Known) -> Path:
    path = network(known)
    if path is None:
        raise Refused(404, f"'{known.name}' has no network file that could be drawn.")
    return path


@lru_cache(maxsize=1)
def _folder() -> Path | None:
    """Netron's files; what it is at run time is not imported, since it would start a server."""
    try:
        listed = importlib.metadata.files("netron") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    page = next((file for file in listed if file.as_posix() == "netron/index.html"), None)
    return Path(str(page.locate())).parent if page else None


def _folder_or_refuse() -> Path:
    folder = _folder()
    if folder is None:
        raise Refused(404, MISSING)
    return folder


def _dressed(html: str, file: str) -> str:
    """Netron's page for one file; version 0.0.0 is what it takes for a copy of its makers, which tells nobody."""
    told = {"type": "Python", "version": "0.0.0", "file": file}
    head = "\n".join(f'<meta name="{name}" content="{escape(value)}">' for name, value in told.items())
    return _ASKS.sub("", html).replace("<head>", f"<head>\n{head}", 1)
