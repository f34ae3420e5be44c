"""Jobs over HTTP, as the OpenAPI document describes them; errors are problems of RFC 9457."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import flask
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException

from modelhub_hpc import strictjson
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, UsageError
from modelhub_hpc.service import openapi, uploads
from modelhub_hpc.service.jobs import Job, Jobs, NewJob, Upload, results
from modelhub_hpc.service.problems import problem
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import Service

log = logging.getLogger(__name__)

AGAIN_S = 10
_LOOK_S = 1.0
_HEARTBEAT_S = 5.0  # also how soon a client that has gone is noticed
_LONGEST_S = 3600.0  # of a stream, after which the client asks anew
_KEY = re.compile(r"[!-~]{1,200}")
_FIELD = re.compile(r"inputs(?:\.(.+))?", re.DOTALL)
_CSV, _LINES = "text/csv", "application/jsonl"


def blueprint(service: Service) -> flask.Blueprint:
    """All of /jobs, and the document."""
    routes = flask.Blueprint("jobs", __name__)
    jobs = service.jobs
    streams = threading.BoundedSemaphore(service.settings.streams)
    routes.register_error_handler(Refused, lambda error: problem(error.status, str(error), error.retry_after_s))
    routes.register_error_handler(ModelHubError, _show_error)
    routes.register_error_handler(HTTPException, _show_http)
    _add_jobs(routes, service)
    _add_results(routes, jobs, service.settings.folder)

    @routes.get("/jobs/<job_id>/events")
    def job_events(job_id: str) -> flask.Response:
        job = jobs.get(job_id)
        if not streams.acquire(blocking=False):
            raise Refused(503, "Too many streams of events are open. Ask for the job itself now and then.", AGAIN_S)
        reply = flask.Response(_events(jobs, job), mimetype="text/event-stream")
        reply.headers["X-Accel-Buffering"] = "no"  # for who puts nginx in front
        reply.call_on_close(streams.release)
        return reply

    @routes.get("/openapi.json")
    def document() -> flask.Response:
        return flask.jsonify(openapi.document())

    return routes


def _add_jobs(routes: flask.Blueprint, service: Service) -> None:
    jobs = service.jobs

    @routes.post("/jobs")
    def begin_job() -> flask.Response:
        key = flask.request.headers.get("Idempotency-Key")
        if key is not None and not _KEY.fullmatch(key):
            raise Refused(400, "An Idempotency-Key has 1 to 200 letters, digits and signs of ASCII, and no spaces.")
        job, is_new = jobs.begin(_new_job(service), key)
        reply = flask.jsonify(job.to_json())
        reply.status_code = 201 if is_new else 200
        reply.headers["Location"] = f"/jobs/{job.id}"
        return reply

    @routes.get("/jobs")
    def list_jobs() -> flask.Response:
        found, after = jobs.list(_number("limit", 50, 1, 500), flask.request.args.get("cursor"))
        return flask.jsonify({"jobs": [job.to_json() for job in found], "next_cursor": after})

    @routes.get("/jobs/<job_id>")
    def get_job(job_id: str) -> flask.Response:
        return flask.jsonify(jobs.get(job_id).to_json())

    @routes.delete("/jobs/<job_id>")
    def end_job(job_id: str) -> flask.Response:
        if _flag("remove"):
            jobs.remove(job_id)
            return flask.Response(status=204)
        job = jobs.cancel(job_id)
        reply = flask.jsonify(job.to_json())
        reply.status_code = 200 if job.is_over else 202
        return reply


def _add_results(routes: flask.Blueprint, jobs: Jobs, scratch: Path) -> None:
    @routes.get("/jobs/<job_id>/results")
    def list_results(job_id: str) -> flask.Response:
        paths = jobs.paths(job_id)
        first, limit = _number("cursor", 0, 0, 10**9), _number("limit", 1000, 1, 10_000)
        if _kind_of_table() == _CSV:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                table = Path(folder) / "results.csv"
                after = results.write_table(paths, first, limit, table)
                return _page(table.read_bytes(), f"{_CSV}; charset=utf-8", after)
        page = results.page(paths, first, limit)
        lines = "".join(strictjson.dumps(results.facts(result)) + "\n" for result in page.results)
        return _page(lines.encode(), _LINES, page.next)

    @routes.get("/jobs/<job_id>/files")
    def list_files(job_id: str) -> flask.Response:
        paths = jobs.paths(job_id)
        first, limit = _number("cursor", 0, 0, 10**9), _number("limit", 1000, 1, 10_000)
        page = results.page(paths, first, limit)
        found = results.tables(paths) if first == 0 else []
        found += [file for result in page.results for file in results.files(result)]
        return flask.jsonify({"files": found, "next_cursor": page.next})

    @routes.get("/jobs/<job_id>/files/<name>")
    def get_file(job_id: str, name: str) -> flask.Response:
        paths = jobs.paths(job_id)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            found = results.download(paths, name, Path(folder))  # open before its folder goes: that is enough
        reply = flask.Response(found.parts, mimetype=found.media_type)
        reply.content_length = found.size
        reply.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return reply


# -- what clients send ----------------------------------------------------------------------------------------------


def _new_job(service: Service) -> NewJob:
    kind = flask.request.mimetype
    if kind == "application/json":
        body = _strict(flask.request.get_data(), "The body")
        openapi.check(body, "NewJob")
        return NewJob(body["model"], tuple(body["inputs"]), options=body.get("options", {}))
    if kind == "multipart/form-data":
        return _sent_job(service)
    raise Refused(415, "Send JSON, or a form (multipart/form-data) with files.")


def _sent_job(service: Service) -> NewJob:
    form, files = flask.request.form, flask.request.files
    name = form.get("model", "")
    if name not in service.models:
        raise Refused(422, f"This server has no such model. It has: {', '.join(service.models)}.")
    options = _strict(form.get("options", "{}").encode("utf-8", "replace"), "options")
    openapi.check(options, "JobOptions")
    model = service.models[name].contribution
    sent = tuple(_upload(field, each, model) for field, each in files.items(multi=True))
    if not sent:
        raise Refused(422, "The form has no files: send them as inputs, or as inputs.KEY for each input of the model.")
    return NewJob(name, uploads=sent, options=options)


def _upload(field: str, file: FileStorage, model: Contribution) -> Upload:
    match = _FIELD.fullmatch(field)
    only = model.inputs[0].key if len(model.inputs) == 1 else None
    spec = next((each for each in model.inputs if match and each.key == (match[1] or only)), None)
    if spec is None:
        fields = ["inputs"] if only else [f"inputs.{each.key}" for each in model.inputs]
        raise Refused(422, f"Files for this model are sent as {', '.join(fields)}.")
    return Upload(spec.key, file.filename or "", _sha256(file), lambda folder: uploads.receive(file, spec, folder))


def _sha256(file: FileStorage) -> str:
    digest = hashlib.sha256()
    while part := file.stream.read(2**20):
        digest.update(part)
    file.stream.seek(0)
    return digest.hexdigest()


def _strict(text: bytes, what: str) -> Any:
    try:
        return strictjson.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"{what} is not JSON.") from error


def _number(name: str, default: int, least: int, most: int) -> int:
    text = flask.request.args.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,10}", text, re.ASCII) or not least <= int(text) <= most:
        raise Refused(400, f"{name} is a number from {least} to {most}.")
    return int(text)


def _flag(name: str) -> bool:
    text = flask.request.args.get(name, "false")
    if text not in ("true", "false"):
        raise Refused(400, f"{name} is true or false.")
    return text == "true"


def _kind_of_table() -> str:
    wanted = flask.request.args.get("format")
    if wanted is None:
        return flask.request.accept_mimetypes.best_match([_LINES, _CSV], _LINES) or _LINES
    if wanted not in ("jsonl", "csv"):
        raise Refused(400, "format is jsonl or csv.")
    return _CSV if wanted == "csv" else _LINES


# -- what they get --------------------------------------------------------------------------------------------------


def _page(content: bytes, kind: str, after: int | None) -> flask.Response:
    """A page, whose successor is named in a header, since the content has no place for it."""
    reply = flask.Response(content, content_type=kind)
    if after is not None:
        asked = {name: text for name in ("limit", "format") if (text := flask.request.args.get(name))}
        address = f"{flask.request.path}?{urlencode({**asked, 'cursor': after})}"
        reply.headers["Link"] = f'<{address}>; rel="next"'
        reply.headers["X-Next-Cursor"] = str(after)
    return reply


def _events(jobs: Jobs, job: Job) -> Iterator[str]:
    """The job on each change until it is over; comments in between, which show that the stream lives."""
    ends = time.monotonic() + _LONGEST_S
    told, said = "", time.monotonic()
    yield "retry: 5000\n\n"
    while True:
        text = json.dumps(job.to_json())
        if job.is_over:
            yield f"event: end\ndata: {text}\n\n"
            return
        if text != told:
            told, said = text, time.monotonic()
            yield f"event: progress\ndata: {text}\n\n"
        elif time.monotonic() - said > _HEARTBEAT_S:
            said = time.monotonic()
            yield ": still here\n\n"
        if jobs.closing.wait(_LOOK_S) or time.monotonic() > ends:
            return
        try:
            job = jobs.get(job.id)
        except (Refused, ModelHubError):
            return  # it was removed


def _show_error(error: ModelHubError) -> flask.Response:
    """What `mh-hpc submit` would have said of what was asked; of this machine's troubles its log tells more."""
    if isinstance(error, (InvalidError, UsageError)):
        return problem(422, str(error))
    log.error("request %s: %s", flask.g.request_id, error)
    again_s = AGAIN_S if isinstance(error, TryAgainError) else None
    return problem(503, "The server cannot do that now; its log says why.", again_s)


def _show_http(error: HTTPException) -> Any:
    if error.code is None or error.code < 400:
        return error.get_response()
    return problem(error.code, error.description or error.name)
