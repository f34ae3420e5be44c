"""How an image is started, as Apptainer recorded it in the image itself when it came from Docker."""

from __future__ import annotations

import json
import re
import shlex

from modelhub_hpc.origin import ImageConfig
from modelhub_hpc.unpacked import environment
from modelhub_hpc.unpacked.tree import Tree

LABEL = "org.modelhub-hpc."  # what the names of our labels begin with
_RUNSCRIPT = "/.singularity.d/runscript"
_LABELS = "/.singularity.d/labels.json"


def recorded_config(tree: Tree) -> ImageConfig:
    """What the run script and the environment tell; for images that come as a SIF, a folder or from a definition."""
    script = tree.text(_RUNSCRIPT)
    env = tuple(f"{name}={value}" for name, value in environment.variables(tree).items())
    return ImageConfig(
        entrypoint=_words(script, "OCI_ENTRYPOINT"),
        cmd=_words(script, "OCI_CMD"),
        working_dir=_label(tree, f"{LABEL}cwd"),
        env=env,
    )


def _label(tree: Tree, name: str) -> str:
    """A label that an earlier conversion left."""
    try:
        labels = json.loads(tree.read(_LABELS))
    except ValueError:
        return ""
    value = labels.get(name, "") if isinstance(labels, dict) else ""
    return value if isinstance(value, str) else ""


def _words(script: str, name: str) -> tuple[str, ...]:
    match = re.search(rf"^{name}='(.*)'$", script, re.MULTILINE)
    try:
        return tuple(shlex.split(match[1])) if match else ()
    except ValueError:  # not written by Apptainer
        return ()
