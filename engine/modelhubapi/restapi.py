"""What the HTTP interface does, apart from HTTP: uploads, downloads, samples, and one inference at a time.

Flask is imported only when a ModelHubRESTAPI is made, and what only some requests need when they come: every
program that uses a model imports this module, and waits for it. A server that has its models in other processes
makes a RequestHandler of its own for each of them.
"""

import collections
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import threading

from modelhublib import ioconfig
from modelhublib.errors import as_text, error_line
from modelhublib.paths import TEXT_TYPES, native_path

from . import filetypes, outputs
from .pythonapi import ModelHubAPI
from .working import WORKING, holding

MEGABYTE = 1024 * 1024


class RequestError(Exception):
    """The request can't be served; status is the HTTP status that says so."""

    def __init__(self, message, status=400):
        Exception.__init__(self, message)
        self.status = status


class RestLimits(collections.namedtuple(
        "RestLimits", "max_upload_mb url_timeout_s allow_private_urls max_waiting allowed_hosts allow_urls")):
    """What clients may ask of the server.

    max_upload_mb: the largest request body, and the largest file that is fetched from an address.
    url_timeout_s: the longest that a download may take.
    allow_private_urls: also fetch from this machine and from private networks.
    max_waiting: how many predictions may wait for the one that runs; more are told to come back (503).
    allowed_hosts: the names under which the server may be addressed; None means any.
    allow_urls: whether inputs may be fetched from addresses at all.
    """

    __slots__ = ()


RestLimits.__new__.__defaults__ = (1024, 60, False, 16, None, True)


class RequestHandler(object):
    """Serves the requests that concern one model.

    api: the ModelHubAPI that knows its contribution; predict: a function of an input, as ModelHubAPI.predict takes
    it, and of the address of this interface, which gives an answer as ModelHubAPI.predict does, in JSON's own types
    or as the text of it.
    """

    def __init__(self, api, limits, working_folder, predict):
        """limits: RestLimits; working_folder: where each request gets a folder of its own."""
        self.api = api
        self.limits = limits
        self.working_folder = working_folder
        self._predict = predict
        self.max_upload_bytes = int(limits.max_upload_mb * MEGABYTE)

    @contextlib.contextmanager
    def request_folder(self):
        """Yield a folder that only this request, and only this user, can see; it is gone afterwards."""
        folder = tempfile.mkdtemp(prefix="request-", dir=self.working_folder)  # mode 0700
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def predict_upload(self, upload, url_root):
        """Predict on an uploaded file (an object with save(path) and filename)."""
        with self.request_folder() as folder:
            path = os.path.join(folder, "upload")
            upload.save(path)
            return self._predict_file(path, upload.filename or "", folder, url_root)

    def predict_uploads(self, uploads, url_root):
        """Predict on uploaded files by the names of the inputs that they are."""
        declared = self.api.load_config()["model"]["io"]
        wanted = ioconfig.input_sections(declared)
        missing = sorted(set(wanted) - set(uploads))
        if missing:
            raise RequestError("the form lacks a file for: %s" % ", ".join(missing))
        with self.request_folder() as folder:
            given = {"format": ioconfig.input_formats(declared["input"])}  # which models have always found there
            for number, key in enumerate(sorted(wanted)):
                place = os.path.join(folder, "input-%d" % number)
                uploads[key].save(place)
                name = uploads[key].filename or ""
                given[key] = {"fileurl": self._accepted(place, name, wanted[key], "the file for " + key)}
            return self._predict(given, url_root)

    def predict_url(self, url, url_root):
        """Predict on the file at an http(s) address."""
        from . import fetch
        if not fetch.is_url(url):
            raise RequestError("fileurl has to be an http or https address")
        with self.request_folder() as folder:
            path = os.path.join(folder, "download")
            self._fetch(url, path)
            return self._predict_file(path, _name_in_url(url), folder, url_root)

    def predict_sample(self, name, url_root):
        """Predict on a file of sample_data; one in JSON may name several inputs."""
        path = self.find_file("sample_data", name)
        if path is None:
            raise RequestError("there is no sample of that name", 404)
        if not path.lower().endswith(".json"):
            return self._predict(path, url_root)
        with self.request_folder() as folder:
            return self._predict(self._resolve_json(path, folder), url_root)

    def find_file(self, place, name):
        """Return the path of file `name` right in place (sample_data, model or output); None if not there."""
        folder = os.path.join(self.api.contrib_src_dir, place)
        if place == "output":
            folder = self.api.output_folder
        if not name or "/" in name or "\0" in name:
            return None
        path = os.path.join(folder, native_path(name))
        return path if _is_inside(path, folder) and os.path.isfile(path) else None

    def zip_model(self, folder):
        """Write the contribution's model/ as a zip into folder; return its path and the name to give it."""
        import zipfile
        path = os.path.join(folder, "model.zip")
        source = os.path.join(self.api.contrib_src_dir, "model")
        # Files in images may be dated 1970, which zip can't say.
        dates = {"strict_timestamps": False} if sys.version_info >= (3, 8) else {}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, True, **dates) as archive:
            for place, folders, names in os.walk(source):
                folders.sort()
                archive.write(place, os.path.relpath(place, os.path.dirname(source)))
                for name in sorted(names):
                    full = os.path.join(place, name)
                    if os.path.isfile(full) and _is_inside(full, source):
                        archive.write(full, os.path.relpath(full, os.path.dirname(source)))
        return path, self.api.load_config()["meta"]["name"].lower() + "_model.zip"

    def _predict_file(self, path, name, folder, url_root):
        """Predict on a file that a stranger sent: checked, and under a name of ours that tells its kind."""
        formats = ioconfig.input_formats(self._declared_input())
        kind = filetypes.kind_of(path, name)
        if not filetypes.is_accepted(kind, formats):
            raise RequestError("Incorrect file type. The model takes %s; this looks like %s"
                               % (", ".join(formats), kind.mimes[0]))
        renamed = os.path.join(folder, "input" + kind.extension)
        os.rename(path, renamed)
        is_list = kind is filetypes.JSON
        return self._predict(self._resolve_json(renamed, folder) if is_list else renamed, url_root)

    def _declared_input(self):
        """Return the section that lists what may be sent: the overall one, or the only input's."""
        io_section = self.api.load_config()["model"]["io"]
        declared = io_section["input"]
        if "format" in declared or len(ioconfig.input_sections(io_section)) > 1:
            return declared if "format" in declared else {"format": filetypes.JSON.mimes}
        return ioconfig.input_section(io_section)

    def _resolve_json(self, path, folder):
        """Return the inputs that a JSON file names, as a dict of local files: fetched ones and samples."""
        with io.open(path, encoding="utf-8") as stream:
            try:
                given = json.load(stream)
            except (ValueError, RuntimeError) as error:  # RuntimeError: nested too deeply
                raise RequestError("the file is not valid JSON: %s" % error)
        if not isinstance(given, dict):
            raise RequestError("the JSON has to be an object with one entry per input")
        wanted = ioconfig.input_sections(self.api.load_config()["model"]["io"])
        resolved = dict((key, value) for key, value in given.items() if key in ("format", "description"))
        for number, key in enumerate(sorted(wanted)):
            entry = given.get(key)
            if not isinstance(entry, dict) or not isinstance(entry.get("fileurl"), TEXT_TYPES):
                raise RequestError('the JSON lacks the input "%s" with its "fileurl"' % key)
            place = os.path.join(folder, "input-%d" % number)
            resolved[key] = dict(entry, fileurl=self._local_file(entry, wanted[key], place))
        return resolved

    def _local_file(self, entry, section, place):
        """Return the local path of one input of a JSON file; place: where to put what has to be fetched."""
        from . import fetch
        url = entry["fileurl"]
        if not fetch.is_url(url):
            return self._sample_path(url)
        self._fetch(url, place)
        declared = ioconfig.input_formats(entry) or entry.get("type") or []
        return self._accepted(place, _name_in_url(url) or _name_for(declared), section, url)

    def _accepted(self, place, name, section, what):
        """Return the path of one of several inputs, renamed by its kind; RequestError for a kind that is not taken."""
        kind = filetypes.kind_of(place, name)
        if not filetypes.is_accepted(kind, ioconfig.input_formats(section)):
            raise RequestError("Incorrect file type: %s looks like %s" % (what, kind.mimes[0]))
        os.rename(place, place + kind.extension)
        return place + kind.extension

    def _sample_path(self, name):
        """Return the path of a sample that a JSON file names; also in a folder of sample_data."""
        folder = os.path.join(self.api.contrib_src_dir, "sample_data")
        for base in (self.api.contrib_src_dir, folder):
            path = os.path.join(base, native_path(name))
            if "\0" not in name and _is_inside(path, folder) and os.path.exists(path):
                return path
        raise RequestError("%s is neither an http(s) address nor a file of sample_data" % name)

    def _fetch(self, url, path):
        from . import fetch
        if not self.limits.allow_urls:
            raise RequestError("this server fetches no inputs from addresses: upload the file", 403)
        limits = fetch.Limits(
            self.max_upload_bytes, self.limits.url_timeout_s, self.limits.allow_private_urls)
        try:
            with open(path, "wb") as stream:
                fetch.fetch(url, stream, limits)
        except fetch.FetchError as error:
            raise RequestError(error.args[0])


class ModelHubRESTAPI(RequestHandler):
    """A model behind HTTP. `app` is the Flask application, `api` the ModelHubAPI behind it."""

    def __init__(self, model, contrib_src_dir, host="127.0.0.1", port=8080, **limits):
        """host, port: where start() listens; limits: those of RestLimits."""
        from . import routes
        # requests are kept out of /working, where some models predict whatever they find: they find their input
        RequestHandler.__init__(self, ModelHubAPI(model, contrib_src_dir), RestLimits(**limits),
                                tempfile.gettempdir(), self._one_at_a_time)
        self.shown_in = WORKING if os.access(WORKING, os.W_OK | os.X_OK) else None
        self.host, self.port = host, port
        self._inference = threading.Lock()
        self._slots = threading.Semaphore(self.limits.max_waiting + 1)
        self.app = routes.make_app(self)

    def start(self):
        """Serve until interrupted: with waitress where it is installed, with Flask's own server elsewhere."""
        try:
            import waitress
        except ImportError:
            self.app.run(host=self.host, port=self.port, threaded=True)
        else:
            # A client that stalls costs waitress nothing; the threads are for those that wait for the model.
            waitress.serve(self.app, host=self.host, port=self.port, threads=24, channel_timeout=60,
                           max_request_body_size=self.max_upload_bytes)

    def _one_at_a_time(self, input, url_root):
        """Return predict's answer in types that strict JSON can hold. One inference at a time."""
        if not self._slots.acquire(False):
            raise RequestError("too many predictions are waiting; try again later", 503)
        try:
            with self._inference, holding(self.shown_in, input):
                answer = self.api.predict(input, url_root=url_root)
        finally:
            self._slots.release()
        return answer if "error" in answer else _strict(answer)


def _strict(answer):
    """Return answer with every prediction in JSON's own types, and `notes` where that changed something."""
    notes = []
    for entry in answer["output"]:
        whole = outputs.Output(entry["name"], entry["type"], entry["description"], entry["prediction"])
        try:
            entry["prediction"] = outputs.to_json(whole, notes)
        except outputs.OutputError as error:
            raise RequestError(as_text(error_line(error)))
    return dict(answer, notes=notes) if notes else answer


def _is_inside(path, folder):
    """True if path, all links followed, lies in folder."""
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def _name_in_url(url):
    return url.strip().split("?")[0].split("#")[0].rstrip("/").rsplit("/", 1)[-1]


def _name_for(mimes):
    """Return a file name whose extension stands for the first of mimes that is known."""
    for mime in [mimes] if isinstance(mimes, TEXT_TYPES) else mimes:
        for kind in filetypes.KINDS:
            if mime in kind.mimes:
                return "x" + kind.extension
    return ""
