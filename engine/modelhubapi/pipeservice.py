"""Serve a model over a pipe: one JSON message per line, arrays as .npy files.

    python -m modelhubapi.pipeservice --contrib-src /contrib_src

host -> here:  {"type": "predict", "id", "input": path or {key: {"fileurl": path}}, "output_dir"}
here -> host:  ready | fatal (the model can't start; exit 1), then done | failed for each predict, in order.
End of input means exit 0.
"""

import argparse
import json
import platform
import sys

from modelhublib.paths import PY2, native_path

from . import __version__, outputs
from .hosting import exit_soon, flush, load, model_input, short_error, short_traceback
from .wire import HostGone, Wire
from .working import holding

PROTOCOL = 1


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
        api = load(options.contrib_src, options.model_module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a model that exits can't start
        wire.send({"type": "fatal", "error": short_error(error), "traceback": short_traceback()})
        return 1
    wire.send(_ready(api))
    for line in wire.lines():
        message = _parse_message(line)
        if message is not None:
            wire.send(_answer(api, wire, options.working, message))
            flush()
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


def _answer(api, wire, working, message):
    """Return the answer to one predict message, whatever the model does."""
    failed = {"type": "failed", "id": message["id"]}
    try:
        with holding(working, message["input"]):
            named, seconds = api.infer(model_input(api, message["input"]))
            wire.leave_if_forked()
        described, notes = _deliver(named, native_path(message["output_dir"]))
    except KeyboardInterrupt:
        raise
    except outputs.OutputError as error:
        wire.leave_if_forked()
        return dict(failed, error=short_error(error), traceback=short_traceback(), kind="output")
    except BaseException as error:  # the one place where a model's error becomes data; SystemExit too
        wire.leave_if_forked()
        return dict(failed, error=short_error(error), traceback=short_traceback(), kind="model")
    return {"type": "done", "id": message["id"], "outputs": described,
            "seconds": round(seconds, 6), "notes": notes}


def _deliver(named, output_dir):
    """Save the arrays; return (the outputs as messages describe them, notes on what had to be changed)."""
    notes = []
    described = []
    for index, output in enumerate(named):
        entry = {"name": output.name, "type": output.type, "description": output.description}
        if output.is_array and not outputs.is_text_array(output):
            name = "%d.npy" % index
            entry.update(outputs.save_array(outputs.to_array(output, notes), output_dir, name), file=name)
        else:
            entry["prediction"] = outputs.to_json(output, notes)
        entry["shape"] = output.shape
        described.append(entry)
    return described, notes


if __name__ == "__main__":
    exit_soon(main())
