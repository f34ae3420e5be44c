"""Which files a case is made of."""

from __future__ import annotations

import functools
import os

from modelhub_hpc import inputs
from modelhub_hpc.plan.manifest import Case


def files_of(case: Case) -> tuple[str, ...]:
    """What the case is made of, in the order of its inputs; a folder with one series stands for its files."""
    return series_of(case) or tuple(path for _, path in case.inputs)


def series_of(case: Case) -> tuple[str, ...]:
    """The files of a DICOM series that shares its folder with others; () for any other case."""
    uid = dict(case.columns).get("series_uid")
    return _series_in(case.inputs[0][1], uid) if uid and len(case.inputs) == 1 else ()


@functools.lru_cache(maxsize=4)
def _series_in(folder: str, uid: str) -> tuple[str, ...]:
    # every header of the folder is read, and a case needs the answer several times
    return tuple(inputs.series_files(folder, uid)) if os.path.isdir(folder) else ()


def identity_of(case: Case) -> tuple[int, int]:
    """Bytes of its files and their newest time of change in ns, as the manifest has them. Raises InputError."""
    found = [inputs.identity(path) for path in files_of(case)]
    return sum(size for size, _ in found), max(mtime_ns for _, mtime_ns in found)
