"""Whether a contribution's code is valid in the Python that it is for, and finds what it imports: asked of that Python.

In the image where it is at hand, else in a Python of this machine. No code of the contribution is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import apptainer, config, images, launch, processes, resources
from modelhub_hpc.apptainer import Bind, Containment
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing.findings import Finding, error, warning
from modelhub_hpc.contributing.sourcecode import Source, imported
from modelhub_hpc.errors import ModelHubError, shown

_TIMEOUT_S = 120.0
# what every ModelHub image holds, and what Python 2 has under other names than Python 3
_EVERYWHERE = {"numpy", "PIL", "SimpleITK", "h5py", "six", "flask", "flask_cors", "requests", "magic"}
_OF_PYTHON_2 = set("urllib2 urlparse ConfigParser Queue StringIO cStringIO cPickle httplib commands".split())


@dataclass(frozen=True)
class Python:
    """What was asked. version: "3.11.2"; exact: of the same series as the model's own Python; of_image: it is that."""

    name: str
    version: str
    exact: bool
    of_image: bool
    wrong: tuple[tuple[str, int | None, str], ...]
    missing: tuple[str, ...]


def judge(folder: Path, image: str, found: Sequence[Source], site: SiteConfig) -> tuple[list[Finding], str]:
    """What the right Python, or the likeliest at hand, says of the code; and which it was, "" for none."""
    modules = imported(list(found))
    asked = _in_image(folder, image, found, modules, site) or _on_host(folder, image, found, modules)
    if asked is None:
        what = f"the syntax was not checked: neither the image {shown(image)} nor its Python is at hand here"
        mend = f"Convert the image once:  mh-hpc convert SOURCE --name {shown(image)}"
        return [warning("syntax", "contrib_src", what, mend)], ""
    return [*_syntax(asked, image), *_imports(asked, modules, image)], f"Python {asked.version} {asked.name}"


def _syntax(asked: Python, image: str) -> Iterator[Finding]:
    for path, line, reason in asked.wrong:
        where = f"{shown(path)}, line {line}" if line else shown(path)
        what = f"is not valid in Python {asked.version} {asked.name}: {reason}"
        if asked.exact:
            other = "3" if asked.version.startswith("2") else "2"
            mend = f"Write it for that Python. If it is for Python {other}, name an image with that in docker_id."
            yield error("syntax", where, what, mend)
        else:
            yield warning("syntax", where, what, f"Convert {shown(image)}, to have it judged by the Python there.")


def _imports(asked: Python, modules: dict[str, str], image: str) -> Iterator[Finding]:
    for name in asked.missing:
        if asked.of_image:
            mend = "Add it to the image, or its file to contrib_src."
            yield warning("imports", modules[name], f"imports {name}, which the image {shown(image)} lacks", mend)
        elif name not in _EVERYWHERE | _OF_PYTHON_2:
            what = f"imports {name}; whether the image {shown(image)} has it is not known here"
            yield warning("imports", modules[name], what, "Convert the image, or look into its recipe.")


def _in_image(
    folder: Path, image: str, found: Sequence[Source], modules: dict[str, str], site: SiteConfig
) -> Python | None:
    """The answer of the image's own Python; None where the image, or Apptainer, is not here."""
    try:
        apptainer.program()
        there = images.find(image, site)
        scratch = launch.make_scratch(config.scratch_dir(site))
    except ModelHubError:
        return None
    asked = _question([f"/{source.path}" for source in found], list(modules), ["/framework", "/contrib_src"])
    try:
        command = apptainer.exec_command(there.path, [there.interpreter, "-c", *asked], _inside(folder, scratch, site))
        code, text = processes.ask(command, apptainer.environment(scratch), _TIMEOUT_S)
    finally:
        processes.remove_tree(scratch)
    return _answer(f"in {there.name}", None, "/", code, text)


def _inside(folder: Path, scratch: Path, site: SiteConfig) -> Containment:
    return Containment(
        home=scratch / "home",
        workdir=scratch / "work",
        cwd="/contrib_src",
        binds=(Bind(folder / "contrib_src", "/contrib_src"), Bind(resources.folder("engine"), "/framework")),
        seccomp=apptainer.SECCOMP if site.seccomp else None,
        unsquash=not apptainer.mounts_images(),
    )


def _on_host(folder: Path, image: str, found: Sequence[Source], modules: dict[str, str]) -> Python | None:
    """The answer of a Python of this machine that is of the right kind; None without one."""
    wanted = declared_python(folder, image)
    places = [str(resources.folder("engine")), str(folder / "contrib_src")]
    question = _question([str(folder / source.path) for source in found], list(modules), places)
    caller = config.caller()
    environment = {"PATH": caller.path, "LD_LIBRARY_PATH": caller.library_path, "LANG": "C.UTF-8"}
    for program in ("python2.7", "python2") if wanted.startswith("2") else (config.PYTHON,):
        code, text = processes.ask([program, "-c", *question], environment, _TIMEOUT_S)
        answer = _answer("of this machine", wanted, f"{folder}/", code, text)
        if answer is not None:
            return answer
    return None


def declared_python(folder: Path, image: str) -> str:
    """The Python that a contribution is for, as far as it can be known without its image: "2.7", "3", ""."""
    listed = json.loads((resources.folder("recipes") / "environments.json").read_bytes())
    known = {each["image"]: str(each["python"]) for each in listed}
    return known.get(image) or _kernel(folder / "contrib_src")


def _kernel(contrib_src: Path) -> str:
    """What the notebook says it is for: "2", "3", or ""."""
    for path in sorted(contrib_src.glob("[Ss]andbox.ipynb")):
        try:
            name = json.loads(path.read_bytes())["metadata"]["kernelspec"]["name"]
            return str(name).removeprefix("python")[:1]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a notebook says it, or does not
    return ""


def _question(files: list[str], modules: list[str], folders: list[str]) -> list[str]:
    script = (resources.folder("hpc") / "look_at_sources.py").read_text()
    return [script, json.dumps({"files": files, "modules": modules, "folders": folders})]


def _answer(name: str, wanted: str | None, base: str, code: int, text: str) -> Python | None:
    """What a Python said, if it said something. wanted: the version that the model is for; None: this is its own."""
    try:
        said: dict[str, Any] = json.loads(text.strip().splitlines()[-1]) if code == 0 else {}
        wrong = tuple((str(path).removeprefix(base), line, str(reason)) for path, line, reason in said["wrong"])
        version = str(said["python"])
        exact = wanted is None or version.rpartition(".")[0] == wanted
        return Python(name, version, exact, wanted is None, wrong, tuple(said["missing"]))
    except (ValueError, KeyError, TypeError, IndexError):
        return None
