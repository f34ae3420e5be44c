"""Serve a model over a pipe: one JSON message per line, arrays as .npy files.

    python -m modelhubapi.pipeservice --contrib-src /contrib_src

host -> here:  {"type": "predict", "requests": [{"id", "input": path or {key: {"fileurl": path}}, "output_dir"}, ...]}
here -> host:  ready | fatal (the model can't start; exit 1), then done | failed for each request, in order.
End of input means exit 0.
"""

import argparse
import collections
import json
import platform
import sys

from modelhublib.ahead import INPUTS
from modelhublib.paths import PY2, TEXT_TYPES, native_path

from . import __version__, outputs, threads
from .hosting import exit_soon, flush, load, model_input, short_error, short_traceback
from .memory import Peak
from .wire import HostGone, Wire
from .working import holding

PROTOCOL = 2


def main(argv=None):
    """Serve until the host closes the pipe; returns the exit code."""
    wire = Wire()
    try:
        return _serve(wire, _parse(argv))
    except HostGone as error:
        _complain("the host is gone (%s)" % error)
        return 1
    except KeyboardInterrupt:
        return 130


def _serve(wire, options):
    threads.limit_frameworks()
    try:
        api = load(options.contrib_src, options.model_module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a model that exits can't start
        wire.send({"type": "fatal", "error": short_error(error), "traceback": short_traceback()})
        return 1
    wire.send(_ready(api))
    service = Service(api, wire, options.working)
    try:
        for requests in service.batches():
            service.answer(requests)
    finally:
        INPUTS.end()
    return 0


def _parse(argv):
    parser = argparse.ArgumentParser(prog="modelhubapi.pipeservice",
                                     description="Serve a model over stdin and stdout")
    parser.add_argument("--contrib-src", default="/contrib_src", help="the contribution's folder")
    parser.add_argument("--model-module", default="inference", help="the module that holds the class Model")
    parser.add_argument("--working", metavar="FOLDER", help="a folder of this process alone, to show inputs in")
    return parser.parse_args(argv)


def _ready(api):
    config = api.load_config()
    model = {"id": config.get("id"), "name": config.get("meta", {}).get("name")}
    return {"type": "ready", "protocol": PROTOCOL, "python": platform.python_version(),
            "engine": __version__, "model": model, "batches": api.takes_batches}


def _parse_message(line):
    """Return the requests of a predict message; none, and a word on stderr, for anything else."""
    try:
        message = json.loads(line.decode("utf-8"))
    except ValueError as error:
        return _complain("a line is not JSON (%s)" % error)
    if not isinstance(message, dict) or message.get("type") != "predict":
        return _complain("unknown message: %s" % line[:200].decode("utf-8", "replace"))
    requests = message.get("requests")
    if not isinstance(requests, list) or not all(isinstance(each, dict) for each in requests):
        return _complain("a predict message lacks its requests")
    lacking = [key for key in ("id", "input", "output_dir") for each in requests if key not in each]
    return requests if not lacking else _complain("a request lacks %s" % lacking[0])


def _complain(text):
    sys.stderr.write("pipeservice: %s\n" % (text.encode("utf-8") if PY2 else text))
    sys.stderr.flush()
    return []


class Service(object):
    """Answers what comes over the wire; while the model computes, the inputs of what has come after it are opened."""

    def __init__(self, api, wire, working):
        """working: a folder of this process alone, to show inputs in; None for none."""
        self._api = api
        self._wire = wire
        self._working = working
        self._label_lists = outputs.LabelLists()
        self._peak = Peak()

    def batches(self):
        """Yield the requests that are to be computed together, until the host closes the pipe."""
        waiting = collections.deque()
        while True:
            lines = self._wire.lines_here() if waiting else [self._wire.line()] + self._wire.lines_here()
            ended = None in lines
            waiting.extend(filter(None, (_parse_message(line) for line in lines if line is not None)))
            if waiting:
                now = waiting.popleft()
                INPUTS.expect(_paths(now), [path for requests in waiting for path in _paths(requests)])
                yield now
            elif ended:
                return

    def answer(self, requests):
        """Send the answer to each request, in order, whatever the model does."""
        together = self._compute_together(requests) if len(requests) > 1 and self._api.takes_batches else None
        for index, request in enumerate(requests):
            if together is None:
                self._wire.send_text(self._answer_alone(request))
            else:
                self._wire.send_text(self._deliver(request, *together[index]))
            flush()

    def _compute_together(self, requests):
        """Return (outputs, seconds, batch size) for each request; None if that failed: then each is computed alone.

        One input that is wrong, or memory that does not suffice for all, is not the fault of the others.
        """
        self._peak.begin()
        try:
            with holding(self._working, None):
                answers = self._api.infer_batch([model_input(self._api, each["input"]) for each in requests])
                self._wire.leave_if_forked()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._wire.leave_if_forked()
            _complain("infer_batch of %d cases failed (%s); each is computed alone"
                      % (len(requests), short_error(error)))
            return None
        return [(named, seconds, len(requests)) for named, seconds in answers]

    def _answer_alone(self, request):
        self._peak.begin()
        try:
            with holding(self._working, request["input"]):
                named, seconds = self._api.infer(model_input(self._api, request["input"]))
                self._wire.leave_if_forked()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the one place where a model's error becomes data; SystemExit too
            self._wire.leave_if_forked()
            return self._failed(request, error)
        return self._deliver(request, named, seconds, 1)

    def _deliver(self, request, named, seconds, batch):
        """Return the answer as text, its arrays saved."""
        try:
            described, notes = self._describe(named, native_path(request["output_dir"]))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # code of the model's own types runs here too
            self._wire.leave_if_forked()
            return self._failed(request, error)
        self._label_lists.note_sent()
        lead = {"type": "done", "id": request["id"], "seconds": round(seconds, 6), "batch": batch, "notes": notes,
                "peak_mb": self._peak.mb()}
        return _with(lead, "outputs", "[%s]" % ", ".join(described))

    def _failed(self, request, error):
        kind = "output" if isinstance(error, outputs.OutputError) else "model"
        return json.dumps({"type": "failed", "id": request["id"], "error": short_error(error), "kind": kind,
                           "traceback": short_traceback(), "peak_mb": self._peak.mb()}, allow_nan=False)

    def _describe(self, named, output_dir):
        """Save the arrays; return (the outputs as JSON texts, notes on what had to be changed)."""
        self._label_lists.forget_packed()
        notes = []
        described = []
        for index, output in enumerate(named):
            entry = {"name": output.name, "type": output.type, "description": output.description,
                     "shape": output.shape}
            if output.is_array and not outputs.is_text_array(output):
                name = "%d.npy" % index
                entry.update(outputs.save_array(outputs.to_array(output, notes), output_dir, name), file=name)
                described.append(json.dumps(entry, allow_nan=False))
                continue
            packed = self._label_lists.pack(index, output)
            if packed is not None:
                described.append(json.dumps(dict(entry, **packed)))
            else:
                described.append(_with(entry, "prediction", outputs.to_json_text(output, notes)))
        return described, notes


def _paths(requests):
    return [path for each in requests for path in _files(each["input"])]


def _files(input):
    entries = input.values() if isinstance(input, dict) else [input]
    named = [entry.get("fileurl") if isinstance(entry, dict) else entry for entry in entries]
    return [native_path(path) for path in named if isinstance(path, TEXT_TYPES)]


def _with(fields, name, text):
    """Return an object of fields and one more, whose value is JSON already, as text."""
    return '%s, "%s": %s}' % (json.dumps(fields, allow_nan=False)[:-1], name, text)


if __name__ == "__main__":
    exit_soon(main())
