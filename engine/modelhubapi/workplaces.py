"""Places to work with a model by hand: sandbox and shell, of deployment images and of `mh-hpc`."""

import argparse
import os
import shutil
import sys
import tempfile

from . import hosting, private, relay
from .hosting import say

_LARGE = 16 * 1024 * 1024  # bytes; what is larger is linked and not copied


def shell(argv, contrib_src=hosting.CONTRIB_SRC):
    """Become argv, or an interactive shell, in the contribution's folder with the engine importable."""
    private.make_private()
    private.mend_environment()
    os.chdir(contrib_src)
    _add_python_path(contrib_src)
    shells = [path for path in ("/bin/bash", "/bin/sh") if os.access(path, os.X_OK)]
    if not argv:
        say("In %s. Python is %s; there:  from modelapi import model; model.predict(FILE)"
            % (contrib_src, sys.executable))
        argv = shells[:1] + (["--norc"] if shells[0].endswith("bash") else [])
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        say("%s: %s" % (argv[0], error.strerror))
        return hosting.EXIT_USAGE


def sandbox(argv, contrib_src=hosting.CONTRIB_SRC):
    """Become a Jupyter server on loopback, in a copy of the contribution that may be changed.

    With --socket its folder is such a copy already, and the server is reached through that socket file.
    """
    options = _parse(argv)
    program = _jupyter()
    if program is None:
        say("This image has no Jupyter, which the sandbox needs. What works: apptainer run --app shell MODEL.sif")
        return hosting.EXIT_UNFIT
    private.make_private()
    private.mend_environment()
    folder = contrib_src if options.socket else _copy(contrib_src, hosting.current_folder())
    _add_python_path(folder)
    _keep_jupyter_in(os.path.join(os.environ["HOME"] if options.socket else folder, ".jupyter"))
    os.chdir(folder)
    port = relay.free_port() if options.socket else options.port
    # Jupyter makes a token for each start, and prints the address with it
    argv = program + ["--ip=127.0.0.1", "--port=%d" % port, "--no-browser"]
    argv += ["--allow-root"] if os.getuid() == 0 else []
    if options.socket:
        argv += ["--port-retries=0"]
        relay.fork_relay(options.socket, port)
    else:
        say("The sandbox is %s, a copy that is yours: changes stay, and the image does not change." % folder)
    os.execv(sys.executable, [sys.executable] + argv)


def _parse(argv):
    parser = argparse.ArgumentParser(prog="apptainer run --app sandbox MODEL.sif",
                                     description="Open the model's notebooks in Jupyter, on this machine only.")
    parser.add_argument("--port", type=int, default=8888, help="(default: %(default)s, or the next free one)")
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _jupyter():
    """Return the arguments that make this Python a Jupyter server; None where there is none."""
    for module in ("jupyterlab", "notebook"):
        try:
            __import__(module)
        except ImportError:
            continue
        return ["-m", module]
    return None


def _copy(contrib_src, folder):
    """Copy the contribution into a new folder, in `folder` if that can be written, and return it."""
    place = folder if private.is_writable(folder) else tempfile.gettempdir()
    target = tempfile.mkdtemp(prefix="modelhub-sandbox-", dir=place)
    for parent, folders, names in os.walk(contrib_src):
        beside = os.path.normpath(os.path.join(target, os.path.relpath(parent, contrib_src)))
        for name in folders + names:
            _take(os.path.join(parent, name), os.path.join(beside, name))
    return target


def _take(source, target):
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.mkdir(target)
    elif os.path.getsize(source) > _LARGE:
        os.symlink(source, target)
    else:
        shutil.copyfile(source, target)


def _keep_jupyter_in(folder):
    """Let Jupyter keep its own files in folder, since homes may be missing or read-only."""
    os.mkdir(folder, 0o700)
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        os.environ["JUPYTER_%s" % name] = os.path.join(folder, name.lower())
    os.environ["IPYTHONDIR"] = os.path.join(folder, "ipython")


def _add_python_path(contrib_src):
    """Let programs that this one becomes import the contribution and the engine."""
    engine = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    rest = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    os.environ["PYTHONPATH"] = os.pathsep.join([contrib_src, engine] + rest)
