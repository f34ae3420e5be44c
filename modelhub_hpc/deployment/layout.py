"""The parts of a deployment image that are not the environment: where they lie in its tree, and its scripts."""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.processes import remove_tree

FRAMEWORK = "framework"
CONTRIB_SRC = "contrib_src"
APPS: Mapping[str, str] = {
    "serve": "Serve the model over HTTP, on this machine only: --host, --port (MODELHUB_HOST, MODELHUB_PORT).",
    "sandbox": "Open the model's notebooks in Jupyter, in a copy of its folder. Needs an image with Jupyter.",
    "shell": "A shell in the model's folder, or the command that is given.",
}
_WRITTEN_TO = ("output", "working", "temp")
_OURS = (FRAMEWORK, CONTRIB_SRC, "scif")
_META = ".singularity.d"

# Read before the image's own environment scripts, so that what these set counts, and --env of the caller after all.
_ENVIRONMENT = """\
# What the host's shell has set for the host's own programs would break the model's Python.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONDEBUG PYTHONINSPECT PYTHONVERBOSE PYTHONWARNINGS
unset PYTHONUSERBASE PYTHONEXECUTABLE PYTHONIOENCODING PYTHONUTF8 PYTHONSAFEPATH PYTHONPLATLIBDIR PYTHONCASEOK
unset PYTHONPYCACHEPREFIX PYTHONBREAKPOINT PYTHONDEVMODE PYTHONMALLOC PYTHONCOERCECLOCALE LD_PRELOAD
export PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8 LC_ALL=C.UTF-8
"""


def script(interpreter: str, program: str) -> str:
    """What starts a program of the engine in the image."""
    return f'#!/bin/sh\nexec {shlex.quote(interpreter)} /{FRAMEWORK}/start.py {program} "$@"\n'


def texts(interpreter: str, card: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Path in the image -> text of every file that is written rather than copied; those with #! are programs."""
    apps: dict[str, str] = {}
    for name, words in APPS.items():
        apps[f"scif/apps/{name}/scif/runscript"] = script(interpreter, name)
        apps[f"scif/apps/{name}/scif/runscript.help"] = f"{words}\n"
    return {
        f"{_META}/runscript": script(interpreter, "run"),
        f"{_META}/startscript": script(interpreter, "serve"),
        f"{_META}/test": script(interpreter, "test"),
        f"{_META}/runscript.help": card,
        f"{_META}/labels.json": json.dumps(labels, indent=2, sort_keys=True) + "\n",
        f"{_META}/env/02-modelhub-hpc.sh": _ENVIRONMENT,
        **apps,
    }


def clear(tree: Path) -> None:
    """Make room: empty folders for what is ours, and the ones that models expect.

    Nothing of the environment's is followed or kept there: an old engine would mix with this one.
    Raises InvalidError for a tree that Apptainer could not have made.
    """
    tree.chmod(0o755)
    for name in (_META, f"{_META}/env"):
        if not stat.S_ISDIR(_mode(tree / name)):
            raise InvalidError(f"The environment image is damaged: its /{name} is no folder.")
    for name in _OURS:
        _remove(tree / name)
        (tree / name).mkdir()
    for name in _WRITTEN_TO:
        if not _mode(tree / name):
            (tree / name).mkdir()


def write(tree: Path, files: Mapping[str, str]) -> None:
    """Write `texts` into the tree, in place of what is there. Raises OSError."""
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(path)
        with open(path, "x", encoding="utf-8", newline="") as stream:
            stream.write(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)


def _mode(path: Path) -> int:
    """0 for what is not there; links are not followed."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    if stat.S_ISDIR(_mode(path)):
        remove_tree(path)
    elif os.path.lexists(path):
        path.unlink()
    if os.path.lexists(path):
        raise InvalidError(f"{shown(path)} cannot be replaced.")
