"""The HTTP side of the interface: routes, statuses, headers. The only module that imports Flask."""

import json
import mimetypes
import re

import flask
from werkzeug.exceptions import HTTPException

from modelhublib.errors import as_text, error_line

from .restapi import MEGABYTE, RequestError

_FORM_PARTS = 16  # a prediction needs one for each input
_BLOCK = 65536


def make_app(rest):
    """Return a Flask application with the routes of a RequestHandler under /api."""
    app = flask.Flask("modelhubapi", static_folder=None)
    app.request_class = _bounded_request()
    app.config.update(MAX_CONTENT_LENGTH=rest.max_upload_bytes, MAX_FORM_PARTS=_FORM_PARTS,
                      MAX_FORM_MEMORY_SIZE=MEGABYTE, PROPAGATE_EXCEPTIONS=False)
    app.register_blueprint(make_blueprint(rest, "api"), url_prefix="/api")
    for status in (400, 403, 411, 413, 500):
        app.register_error_handler(status, _show_error)
    return app


def make_blueprint(rest, name):
    """Return the routes of a RequestHandler, to be registered under a prefix that ends in /api."""
    routes = flask.Blueprint(name, "modelhubapi")
    routes.before_request(lambda: _refuse_dangerous_requests(rest))
    routes.register_error_handler(RequestError, _show_request_error)
    _add_descriptions(routes, rest)
    _add_files(routes, rest)
    _add_predictions(routes, rest)
    return routes


def _add_descriptions(routes, rest):
    @routes.route("/get_config")
    def get_config():
        return _json(rest.api.get_config())

    @routes.route("/get_legal")
    def get_legal():
        return _json(rest.api.get_legal())

    @routes.route("/get_model_io")
    def get_model_io():
        return _json(rest.api.get_model_io())

    @routes.route("/get_samples")
    def get_samples():
        samples = rest.api.get_samples()
        if "error" in samples:
            return _json(samples)
        return _json([flask.url_for(".samples", name=name, _external=True) for name in samples["files"]])


def _add_files(routes, rest):
    @routes.route("/samples/<name>")
    def samples(name):
        return _send(rest.find_file("sample_data", name))

    @routes.route("/thumbnail/<name>")
    def thumbnail(name):
        return _send(rest.find_file("model", name))

    @routes.route("/output/<name>")
    def output(name):
        return _send(rest.find_file("output", name))

    @routes.route("/get_model_files")
    def get_model_files():
        with rest.request_folder() as folder:
            path, name = rest.zip_model(folder)
            return _send(path, attachment=name)  # open before its folder goes: that is enough to send it


def _add_predictions(routes, rest):
    @routes.route("/predict", methods=["GET"])
    def predict_url():
        url = flask.request.args.get("fileurl")
        if not url:
            raise RequestError("the query has to say fileurl=<http or https address>")
        return _json(rest.predict_url(url, _root()))

    @routes.route("/predict", methods=["POST"])
    def predict_upload():
        files = flask.request.files
        if "file" in files:
            return _json(rest.predict_upload(files["file"], _root()))
        if not files:
            raise RequestError('the form has to hold a file in its field "file", or one for each input by its name')
        return _json(rest.predict_uploads(files, _root()))

    @routes.route("/predict_sample")
    def predict_sample():
        return _json(rest.predict_sample(flask.request.args.get("filename", ""), _root()))


def _root():
    """Return the address under which this interface's api/ lies, with its slash."""
    return flask.url_for(".get_config", _external=True)[:-len("api/get_config")]


def _bounded_request():
    """Return a Request class with limits on forms, where Flask doesn't take them from the config."""
    if isinstance(getattr(flask.Request, "max_form_parts", None), property):
        return flask.Request
    return type("BoundedRequest", (flask.Request,),
                {"max_form_parts": _FORM_PARTS, "max_form_memory_size": MEGABYTE})


def _refuse_dangerous_requests(rest):
    """Refuse, before anything is read, what a browser was misled to send and what has no known length."""
    request = flask.request
    if rest.limits.allowed_hosts is not None and _host_name(request.host) not in rest.limits.allowed_hosts:
        raise RequestError("this server is not known by that name", 403)
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise RequestError("pages of other sites may not use this server", 403)
    if request.method == "POST" and request.content_length is None:
        # Servers cut a body of unknown length at the limit without a word: half a file would be predicted on.
        raise RequestError("the request has to say its Content-Length", 411)
    if (request.content_length or 0) > rest.max_upload_bytes:
        raise RequestError("the request is larger than the limit of %d bytes" % rest.max_upload_bytes, 413)


def _host_name(host):
    return re.sub(r":\d+$", "", host).strip("[]").lower()


def _show_request_error(error):
    return _json({"error": as_text(error.args[0])}, error.status)


def _show_error(error):
    if isinstance(error, HTTPException):
        return _json({"error": as_text(error.description or error.name)}, error.code)
    return _json({"error": "internal error: " + error_line(error)}, 500)


def _json(value, status=None):
    """Return value as a JSON response; one with the key `error` has status 400 unless another is given.

    value: or its text, from a predict that has written it already.
    """
    if status is None:
        status = 400 if isinstance(value, dict) and "error" in value else 200
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, allow_nan=False)
    response = flask.Response(text, status=status, mimetype="application/json")
    if status == 503:
        response.headers["Retry-After"] = "10"
    return response


def _send(path, attachment=None):
    """Return the file at path as a response; 404 for None."""
    if path is None:
        flask.abort(404)
    stream = open(path, "rb")
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(0)
    mime = mimetypes.guess_type(path)[0] or "application/octet-stream"
    response = flask.Response(_Blocks(stream), mimetype=mime)
    response.headers["Content-Length"] = str(size)
    response.headers["Cache-Control"] = "no-cache"
    # A sample may be HTML: it is to be shown, not to run as a page of this server.
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "sandbox"
    if attachment:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", attachment)
        response.headers["Content-Disposition"] = 'attachment; filename="%s"' % plain
    return response


class _Blocks(object):
    """The blocks of an open file, as WSGI iterates and closes them, also when the client has gone."""

    def __init__(self, stream):
        self._stream = stream

    def __iter__(self):
        return iter(lambda: self._stream.read(_BLOCK), b"")

    def close(self):
        """Close the file."""
        self._stream.close()
