"""What every program that hosts a model needs: to load it, to keep its prints apart, to end in time."""

import importlib
import os
import sys
import threading
import traceback

from modelhublib import ioconfig
from modelhublib.errors import as_text, error_line

from .pythonapi import ModelHubAPI
from .wire import mute_stdio, private_copy, write_all

CONTRIB_SRC = "/contrib_src"

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_FAILED_CASES = 3
EXIT_INVALID = 4
EXIT_UNFIT = 5
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

_MAX_ERROR = 4000  # characters
_MAX_TRACEBACK = 20000
_EXIT_GRACE_S = 2.0  # what the model's own threads get to end before they are ended


def load(contrib_src, module="inference"):
    """Return the API of the contribution's model, loaded; whatever goes wrong in its code is raised."""
    api = configured(contrib_src)
    load_model(api, module)
    return api


def configured(contrib_src):
    """Return the API of a contribution without its model, which would take longer. IOError, ValueError."""
    api = ModelHubAPI(None, os.path.abspath(contrib_src))
    api.load_config()
    return api


def load_model(api, module="inference"):
    """Load the model of a configured API; its code opens "model/..." and imports from its folder."""
    os.chdir(api.contrib_src_dir)
    sys.path.insert(0, api.contrib_src_dir)
    api.model = importlib.import_module(module).Model()


def try_to_load(api):
    """Load the model of a configured API; return "", or why it does not start, with the traceback on stderr."""
    try:
        load_model(api)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a model that exits can't start
        say(short_traceback())
        return short_error(error)
    return u""


def model_input(api, given):
    """Return a path, or a dict of inputs, as the API takes it.

    Models with several inputs have always found the overall `format` beside them.
    """
    if isinstance(given, dict) and "format" not in given:
        declared = api.load_config()["model"]["io"]["input"]
        return dict(given, format=ioconfig.input_formats(declared))
    return given


class Answer(object):
    """The stdout that this program was started with. Make it before any of the model's code is imported."""

    def __init__(self):
        """Take over fd 1: from here on what the model prints, on any level, goes to stderr; its stdin is empty."""
        sys.stdout.flush()
        self._out = private_copy(1)
        self._pid = os.getpid()
        mute_stdio()
        if hasattr(os, "register_at_fork"):
            # Who reads our answer waits for the last copy of this end to be closed.
            os.register_at_fork(after_in_child=self._close)

    def write(self, text):
        """Write text, encoded as UTF-8; it is on its way when this returns. Raises OSError."""
        data = text.encode("utf-8", "surrogateescape") if sys.version_info[0] > 2 else text.encode("utf-8")
        write_all(self._out, data)

    def leave_if_forked(self):
        """End this process at once if it is a child that the model forked and let come back."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _close(self):
        # Neither a file object nor a method of one: what is registered outlives them, and some Pythons crash on it.
        if self._out is not None:
            os.close(self._out)
            self._out = None


def short_error(error):
    """Return "Type: message" of an exception, at most some thousand characters."""
    return error_line(error)[:_MAX_ERROR]


def short_traceback():
    """Return the current traceback as text; of a very long one the beginning and the end."""
    text = as_text(traceback.format_exc())
    if len(text) <= _MAX_TRACEBACK:
        return text
    half = _MAX_TRACEBACK // 2
    return text[:half] + u"\n[...]\n" + text[-half:]


def current_folder():
    """Return where this program was started; the root where somebody removed that place."""
    try:
        return os.getcwd()
    except OSError:
        return os.sep


def say(text):
    """Write a line to stderr."""
    sys.stderr.write("%s\n" % (text.encode("utf-8") if not isinstance(text, str) else text))
    sys.stderr.flush()


def flush():
    """Send what the model printed on its way, so that it stands before the next case's."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, IOError, OSError):
            continue  # the model closed or replaced it: there is nothing left to lose


def exit_soon(code):
    """Leave, but let no thread of the model keep this process alive."""
    timer = threading.Timer(_EXIT_GRACE_S, os._exit, [code])
    timer.daemon = True
    timer.start()
    flush()
    sys.exit(code)
