"""Unpacked images made by hand, for the tests of what is found in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelhub_hpc.origin import ImageConfig
from modelhub_hpc.unpacked import environment
from modelhub_hpc.unpacked.audit import MOUNT_POINTS, Audit, Finding

PROGRAM = "#!program"  # contents of what can be executed
SCRIPT = environment.SCRIPT[1:]
PLAIN = {path[1:] + "/": "" for path in MOUNT_POINTS}  # an image with nothing to mend
OLD = ImageConfig(cmd=("python", "run.py"), working_dir="/contrib_src")


def grow(root: Path, things: Mapping[str, str]) -> Path:
    """Make a tree: "folder/", "link" -> "-> target", "program" -> PROGRAM, "file" -> its text."""
    root.mkdir(exist_ok=True)
    for name, text in things.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_text("" if text == PROGRAM else text)
            path.chmod(0o755 if text == PROGRAM or text.startswith("#!") else 0o644)
    return root


def by_code(found: Audit) -> dict[str, Finding]:
    assert len({finding.code for finding in found.findings}) == len(found.findings)
    return {finding.code: finding for finding in found.findings}


def env_script(variables: Mapping[str, str]) -> str:
    """As Apptainer writes it: quoted for a shell, and then for Go."""

    def quoted(value: str) -> str:
        once = "".join(f"\\{c}" if c in '"$`\\' else c for c in value)
        return "".join({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\xa0": "\\u00a0"}.get(c, c) for c in once)

    lines = [f'export {name}="${{{name}:-"{quoted(value)}"}}"\n' for name, value in variables.items()]
    return "".join(["#!/bin/sh\n", 'export PATH="/opt/bin:/bin"\n', *lines])
