"""Tell which files belong together as one case: a file, a DICOM series, a folder of named inputs."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

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
_DIGITS = re.compile("([0-9]+)")


@dataclass(frozen=True, slots=True)
class File:
    """A file as its folder listed it; zeros where it could not be looked at."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that lay among the inputs and became no case."""

    path: str
    reason: str


@dataclass
class Grouped:
    """Cases without ids yet, and what was left over."""

    drafts: list[Draft] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def cases_of_files(files: list[File], base: str, model: Contribution) -> Grouped:
    """The cases that files under the folder `base` make up; ids are wanted relative to it."""
    if len(model.inputs) > 1:
        return _folders(files, base, model.inputs)
    (spec,) = model.inputs
    grouped = Grouped()
    dicom = [file for file in files if is_dicom(file.path)] if _takes_volumes(spec) else []
    if dicom:
        _series(dicom, base, spec.key, grouped)
    taken = {file.path for file in dicom}
    grouped.drafts += [_one_file(file, base, spec.key) for file in files if file.path not in taken]
    return grouped


def natural(path: str) -> tuple[list[str | int], str]:
    """A sort key that puts slice2 before slice10; the path itself decides between slice2 and slice02."""
    parts: list[str | int] = list(_DIGITS.split(path))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, path


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


def _series(files: list[File], base: str, key: str, grouped: Grouped) -> None:
    """One case per series; a file that can't be read stays a case of its own, and fails there."""
    folders: dict[str, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        series = series_of(file.path)
        if os.path.basename(file.path).upper() == "DICOMDIR":
            grouped.skipped.append(Skipped(file.path, "a DICOMDIR is an index without an image"))
        elif series is not None and series.modality in _NO_PIXELS:
            grouped.skipped.append(Skipped(file.path, f"a DICOM {series.modality} object holds no image"))
        elif series is None or not series.uid:
            grouped.drafts.append(_one_file(file, base, key))
        else:
            folders[os.path.dirname(file.path)][series.uid].append(file)
    spread = Counter(uid for found in folders.values() for uid in found)
    for folder, found in folders.items():
        for uid, members in found.items():
            if spread[uid] > 1:
                reason = f"DICOM series {uid} is spread over {spread[uid]} folders; put its files in one"
                grouped.skipped.append(Skipped(folder, reason))
            else:
                grouped.drafts.append(_one_series(members, uid, len(found) > 1, base, key))


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


def _folders(files: list[File], base: str, specs: tuple[InputSpec, ...]) -> Grouped:
    """One case per folder whose files are named by the model's inputs."""
    folders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        folders[os.path.dirname(file.path)].append(file.path)
    grouped = Grouped()
    for folder, paths in folders.items():
        chosen = {spec.key: _best(spec, paths) for spec in specs}
        reason = _fault(chosen)
        if reason:
            grouped.skipped.append(Skipped(folder, reason))
        else:
            paths_by_key = {key: found[0] for key, found in chosen.items()}
            grouped.drafts.append(draft_of(relative(folder, base), paths_by_key))
    return grouped


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
