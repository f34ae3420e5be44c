"""Serve a model over a pipe: one JSON message per line, arrays as .npy files.

    python -m modelhubapi.pipeservice --contrib-src /contrib_src

host -> here:  {"type": "predict", "id", "input": path or {key: {"fileurl": path}}, "output_dir"}
here -> host:  ready | fatal (the model can't start; exit 1), then done | failed for each predict, in order.
End of input means exit 0.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import threading
import traceback

from modelhublib import ioconfig
from modelhublib.errors import as_text, error_line
from modelhublib.paths import PY2, native_path

from . import ModelHubAPI, __version__, outputs
from .wire import HostGone, Wire

PROTOCOL = 1
_MAX_ERROR = 4000  # characters
_MAX_TRACEBACK = 20000
_EXIT_GRACE_S = 2.0  # what the model's own threads get to end before they are ended


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
    try:
        api = _load(options.contrib_src, options.model_module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a model that exits can't start
        wire.send({"type": "fatal", "error": _error(error), "traceback": _traceback()})
        return 1
    wire.send(_ready(api))
    for line in wire.lines():
        message = _parse_message(line)
        if message is not None:
            wire.send(_answer(api, wire, message))
            _flush()
    return 0


def _parse(argv):
    parser = argparse.ArgumentParser(prog="modelhubapi.pipeservice",
                                     description="Serve a model over stdin and stdout")
    parser.add_argument("--contrib-src", default="/contrib_src", help="the contribution's folder")
    parser.add_argument("--model-module", default="inference", help="the module that holds the class Model")
    return parser.parse_args(argv)


def _load(contrib_src, module):
    """Return the API of the contribution's model; its code opens "model/..." and imports from its folder."""
    contrib_src = os.path.abspath(contrib_src)
    os.chdir(contrib_src)
    sys.path.insert(0, contrib_src)
    configured = ModelHubAPI(None, contrib_src)
    configured.load_config()  # first, because it fails faster than weights load
    configured.model = importlib.import_module(module).Model()
    return configured


def _ready(api):
    config = api.load_config()
    model = {"id": config.get("id"), "name": config.get("meta", {}).get("name")}
    return {"type": "ready", "protocol": PROTOCOL, "python": platform.python_version(),
            "engine": __version__, "model": model}


def _parse_message(line):
    """Return a predict message; None, and a word on stderr, for anything else."""
    try:
        message = json.loads(line.decode("utf-8"))
    except ValueError as error:
        return _complain("a line is not JSON (%s)" % error)
    if not isinstance(message, dict) or message.get("type") != "predict":
        return _complain("unknown message: %s" % line[:200].decode("utf-8", "replace"))
    lacking = [key for key in ("id", "input", "output_dir") if key not in message]
    if lacking:
        return _complain("a predict message lacks %s" % ", ".join(lacking))
    return message


def _complain(text):
    sys.stderr.write("pipeservice: %s\n" % (text.encode("utf-8") if PY2 else text))
    sys.stderr.flush()


def _answer(api, wire, message):
    """Return the answer to one predict message, whatever the model does."""
    failed = {"type": "failed", "id": message["id"]}
    try:
        named, seconds = api.infer(_model_input(api, message["input"]))
        wire.leave_if_forked()
        described, notes = _deliver(named, native_path(message["output_dir"]))
    except KeyboardInterrupt:
        raise
    except outputs.OutputError as error:
        wire.leave_if_forked()
        return dict(failed, error=_error(error), traceback=_traceback(), kind="output")
    except BaseException as error:  # the one place where a model's error becomes data; SystemExit too
        wire.leave_if_forked()
        return dict(failed, error=_error(error), traceback=_traceback(), kind="model")
    return {"type": "done", "id": message["id"], "outputs": described,
            "seconds": round(seconds, 6), "notes": notes}


def _model_input(api, given):
    """Return the input of a message as the API takes it.

    Models with several inputs have always found the overall `format` beside them.
    """
    if isinstance(given, dict) and "format" not in given:
        declared = api.load_config()["model"]["io"]["input"]
        return dict(given, format=ioconfig.input_formats(declared))
    return given


def _deliver(named, output_dir):
    """Save the arrays; return (the outputs as messages describe them, notes on what had to be changed)."""
    notes = []
    described = []
    for index, output in enumerate(named):
        entry = {"name": output.name, "type": output.type, "description": output.description}
        if output.is_array and not outputs.is_text_array(output):
            entry.update(_save(outputs.to_array(output, notes), output_dir, "%d.npy" % index))
        else:
            entry["prediction"] = outputs.to_json(output, notes)
        entry["shape"] = output.shape
        described.append(entry)
    return described, notes


def _save(array, output_dir, name):
    """Write array as output_dir/name, which appears whole or not at all."""
    from numpy.lib import format as numpy_format  # numpy.save asks more of a file than _Plain offers
    path = os.path.join(output_dir, name)
    part = os.path.join(output_dir, "." + name + ".part")
    try:
        if not os.path.isdir(output_dir):
            os.makedirs(output_dir)
        with open(part, "wb") as stream:
            numpy_format.write_array(_Plain(stream), array, allow_pickle=False)
        size = os.path.getsize(part)
        os.rename(part, path)
    except (IOError, OSError) as error:
        if os.path.exists(part):
            os.unlink(part)
        raise outputs.OutputError("the array for %s could not be saved: %s" % (name, error))
    return {"file": name, "dtype": str(array.dtype), "bytes": size}


class _Plain(object):
    """A file as numpy does not know it: into real files it writes past Python, and can't say "disk full"."""

    def __init__(self, stream):
        self.write = stream.write


def _error(error):
    return error_line(error)[:_MAX_ERROR]


def _traceback():
    """Return the current traceback as text; of a very long one the beginning and the end."""
    text = as_text(traceback.format_exc())
    if len(text) <= _MAX_TRACEBACK:
        return text
    half = _MAX_TRACEBACK // 2
    return text[:half] + u"\n[...]\n" + text[-half:]


def _flush():
    """Send what the model printed on its way, so that it stands before the next case's."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, IOError, OSError):
            continue  # the model closed or replaced it: there is nothing left to lose


def _exit_soon(code):
    """Leave, but let no thread of the model keep this process alive."""
    timer = threading.Timer(_EXIT_GRACE_S, os._exit, [code])
    timer.daemon = True
    timer.start()
    _flush()
    sys.exit(code)


if __name__ == "__main__":
    _exit_soon(main())
