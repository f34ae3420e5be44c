"""The variables that an image sets for its programs: which of them break these in a SIF, and which Apptainer garbles.

Apptainer writes Docker's Env as a script, but quotes values twice: `"`, `\\`, `$` and line breaks come out wrong, and
after a single backtick no variable is set at all, PATH included. `mended` writes such lines anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelhub_hpc.unpacked.tree import Tree

SCRIPT = "/.singularity.d/env/10-docker2singularity.sh"
_QUOTED = r'(?:\\.|[^"\\])*'
# a line of Apptainer's, PATH without a default; and one of ours
_LINE = re.compile(
    rf'^export (?P<name>[A-Za-z_]\w*)="'
    rf'(?:(?P<default>\$\{{(?P=name):-")(?P<value>{_QUOTED})"\}}|(?P<plain>{_QUOTED}))"$\n?'
    rf'|^test -n "[^"]*" \|\| export (?P<own>\w+)="(?P<ours>{_QUOTED})"$\n?',
    re.MULTILINE | re.DOTALL,
)
_GARBLED = re.compile(r"[\\$`]")
_SPECIAL = re.compile(r'(["\\$`])')
_GO_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(00[01][0-9a-f]{5})|(.))", re.DOTALL)
_CONTROL = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WRITABLE = ("/tmp/", "/var/tmp/")  # the two places that Apptainer makes writable


@dataclass(frozen=True)
class Misfit:
    """A variable that breaks programs in a SIF, and why."""

    name: str
    value: str
    reason: str


def variables(tree: Tree) -> dict[str, str]:
    """What a container made from the tree should have set: the values that Docker gives."""
    found = {match["name"] or match["own"]: _value(match) for match in _LINE.finditer(tree.text(SCRIPT))}
    return {"PATH": _PATH, **found}


def misfits(tree: Tree) -> Iterator[Misfit]:
    """The variables that must go. Raises OSError."""
    found = variables(tree)
    yield from _preloads(tree, found)
    if "PYTHONHOME" in found and not _holds_python(tree, found["PYTHONHOME"]):
        yield Misfit("PYTHONHOME", found["PYTHONHOME"], "no Python lies there")
    for name in ("TMPDIR", "TMP", "TEMP"):
        if name in found and not f"{found[name]}/".startswith(_WRITABLE):
            yield Misfit(name, found[name], "only /tmp and /var/tmp can be written")
    if "CUDA_VISIBLE_DEVICES" in found:
        value = found["CUDA_VISIBLE_DEVICES"]
        yield Misfit("CUDA_VISIBLE_DEVICES", value, "which GPUs a job has is for its site to say")


def garbled(tree: Tree) -> list[str]:
    """The variables that a container would get with another value than Docker gives."""
    return [match["name"] for match in _LINE.finditer(tree.text(SCRIPT)) if _is_garbled(match)]


def mended(script: str, dropped: frozenset[str]) -> str:
    """The text of SCRIPT without these variables, and with all others as Docker has them."""
    return _LINE.sub(lambda match: _mended_line(match, dropped), script)


def _mended_line(match: re.Match[str], dropped: frozenset[str]) -> str:
    name = match["name"] or match["own"]
    if name in dropped:
        return ""
    if not _is_garbled(match):
        return match[0]
    given = f"${{{name}:-}}" if match["default"] else ""
    value = _SPECIAL.sub(r"\\\1", _value(match))
    return f'test -n "{given}" || export {name}="{value}"\n'


def _is_garbled(match: re.Match[str]) -> bool:
    return match["ours"] is None and bool(_GARBLED.search(match["value"] or match["plain"] or ""))


def _value(match: re.Match[str]) -> str:
    quoted = match["ours"] if match["ours"] is not None else _unquoted(match["value"] or match["plain"] or "")
    return re.sub(r'\\(["\\$`])', r"\1", quoted)


def _unquoted(text: str) -> str:
    """What the programming language Go, in which Apptainer is written, quotes as this text."""
    data = _GO_ESCAPE.sub(_unescaped, text.encode("utf-8", "surrogateescape"))
    return data.decode("utf-8", "surrogateescape")


def _unescaped(match: re.Match[bytes]) -> bytes:
    byte, short, long, single = match.groups()
    if byte:
        return bytes.fromhex(byte.decode())
    if short or long:
        return chr(min(int(short or long, 16), 0x10FFFF)).encode("utf-8", "replace")
    return bytes([_CONTROL.get(single[0], single[0])])


def _preloads(tree: Tree, found: Mapping[str, str]) -> Iterator[Misfit]:
    for name in ("LD_PRELOAD", "LD_AUDIT"):
        libraries = [path for path in re.split(r"[\s:]+", found.get(name, "")) if "/" in path]
        if missing := [path for path in libraries if not tree.mode(path)]:
            yield Misfit(name, found[name], f"the image has no {missing[0]}")


def _holds_python(tree: Tree, homes: str) -> bool:
    """PYTHONHOME is a prefix, or two of them with a colon between."""
    folders = [os.path.join(home, "lib") for home in homes.split(":")]
    return any(name.startswith("python") for folder in folders for name in tree.names(folder))
