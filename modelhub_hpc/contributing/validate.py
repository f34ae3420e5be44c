"""Check a contribution without running it: everything that can be known from its files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import contribution
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import configs, external, interpreter, sampledata, sourcecode
from modelhub_hpc.contributing.findings import Finding, error, warning
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError, shown

_NEW = "`mh-hpc init` writes one that works."
_REQUIRED = {
    "init/init.json": "It names the image: {\"docker_id\": \"...\", \"external_contrib_files\": []}.",
    configs.CONFIG: f"It says what the model takes and gives. {_NEW}",
    sourcecode.INFERENCE: f"It holds the class Model. {_NEW}",
    "contrib_src/run.py": f"It starts the engine's server, and is the same in all contributions. {_NEW}",
    "contrib_src/modelapi.py": f"Notebooks import it; it is the same in all contributions. {_NEW}",
}
_LICENCES = {
    "contrib_src/license/model": "Say in plain text what others may do with the model.",
    "contrib_src/license/sample_data": "Say in plain text what others may do with the samples.",
}
_USUAL = {
    "contrib_src/processing.py": "By convention it holds the class ImageProcessor.",
    "README.md": "Say what the model is for, and what it is not for.",
}
_LARGE, _HUGE = 50_000_000, 100_000_000  # bytes: what git hosts warn of, and what they refuse
_MB = 1e6


@dataclass(frozen=True)
class Report:
    """What was found. model: its name, "" if it has none; python: which Python judged the code, "" for none."""

    folder: Path
    model: str
    python: str
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        return [each for each in self.findings if each.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [each for each in self.findings if each.level == "warning"]


def validate(folder: Path, site: SiteConfig) -> Report:
    """Check the contribution in a folder, which is only read. Raises InvalidError if it is no folder."""
    folder = folder.absolute()
    if not folder.is_dir():
        raise InvalidError(f"There is no folder {shown(folder)}. Name that of a contribution.")
    if not (folder / "contrib_src").is_dir():
        raise InvalidError(
            f"{shown(folder)} is no contribution: it has no folder contrib_src.\n"
            "A new one in ModelHub's template:  mh-hpc init NAME"
        )
    found = [*_layout(folder), *external.judge(folder), *_links(folder), *_sizes(folder)]
    found += configs.judge(folder)
    sources = sourcecode.sources(folder)
    found += sourcecode.judge(sources)
    said, python = interpreter.judge(folder, _image(folder), sources, site)
    found += said
    model = _readable(folder, found)
    if model is not None:
        found += [*_name(model), *sampledata.judge(model)]
    return Report(folder, model.name if model else "", python, tuple(found))


def _layout(folder: Path) -> Iterator[Finding]:
    for path, mend in _REQUIRED.items():
        if not _is_file(folder / path):
            yield error("layout", path, "is missing", mend)
    for path, mend in _LICENCES.items():
        if not _is_file(folder / path):
            yield error("licence", path, "is missing: nobody may use what has no licence", mend)
        elif not (folder / path).read_bytes().strip():
            yield error("licence", path, "is empty: nobody may use what has no licence", mend)
    for path, mend in _USUAL.items():
        if not _is_file(folder / path):
            yield warning("layout", path, "is missing", mend)


def _is_file(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _walk(folder: Path) -> Iterator[Path]:
    """All files and links of a contribution, git's own aside; links are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in (".git", "__pycache__"))
        yield from (Path(place, name) for name in sorted(files))
        yield from (Path(place, name) for name in folders if os.path.islink(os.path.join(place, name)))


def _links(folder: Path) -> Iterator[Finding]:
    for path in _walk(folder):
        if not path.is_symlink():
            continue
        where, target = shown(path.relative_to(folder)), shown(os.readlink(path))
        base = folder / "contrib_src" if path.is_relative_to(folder / "contrib_src") else folder
        if not os.path.realpath(path).startswith(f"{os.path.realpath(base)}/"):
            what = f"is a link to {target}, which leads out of {base.name}: nobody else has that file"
            yield error("external", where, what, "Put the file itself there.")
        elif not path.exists():
            yield error("layout", where, f"is a link to {target}, which is not there", "Remove it.")


def _sizes(folder: Path) -> Iterator[Finding]:
    elsewhere = external.destinations(folder)
    for path in _walk(folder):
        where = str(path.relative_to(folder))
        size = path.lstat().st_size
        if size <= _LARGE or where in elsewhere:
            continue
        mend = (
            f"Make it an asset of a release, and name it in {external.INIT}: "
            f'{{"src_url": "https://...", "dest_file_path": {json.dumps(where)}}}; keep it out of git.'
        )
        if size > _HUGE:
            what = f"has {size / _MB:,.0f} MB: git hosts refuse files of more than {_HUGE / _MB:.0f} MB"
            yield error("size", shown(where), what, mend)
        else:
            what = f"has {size / _MB:,.0f} MB, which every clone of the repository will carry for good"
            yield warning("size", shown(where), what, mend)


def _image(folder: Path) -> str:
    try:
        given: Any = json.loads((folder / external.INIT).read_bytes())["docker_id"]
        return str(given)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _readable(folder: Path, found: list[Finding]) -> Contribution | None:
    """The contribution, if it can be read and its config.json believed; of any other no more can be said."""
    if any(each.level == "error" and each.check in ("config", "mime") for each in found):
        return None
    try:
        return contribution.read(folder)
    except (InvalidError, OSError, AttributeError, TypeError) as reason:
        if not any(each.level == "error" for each in found):
            found.append(error("config", configs.CONFIG, f"cannot be used: {reason}", _NEW))
        return None


def _name(model: Contribution) -> Iterator[Finding]:
    """A model is found by the name of its folder, and calls itself what config.json says."""
    expected = _registered_name(model.path)
    if model.name == expected:
        return
    what = f"meta.name is '{shown(model.name)}', but the model is called '{shown(expected)}' by its folder"
    mend = "Give both one name, of lower-case letters, digits and hyphens."
    alike = _letters(model.name) == _letters(expected)
    yield (warning if alike else error)("name", configs.CONFIG, what, mend)


def _registered_name(folder: Path) -> str:
    """The name in the registry's entry, which lies beside a model that was pulled; else that of the folder."""
    try:
        return str(json.loads((folder / "entry.json").read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return folder.resolve().name


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
