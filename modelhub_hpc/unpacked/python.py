"""Which Python an image starts its model with, and what it has installed, found without running anything."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelhub_hpc.unpacked.tree import Tree

_SHELLS = ("sh", "bash", "dash", "ash", "zsh")
_ON_PATH = ("python3", "python", "python2.7", "python2")
# where images keep a Python that their PATH does not name
_ELSEWHERE = (
    *("/opt/conda/bin/python", "/opt/miniconda3/bin/python", "/opt/venv/bin/python", "/venv/bin/python"),
    *("/app/.venv/bin/python", "/root/miniconda3/bin/python", "/usr/local/bin/python3", "/usr/bin/python3"),
)
_PYTHON = re.compile(r"python(?:[23](?:\.\d+)?)?")
_DPKG = "/var/lib/dpkg/status"
_DPKG_LIMIT = 32 << 20


@dataclass(frozen=True)
class Python:
    """A Python of an image.

    interpreter: how it is started, a name on the image's PATH or a path; program: the file that this leads to;
    version: "3.8.10", or "3.8" where no more can be told, "" if nothing; sites: folders of installed packages.
    """

    interpreter: str
    program: str
    version: str
    sites: tuple[str, ...]


def find_python(tree: Tree, argv: Sequence[str], path: str, cwd: str) -> Python | None:
    """The Python that argv starts; else the likeliest one of the image, which has numpy; None without any."""
    for interpreter in _started(tree, argv, path, cwd):
        if program := find_program(tree, interpreter, path, cwd):
            return _describe(tree, interpreter, program)
    likely = ((name, find_program(tree, name, path)) for name in (*_ON_PATH, *_ELSEWHERE))
    found = [_describe(tree, name, program) for name, program in likely if program]
    return next((each for each in found if _has_numpy(tree, each)), found[0] if found else None)


def find_program(tree: Tree, name: str, path: str, cwd: str = "/") -> str:
    """The path in the image by which a shell would start this, links not followed; "" if it would not."""
    folders = [cwd] if "/" in name else [folder for folder in path.split(":") if folder]
    places = [os.path.join(folder, name) for folder in folders if name]
    return next((place for place in places if _runs(tree, place)), "")


def unwrapped(argv: Sequence[str]) -> list[str]:
    """The words of a start command, those inside `sh -c "..."` too."""
    if argv and os.path.basename(argv[0]) in _SHELLS:
        for number, word in enumerate(argv[1:-1], start=1):
            if re.fullmatch(r"-\w*c", word):
                return _split(argv[number + 1]) + list(argv[number + 2 :])
    return list(argv)


def shebang(tree: Tree, program: str) -> list[str]:
    """The command that a script names in its first line; [] if it is none."""
    start = tree.text(program, 512)
    if not start.startswith("#!"):
        return []
    words = start[2:].split("\n", 1)[0].split()
    if words and os.path.basename(words[0]) == "env":
        return [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return words


def _started(tree: Tree, argv: Sequence[str], path: str, cwd: str) -> Iterator[str]:
    """The interpreters that a start command points to, as they would be called from anywhere; the surest first."""
    words = unwrapped(argv)
    program = find_program(tree, words[0], path, cwd) if words else ""
    script = shebang(tree, program) if program else []
    yield from _of_conda(tree, words, path)
    for word in (*words, *script):
        if _PYTHON.fullmatch(os.path.basename(word)):
            yield os.path.normpath(os.path.join(cwd, word)) if "/" in word else word


def _of_conda(tree: Tree, words: Sequence[str], path: str) -> Iterator[str]:
    """The Python of the environment in `conda run -n NAME ...` or `source activate NAME`."""
    conda = find_program(tree, "conda", path) or "/opt/conda/bin/conda"
    for word, name in zip(words, words[1:], strict=False):
        if word in ("-n", "--name", "activate") and not name.startswith("-") and "/" not in name:
            yield os.path.normpath(f"{os.path.dirname(tree.resolve(conda))}/../envs/{name}/bin/python")


def _describe(tree: Tree, interpreter: str, place: str) -> Python:
    program = tree.resolve(place)
    home, base = _prefix(_beside(tree, place)), _prefix(program)
    series = _series(tree, program, base)
    prefixes = dict.fromkeys((home, base, *(("/usr/local",) if base == "/usr" else ())))
    names = [f"python{series}", f"python{series[:1]}"] if series else []
    sites = [f"{p}/lib/{n}/{kind}-packages" for p in prefixes for n in names for kind in ("site", "dist")]
    version = _full_version(tree, series, home, base) or series
    return Python(interpreter, program, version, tuple(site for site in sites if tree.is_folder(site)))


def _prefix(program: str) -> str:
    return os.path.dirname(os.path.dirname(program))


def _beside(tree: Tree, place: str) -> str:
    """The last link on the way to a Python that lies in a virtual environment, which is what Python itself looks at."""
    for _ in range(8):
        folder = tree.resolve(os.path.dirname(place))
        here = f"{folder}/{os.path.basename(place)}"
        if tree.is_file(f"{os.path.dirname(folder)}/pyvenv.cfg"):
            return here
        target = tree.link(here)
        if target is None:
            break
        place = os.path.join(folder, target)
    return tree.resolve(place)


def _series(tree: Tree, program: str, base: str) -> str:
    """Major and minor version: from the program's own name, else from the library beside it."""
    if match := re.fullmatch(r"python([23]\.\d+)m?", os.path.basename(program)):
        return match[1]
    found = [name[6:] for name in tree.names(f"{base}/lib") if re.fullmatch(r"python[23]\.\d+", name)]
    whole = [each for each in found if tree.is_file(f"{base}/lib/python{each}/os.py")]
    return next(iter(whole or found), "")


def _full_version(tree: Tree, series: str, home: str, base: str) -> str:
    """The version with its third number, from whatever keeps it in text."""
    if not series:
        return ""
    exact = rf"({re.escape(series)}\.\d+)"
    headers = [name for name in tree.names(f"{base}/include") if name.startswith(f"python{series}")]
    texts = (
        *((f"{base}/include/{name}/patchlevel.h", rf'PY_VERSION\s+"{exact}') for name in headers),
        (f"{home}/pyvenv.cfg", rf"^version\w*\s*=\s*{exact}"),
        (_DPKG, rf"^Package: (?:lib)?python{re.escape(series)}-minimal\n(?:.+\n)*?Version: {exact}"),
    )
    for name in tree.names(f"{base}/conda-meta"):
        if match := re.match(rf"python-{exact}-", name):
            return match[1]
    found = (re.search(pattern, tree.text(path, _DPKG_LIMIT), re.MULTILINE) for path, pattern in texts)
    return next((match[1] for match in found if match), "")


def _has_numpy(tree: Tree, python: Python) -> bool:
    return any(tree.is_folder(f"{site}/numpy") for site in python.sites)


def _runs(tree: Tree, place: str) -> bool:
    mode = tree.mode(place)
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _split(text: str) -> list[str]:
    """The words of a line of shell, roughly."""
    try:
        return shlex.split(re.sub(r"(&&|\|\||;|\|)", r" \1 ", text))
    except ValueError:  # a quote that does not close
        return text.split()


def python_path(variables: Mapping[str, str]) -> list[str]:
    """The folders of PYTHONPATH."""
    return [folder for folder in variables.get("PYTHONPATH", "").split(":") if folder.startswith("/")]
