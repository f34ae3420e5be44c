"""Tell which files belong together as one case: a file, a DICOM series, a folder of named inputs."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from modelhub_hpc.inputs import accepts, extension, is_dicom, series_of
from modelhub_hpc.plan.tables import Draft, draft_of
from modelhub_hpc.contribution import InputSpec, Contribution

_NO_PIXELS = frozenset("SR PR KO REG RTSTRUCT RTPLAN RTRECORD PLAN DOC ECG AU HD FID".split())
_ALIASES = {
    "t1": ("t1n", "t1w", "t1native"),
    "t1c": ("t1ce", "t1gd", "t1post", "t1contrast", "ct1"),
    "t2": ("t2w",),
    "flair": ("t2f", "t2flair"),
}
_DIGITS = re.compile("0*([0-9]+)")


class File(NamedTuple):
    """A file as its folder listed it; zeros where it could not be looked at."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that lay among the inputs and became no case."""

    path: str
    reason: str


class Files:
    """Files below one folder. Each is held as a line of text: there may be millions."""

    def __init__(self, folder: str) -> None:
        self._prefix = os.path.join(folder, "")
        self._lines: list[str] = []

    def add(self, path: str, size: int, mtime_ns: int) -> None:
        self._lines.append(f"{path[len(self._prefix) :]}\0{size}\0{mtime_ns}")

    def sort(self) -> None:
        """Into natural order."""
        self._lines.sort()
        self._lines.sort(key=lambda line: natural(line[: line.index("\0")]))

    def __iter__(self) -> Iterator[File]:
        for line in self._lines:
            name, size, mtime_ns = line.split("\0")
            yield File(self._prefix + name, int(size), int(mtime_ns))


def cases_of_files(files: Files, base: str, model: Contribution) -> Iterator[Draft | Skipped]:
    """The cases that files under the folder `base` make up, and what is left over; ids are wanted relative to it."""
    if len(model.inputs) > 1:
        yield from _folders(files, base, model.inputs)
        return
    (spec,) = model.inputs
    dicom = [file for file in files if is_dicom(file.path)] if _takes_volumes(spec) else []
    yield from _series(dicom, base, spec.key)
    taken = {file.path for file in dicom}
    yield from (_one_file(file, base, spec.key) for file in files if file.path not in taken)


def in_order(paths: Iterable[str]) -> list[str]:
    """Paths in natural order; the path itself decides between slice2 and slice02."""
    return sorted(sorted(paths), key=natural)


def natural(path: str) -> str:
    """A sort key that puts slice2 before slice10.

    Each number stands there as a character that no path has, its length and its digits, so that keys compare as
    lists of texts and numbers would, and take a tenth of their memory.
    """
    return _DIGITS.sub(_number, path)


def _number(digits: re.Match[str]) -> str:
    return f"\0{chr(len(digits[1]))}{digits[1]}"


def relative(path: str, base: str) -> str:
    """The part of `path` below `base`; the folder's own name where they are the same."""
    return path[len(base.rstrip("/")) + 1 :] or os.path.basename(base)


def _one_file(file: File, base: str, key: str) -> Draft:
    name = relative(file.path, base)
    stem = name[: len(name) - len(extension(name))]
    return Draft(stem, ((key, file.path),), (), file.size, file.mtime_ns)


def _takes_volumes(spec: InputSpec) -> bool:
    """Whether a DICOM series is one input: the first of three limits is z, and 1 there means by slice."""
    return len(spec.dim_limits) < 3 or spec.dim_limits[0][1] != 1


def _series(files: list[File], base: str, key: str) -> Iterator[Draft | Skipped]:
    """One case per series; a file that can't be read stays a case of its own, and fails there."""
    folders: dict[str, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        series = series_of(file.path)
        if os.path.basename(file.path).upper() == "DICOMDIR":
            yield Skipped(file.path, "a DICOMDIR is an index without an image")
        elif series is not None and series.modality in _NO_PIXELS:
            yield Skipped(file.path, f"a DICOM {series.modality} object holds no image")
        elif series is None or not series.uid:
            yield _one_file(file, base, key)
        else:
            folders[os.path.dirname(file.path)][series.uid].append(file)
    spread = Counter(uid for found in folders.values() for uid in found)
    for folder, found in folders.items():
        for uid, members in found.items():
            if spread[uid] > 1:
                reason = f"DICOM series {uid} is spread over {spread[uid]} folders; put its files in one"
                yield Skipped(folder, reason)
            else:
                yield _one_series(members, uid, len(found) > 1, base, key)


def _one_series(files: list[File], uid: str, several: bool, base: str, key: str) -> Draft:
    """The folder stands for its series; where it holds more than that, the column series_uid says which."""
    if len(files) == 1:
        return _one_file(files[0], base, key)
    folder = os.path.dirname(files[0].path)
    name = relative(folder, base)
    size, mtime_ns = sum(file.size for file in files), max(file.mtime_ns for file in files)
    columns = (("series_uid", uid),) if _holds_more(folder, files) else ()
    return Draft(f"{name}/{uid}" if several else name, ((key, folder),), columns, size, mtime_ns)


def _holds_more(folder: str, members: list[File]) -> bool:
    """Whether other files lie beside those of a series: other series, reports, a DICOMDIR, notes."""
    with os.scandir(folder) as entries:
        return sum(entry.is_file() for entry in entries) != len(members)


def _folders(files: Files, base: str, specs: tuple[InputSpec, ...]) -> Iterator[Draft | Skipped]:
    """One case per folder whose files are named by the model's inputs."""
    folders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        folders[os.path.dirname(file.path)].append(file.path)
    for folder, paths in folders.items():
        chosen = {spec.key: _best(spec, paths) for spec in specs}
        reason = _fault(chosen)
        if reason:
            yield Skipped(folder, reason)
        else:
            paths_by_key = {key: found[0] for key, found in chosen.items()}
            yield draft_of(relative(folder, base), paths_by_key)


def _fault(chosen: dict[str, list[str]]) -> str:
    """Why these files are no case, "" if they are one."""
    missing = [key for key, found in chosen.items() if not found]
    if missing:
        return f"no file for {', '.join(missing)}"
    for key, found in chosen.items():
        if len(found) > 1:
            names = ", ".join(os.path.basename(path) for path in found[:3])
            return f"{len(found)} files could be {key} ({names}); say which in a CSV"
    owners: dict[str, str] = {}
    for key, found in chosen.items():
        if found[0] in owners:
            name = os.path.basename(found[0])
            return f"{name} could be both {owners[found[0]]} and {key}; say which in a CSV"
        owners[found[0]] = key
    return ""


def _best(spec: InputSpec, paths: list[str]) -> list[str]:
    """The files whose names say this input most plainly."""
    ranks = [(_rank(spec.key, path), path) for path in paths if accepts(spec, path)]
    best = min((rank for rank, _ in ranks if rank is not None), default=-1)
    return [path for rank, path in ranks if rank == best]


def _rank(key: str, path: str) -> int | None:
    """How plainly a name says an input: 0 t1.nii, 1 a_t1.nii, 2 t1_a.nii, 3 a_t1n.nii; None not at all."""
    name = os.path.basename(path).lower()
    stem, wanted = name[: len(name) - len(extension(name))], key.lower()
    words = re.split("[^a-z0-9]+", stem)
    if stem == wanted:
        return 0
    if wanted in words:
        return 1 if words[-1] == wanted else 2
    return 3 if any(word in _ALIASES.get(wanted, ()) for word in words) else None
