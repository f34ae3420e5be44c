"""Predict the files that a command line names: what `apptainer run` of a deployment image does.

stdout gets one JSON object for one case, a list of them for several, or CSV; all else goes to stderr, also what
the model prints. Exit codes: 0 all done, 2 usage, 3 some cases failed, 4 the model can't be used, 130 interrupted.
"""

import argparse
import errno
import os

from . import cases, hosting, private, results
from .hosting import Answer, say

_EPILOG = """What the model takes and gives: apptainer run-help MODEL.sif

INPUT is a file. For a model with several inputs: KEY=FILE for each of them, or a JSON file
{"KEY": {"fileurl": "FILE"}, ...}. Only your home, the current folder and /tmp are visible inside the
container: show it others with `apptainer run --bind FOLDER ...`."""


class _Stop(Exception):
    """There is nothing to predict; code is the exit code."""

    def __init__(self, message, code):
        Exception.__init__(self, message)
        self.code = code


def run(argv, contrib_src=hosting.CONTRIB_SRC):
    """Predict every input of argv and write the answer to stdout; return the exit code."""
    options = _parse(argv)
    answer = Answer()
    here = hosting.current_folder()
    places = private.make_private()
    private.mend_environment()
    try:
        return _run(options, answer, here, contrib_src, places)
    except _Stop as stop:
        say(stop.args[0])
        return stop.code
    except KeyboardInterrupt:
        say("Interrupted.")
        return hosting.EXIT_INTERRUPTED


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="apptainer run MODEL.sif", description="Predict with the model of this image.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="what to predict, see below")
    parser.add_argument("--csv", action="store_true", help="answer with a CSV table instead of JSON")
    parser.add_argument("-o", "--output", metavar="FOLDER",
                        help="write arrays to FOLDER/<case>/<output>.npy, a folder that is visible inside")
    return parser.parse_args(argv)


def _run(options, answer, here, contrib_src, places):
    api = _configured(contrib_src)
    found = _found(api, options.inputs, here)
    folder = _prepared(os.path.join(here, options.output), found, places) if options.output else None
    _load(api, places)
    report = results.Report(api, answer, folder, options.csv)
    for case in found:
        error = report.add(case)
        if error:
            say(u"%s failed: %s" % (case.id, error))
            _advise(error, places)
    if report.lost_arrays:
        say("Arrays were not kept: name a folder for them with -o FOLDER.")
    _deliver(report)
    return hosting.EXIT_FAILED_CASES if report.failed else hosting.EXIT_DONE


def _configured(contrib_src):
    try:
        return hosting.configured(contrib_src)
    except (IOError, OSError, ValueError) as error:
        raise _Stop(u"This image is damaged: %s" % hosting.short_error(error), hosting.EXIT_INVALID)


def _found(api, words, here):
    try:
        return cases.find_cases(words, api.load_config()["model"]["io"], here)
    except cases.CaseError as error:
        raise _Stop(error.args[0], hosting.EXIT_USAGE)


def _prepared(folder, found, places):
    """Make the folder for arrays now, and not when the first array is there; return it. Raises _Stop."""
    real = os.path.realpath(folder)
    if any((real + os.sep).startswith(place + os.sep) for place in places.mounted):
        raise _Stop("%s lies inside the container and would be gone. Name a folder of your own, or show one there:"
                    " apptainer run --bind FOLDER:%s ..." % (folder, folder), hosting.EXIT_USAGE)
    taken = [case.id for case in found if os.path.lexists(os.path.join(folder, case.id))]
    if taken:
        raise _Stop("%s exists already. Choose another folder with -o, or remove it."
                    % os.path.join(folder, taken[0]), hosting.EXIT_USAGE)
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder)
    except (IOError, OSError) as error:
        raise _Stop("%s cannot be made: %s. Is it visible inside the container? If not: apptainer run --bind FOLDER ..."
                    % (folder, error.strerror), hosting.EXIT_USAGE)
    return folder


def _load(api, places):
    reason = hosting.try_to_load(api)
    if reason:
        _advise(reason, places)
        raise _Stop("The model does not start.", hosting.EXIT_INVALID)


def _advise(message, places):
    advice = private.hint(message, places.closed)
    if advice:
        say(advice)


def _deliver(report):
    try:
        report.write()
    except (IOError, OSError) as error:
        if error.errno == errno.EPIPE:
            raise _Stop("Nobody reads the answer.", hosting.EXIT_PIPE)
        raise _Stop("The answer cannot be written: %s" % error.strerror, hosting.EXIT_TRY_AGAIN)
