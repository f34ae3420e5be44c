"""What the engine's tests share. They run on Python 2.7 as well, with the engine's own libraries."""

import io
import json
import os
import shutil
import sys
import threading
import time

import pytest

try:
    from http.server import BaseHTTPRequestHandler, HTTPServer
except ImportError:  # Python 2
    from BaseHTTPServer import BaseHTTPRequestHandler, HTTPServer

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ENGINE = os.environ.get("MODELHUB_TEST_ENGINE") or os.path.join(ROOT, "engine")
sys.path.insert(0, ENGINE)
sys.dont_write_bytecode = True

_CONTRIBUTED = ("inference", "processing", "modelapi", "run")
_SAMPLE_FOLDERS = {"pictures": ["sample_data"], "volumes": ["sample_data/patient_1"]}


@pytest.fixture(scope="session")
def engine():
    """The folder of the engine."""
    return ENGINE


@pytest.fixture
def contribution(tmp_path, monkeypatch):
    """Return a function that copies a contribution, enters it as a container would, and returns its place."""
    def copy(name):
        folder = str(tmp_path / name)
        shutil.copytree(os.path.join(HERE, "contributions", name), folder)
        for samples in _SAMPLE_FOLDERS.get(name, ()):  # which git does not keep, being empty
            if not os.path.isdir(os.path.join(folder, samples)):
                os.makedirs(os.path.join(folder, samples))
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        return folder
    yield copy
    for module in _CONTRIBUTED:
        sys.modules.pop(module, None)


@pytest.fixture
def edit_config():
    """Return a function that lets another change the configuration of the contribution in a folder."""
    def edit(folder, change):
        path = os.path.join(folder, "model", "config.json")
        with io.open(path, encoding="utf-8") as stream:
            config = json.load(stream)
        change(config)
        with open(path, "w") as stream:
            json.dump(config, stream)
        return config
    return edit


@pytest.fixture
def api(contribution, tmp_path):
    """Return a function that loads a contribution: ModelHubAPI with an output folder of its own."""
    def load(name):
        from modelhubapi import ModelHubAPI
        folder = contribution(name)
        import inference
        loaded = ModelHubAPI(inference.Model(), folder)
        loaded.output_folder = str(tmp_path / "output")
        os.mkdir(loaded.output_folder)
        return loaded
    return load


class Web(object):
    """A web server on loopback: files, and what goes wrong with them, by path."""

    def __init__(self):
        self.files, self.redirects, self.declare, self.encodings, self.pause = {}, {}, {}, {}, {}
        self.asked, self.hosts = [], []
        self._server = HTTPServer(("127.0.0.1", 0), type("Handler", (_WebHandler,), {"web": self}))
        self.port = self._server.server_address[1]
        self.url = "http://127.0.0.1:%d" % self.port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self):
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _WebHandler(BaseHTTPRequestHandler, object):

    def do_GET(self):
        path = self.path.split("?")[0].replace("%20", " ")
        self.web.asked.append(path)
        self.web.hosts.append(self.headers.get("Host"))
        body = self.web.files.get(path, b"")
        self.send_response(302 if path in self.web.redirects else 200 if path in self.web.files else 404)
        if path in self.web.redirects:
            self.send_header("Location", self.web.redirects[path])
        if path in self.web.encodings:
            self.send_header("Content-Encoding", self.web.encodings[path])
        self.send_header("Content-Length", str(self.web.declare.get(path, len(body))))
        self.end_headers()
        try:
            for start in range(0, len(body), 1 if path in self.web.pause else max(1, len(body))):
                time.sleep(self.web.pause.get(path, 0))
                self.wfile.write(body[start:start + 1] if path in self.web.pause else body)
        except (IOError, OSError):
            self.web.asked.append("hung up")  # the client has had enough

    def log_message(self, *words):
        """Say nothing."""


@pytest.fixture
def web():
    """A running Web."""
    running = Web()
    yield running
    running.close()
