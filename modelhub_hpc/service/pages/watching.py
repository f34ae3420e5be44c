"""Runs: all that lie in the server's folder, and one of them with its progress, its failures and its report."""

from __future__ import annotations

from collections.abc import Sequence

import flask
from werkzeug.wrappers import Response

from modelhub_hpc import request
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.record import CaseResult, RunPaths
from modelhub_hpc.runs import Queue, look
from modelhub_hpc.service.jobs import Job
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import Service

# a report shows what strangers have written: it may draw itself, and reach nothing
_ALONE = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add(pages: flask.Blueprint, service: Service) -> None:
    @pages.get("/runs")
    def runs() -> str:
        listed, following = service.jobs.list(after=flask.request.args.get("after"))
        return flask.render_template("runs.html", jobs=listed, following=following, folder=service.settings.jobs)

    @pages.get("/runs/<id>")
    def run(id: str) -> str:
        job = service.jobs.get(id)
        report = RunPaths(job.run_folder).report_html.is_file()
        return flask.render_template("run.html", job=job, failures=_failures(job), report=report)

    @pages.post("/runs/<id>/cancel")
    def cancel(id: str) -> Response:
        service.jobs.cancel(id)
        return flask.redirect(flask.url_for("pages.run", id=id), 303)

    @pages.get("/runs/<id>/report")
    def report(id: str) -> Response:
        path = RunPaths(service.jobs.get(id).run_folder).report_html
        if not path.is_file():
            raise Refused(404, "This run has no report yet.")
        response = flask.send_file(path, "text/html")
        response.headers["Content-Security-Policy"] = _ALONE
        return response


def _failures(job: Job) -> Sequence[CaseResult]:
    """The latest, with their evidence."""
    paths = RunPaths(job.run_folder)
    try:
        return look.look(paths, request.read(paths), Queue()).failures
    except ModelHubError:
        return ()  # begun a moment ago, or not by this version
