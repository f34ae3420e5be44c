"""What a job is to predict: files of this machine that may be named, and files that were sent."""

from __future__ import annotations

import csv
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import shown
from modelhub_hpc.inputs import extension
from modelhub_hpc.plan import Case
from modelhub_hpc.plan.manifest import column_of
from modelhub_hpc.runfolder import Json
from modelhub_hpc.service.refused import Refused

Named = str | Mapping[str, str]


@dataclass(frozen=True)
class Upload:
    """A file that was sent. key: of the model's input; name: as the client calls it; save: into a folder."""

    key: str
    name: str
    sha256: str
    save: Callable[[Path], Path]


@dataclass(frozen=True)
class NewJob:
    """What a client asks for.

    inputs: folders, files and tables of this machine, or an object of paths by input key per case; or else uploads,
    of which the n-th of each key belong together.
    """

    model: str
    inputs: tuple[Named, ...] = ()
    uploads: tuple[Upload, ...] = ()
    options: Mapping[str, Json] = field(default_factory=dict)

    def facts(self) -> dict[str, Json]:
        """By which two requests are the same."""
        return {
            "model": self.model,
            "inputs": [each if isinstance(each, str) else dict(each) for each in self.inputs],
            "uploads": [[each.key, each.name, each.sha256] for each in self.uploads],
            "options": dict(self.options),
        }


class Roots:
    """The folders whose files may be named."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = [os.path.realpath(root) for root in roots]
        self._known: dict[str, bool] = {}

    def check(self, path: str) -> str:
        """The same path; Refused (422) if it, or what its links lead to, is not below one of them or not there."""
        plain = path.startswith("/") and "\0" not in path and ".." not in path.split("/") and _has_bytes(path)
        if not plain or not self._holds(os.path.realpath(path)):
            raise Refused(422, f"{shown(path)!r} is not in a folder whose files this server may read.")
        if not os.path.exists(path):
            raise Refused(422, f"{shown(path)!r}: there is no such file or folder.")
        return path

    def check_cases(self, cases: Iterable[Case]) -> None:
        """Refused (422) if a table or a link in a folder has brought in a file from elsewhere."""
        for case in cases:
            for _, path in case.inputs:
                if not self._is_inside(path):
                    raise Refused(422, f"{shown(path)!r} is not in a folder whose files this server may read.")

    def _is_inside(self, path: str) -> bool:
        folder = os.path.dirname(path)
        if folder not in self._known:
            self._known[folder] = self._holds(os.path.realpath(folder))
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return self._known[folder]  # the case will say that it is missing
        if stat.S_ISLNK(mode):
            return self._holds(os.path.realpath(path))
        if stat.S_ISDIR(mode):
            with os.scandir(path) as entries:  # of a DICOM series
                return self._known[folder] and all(self._holds(os.path.realpath(entry.path)) for entry in entries)
        return self._known[folder]

    def _holds(self, real: str) -> bool:
        return any(f"{real}/".startswith(f"{root.rstrip('/')}/") for root in self._roots)


def _has_bytes(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def named_inputs(new: NewJob, model: Contribution, roots: Roots, table: Path) -> tuple[str, ...]:
    """The inputs as `mh-hpc submit` takes them; a table is written for cases that were named one by one."""
    objects = [each for each in new.inputs if not isinstance(each, str)]
    plain = [roots.check(each) for each in new.inputs if isinstance(each, str)]
    if not objects:
        return tuple(plain)
    cases = []
    for each in objects:
        _check_keys(each, model)
        cases.append([roots.check(each[spec.key]) for spec in model.inputs])
    _write_table(table, model, [_stem(paths[0]) for paths in cases], cases)
    return (*plain, str(table))


def sent_inputs(new: NewJob, model: Contribution, folder: Path, table: Path) -> tuple[str, ...]:
    """The same for files that were sent, which are saved in that folder under names of ours."""
    by_key = {spec.key: [each for each in new.uploads if each.key == spec.key] for spec in model.inputs}
    _check_keys({each.key: "" for each in new.uploads}, model)
    counts = {key: len(found) for key, found in by_key.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {key}" for key, count in counts.items())
        raise Refused(422, f"Each case needs one file for each input, but there are {told}.")
    places = {key: [str(each.save(folder)) for each in found] for key, found in by_key.items()}
    first = next(iter(by_key.values()))
    cases = [list(paths) for paths in zip(*places.values())]
    _write_table(table, model, [_stem(each.name) for each in first], cases)
    return (str(table),)


def _check_keys(given: Mapping[str, str], model: Contribution) -> None:
    wanted = [spec.key for spec in model.inputs]
    if set(given) != set(wanted):
        raise Refused(422, f"A case of {model.name} has the inputs {', '.join(wanted)}, not {shown(', '.join(given))}.")


def _write_table(table: Path, model: Contribution, names: Sequence[str], cases: Sequence[Sequence[str]]) -> None:
    taken: set[str] = set()
    with open(table, "x", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case_id", *(column_of(spec.key) for spec in model.inputs)])
        for name, paths in zip(names, cases):
            free = next(each for each in _with_numbers(name) if each not in taken)
            taken.add(free)
            writer.writerow([free, *paths])


def _with_numbers(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def _stem(name: str) -> str:
    """What a case is called after its first file.

    >>> _stem("/data/a b.nii.gz"), _stem("x"), _stem("..\\n/")
    ('a b', 'x', 'case')
    """
    base = name.rstrip("/").rpartition("/")[2]
    plain = "".join(c for c in base[: len(base) - len(extension(base))] if c.isprintable())
    return plain.strip(" .") or "case"
