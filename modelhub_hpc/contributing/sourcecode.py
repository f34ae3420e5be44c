"""What the text of a contribution's Python code shows without being run: hints, since nobody knows what it will do."""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.contributing.findings import Finding, error, warning
from modelhub_hpc.errors import shown

INFERENCE = "contrib_src/inference.py"
# folders that are the model's to write to, in every container
WRITABLE = ("/output", "/working", "/temp", "/tmp", "/dev/null")
_ENGINE = ("modelhublib", "modelhubapi")
_LARGEST = 4 << 20  # bytes of a source file; what is larger holds data
_MODEL = re.compile(r"^class\s+Model\b", re.MULTILINE)
_IMPORT = re.compile(r"^\s*(?:from\s+([A-Za-z_]\w*)[\w.]*\s+import\b|import\s+([^#;]+))")
_PORT = re.compile(r"\bport\b\W{0,4}80\b|\bbind\(\(.*,\s*80\s*\)\)|0\.0\.0\.0:80\b|\b(?:run|listen)\(.*\b80\s*\)")
_MAKES = re.compile(r"""\b(?:mkdir|makedirs|imwrite|imsave|savetxt|savez?|to_csv)\(\s*["']([^"']+)["']""")
_OPENS = re.compile(r"""\bopen\(\s*["']([^"']+)["']\s*,\s*["'][^"']*[wax+]""")
_ROOT = re.compile(r"\b(sudo|apt-get|os\.l?chown|os\.set[eu]*[ug]id|os\.mknod|os\.chroot)\b")
_NETWORK = re.compile(
    r"\b(urlretrieve|urlopen|requests\.(?:get|post)|wget|model_zoo|load_state_dict_from_url|from_pretrained"
    r"|hf_hub_download|pretrained\s*=\s*True|weights\s*=\s*['\"]imagenet['\"])"
)


@dataclass(frozen=True)
class Source:
    """A file of Python code. path: within the contribution; lines: without comments."""

    path: str
    lines: tuple[str, ...]


def sources(folder: Path) -> list[Source]:
    """The Python files of contrib_src that can be read."""
    found = sorted(path for path in (folder / "contrib_src").rglob("*.py") if path.is_file())
    return [_source(folder, each) for each in found if os.access(each, os.R_OK) and each.stat().st_size <= _LARGEST]


def _source(folder: Path, path: Path) -> Source:
    text = path.read_bytes().decode("utf-8", "replace")
    lines = tuple(line.partition("#")[0] for line in text.splitlines())
    return Source(str(path.relative_to(folder)), lines)


def judge(found: list[Source]) -> Iterator[Finding]:
    for source in found:
        if source.path == INFERENCE and not _MODEL.search("\n".join(source.lines)):
            mend = "Define  class Model(ModelBase)  with  infer(self, input)  there."
            yield error("code", INFERENCE, "defines no class Model, which is what the engine starts", mend)
        for number, line in enumerate(source.lines, 1):
            yield from _hints(f"{shown(source.path)}, line {number}", line)


def _hints(where: str, line: str) -> Iterator[Finding]:
    if _PORT.search(line):
        what = "port 80 is only for root, and the container is nobody's root"
        yield warning("port", where, what, "Leave serving to the engine: webservice.start(...) in run.py.")
    for path in (*_MAKES.findall(line), *_OPENS.findall(line)):
        place = posixpath.normpath(posixpath.join("/contrib_src", path))
        if not any(place == each or place.startswith(f"{each}/") for each in WRITABLE):
            what = f"may write to {shown(place)}, which is read-only where the model runs"
            yield warning("writes", where, what, f"Write to {', '.join(WRITABLE[:4])} or $HOME, or not at all.")
    for word in _ROOT.findall(line):
        yield warning("root", where, f"{word} needs root, which the model is not", "Do it when the image is made.")
    for word in _NETWORK.findall(line):
        what = f"{word} may need the network, which the model does not have"
        yield warning("network", where, what, "Put the file into model/, or into external_contrib_files.")


def imported(found: list[Source]) -> dict[str, str]:
    """The modules that the code imports from elsewhere, each with the first place where it does.

    Neither the standard library's, the engine's nor the contribution's own.
    """
    own = {part for source in found for part in Path(source.path).with_suffix("").parts}
    known = {*sys.stdlib_module_names, *_ENGINE, *own, "inference", "processing"}
    places: dict[str, str] = {}
    for source in found:
        for number, line in enumerate(source.lines, 1):
            for name in _names(line):
                if name not in known:
                    places.setdefault(name, f"{shown(source.path)}, line {number}")
    return places


def _names(line: str) -> Iterator[str]:
    """
    >>> list(_names("import numpy as np, os.path")), list(_names("from a.b import c")), list(_names("from . import d"))
    (['numpy', 'os'], ['a'], [])
    """
    if match := _IMPORT.match(line):
        parts = [match[1]] if match[1] else match[2].split(",")
        names = (part.split()[0].partition(".")[0] for part in parts if part.split())
        yield from (name for name in names if name.isidentifier())
