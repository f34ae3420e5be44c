"""Serve a model over HTTP from a deployment image: `apptainer run --app serve`."""

import argparse
import errno
import os
import shutil
import signal
import socket
import tempfile

from . import hosting, private, webservice
from .hosting import say


def serve(argv, contrib_src=hosting.CONTRIB_SRC):
    """Serve until interrupted; return the exit code."""
    options = _parse(argv)
    try:
        import flask  # noqa: F401
    except ImportError:
        say("This image has no Flask, which the HTTP interface needs. What works: apptainer run MODEL.sif INPUT")
        return hosting.EXIT_UNFIT
    private.make_private()
    private.mend_environment()
    signal.signal(signal.SIGTERM, _interrupt)  # as with Ctrl-C: what it made goes with it
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # which whoever started it may want
        signal.signal(signal.SIGINT, _interrupt)
    try:
        port = _free_port(options.host, options.port)
    except (OSError, IOError) as error:
        say("%s:%s: %s" % (options.host, options.port, error.strerror or error))
        say("Choose another port with --port (0: any that is free), or another address with --host.")
        return hosting.EXIT_TRY_AGAIN if error.errno == errno.EADDRINUSE else hosting.EXIT_USAGE
    api = hosting.configured(contrib_src)
    if hosting.try_to_load(api):
        say("The model does not start.")
        return hosting.EXIT_INVALID
    return _serve(api, options.host, port)


def _interrupt(_number, _frame):
    """End, once: terminal and container runtime both pass Ctrl-C on, and the second would interrupt the end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="apptainer run --app serve MODEL.sif", description="Serve the model of this image over HTTP.")
    parser.add_argument("--host", default=os.environ.get("MODELHUB_HOST") or "127.0.0.1",
                        help="address to listen on; 127.0.0.1: only programs of this machine come in, but of all"
                             " its users, since there is no password (default: %(default)s)")
    parser.add_argument("--port", type=int, default=os.environ.get("MODELHUB_PORT") or 8080,
                        help="0: any that is free (default: %(default)s)")
    return parser.parse_args(argv)


def _free_port(host, port):
    """Return port, or a free one for 0. Raises OSError if nobody can listen there."""
    family = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0][0]
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)
        return probe.getsockname()[1]
    finally:
        probe.close()


def _serve(api, host, port):
    folder = tempfile.mkdtemp(prefix="modelhub-")
    try:
        rest = webservice.make(api.model, api.contrib_src_dir, host, port)
        # On disk, since uploads and arrays may be large, and the private folders lie in memory.
        rest.working_folder = rest.api.output_folder = folder
        name = api.load_config().get("meta", {}).get("name")
        say(u"%s is served at http://%s:%d/  (Ctrl-C ends it)" % (name, host, port))
        rest.start()
    except KeyboardInterrupt:
        say("Ended.")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return hosting.EXIT_DONE
