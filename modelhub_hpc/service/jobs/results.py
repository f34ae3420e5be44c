"""What a job has found so far: pages of results, and the files that may be fetched, by names of ours."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import request
from modelhub_hpc.plan import Chunk, Manifest, chunk_table
from modelhub_hpc.record import CaseResult, Output, RunPaths, export, iter_results, write_results_csv
from modelhub_hpc.service.refused import Refused

_TABLES = {"results.csv": "text/csv", "failures.csv": "text/csv", "record.json": "application/json"}
_NPY, _H5 = "application/x-npy", "application/x-hdf5"
_ARRAY = re.compile(r"([0-9]{6,9})-([0-9]{1,4})\.npy")
_CASE = re.compile(r"([0-9]{6,9})\.h5")


@dataclass(frozen=True)
class Page:
    """Results in the order of the manifest; next: the row from which the next page goes on, None after the last."""

    results: tuple[CaseResult, ...]
    next: int | None


@dataclass(frozen=True)
class Download:
    """size: in bytes; parts: of the content, in order."""

    media_type: str
    size: int
    parts: Iterator[bytes]


def page(paths: RunPaths, first: int, limit: int) -> Page:
    """At most so many results, from that row of the manifest on; cases that have none yet are left out."""
    of = request.read(paths)
    chunks = [each for each in chunk_table(paths.chunks_json) or [Chunk(0, 0, 1)] if each.first + each.count > first]
    wanted = (each for each in iter_results(paths, of.run_id, of.plan, chunks) if each.index >= first)
    found = tuple(itertools.islice(wanted, limit + 1))
    return Page(found[:limit], found[limit].index if len(found) > limit else None)


def write_table(paths: RunPaths, first: int, limit: int, target: Path) -> int | None:
    """A CSV of so many cases from that row on, with and without results; the row after them, None at the end."""
    of = request.read(paths)
    manifest = Manifest.open(paths.manifest, paths.manifest_index)
    cases = manifest.cases(first, limit) if first < len(manifest) else []
    results = (each for each in page(paths, first, limit).results if each.index < first + limit)
    write_results_csv(target, cases, results, of.model.outputs, manifest.columns, first)
    return first + limit if first + limit < len(manifest) else None


def facts(result: CaseResult) -> dict[str, Any]:
    """One result for a client; arrays are files of the job."""
    error = result.error
    return {
        "case": result.case_id,
        "index": result.index,
        "status": result.status,
        "outputs": [_output_facts(output, result.index, at) for at, output in enumerate(result.outputs)],
        "seconds": result.seconds,
        "attempts": result.attempts,
        "notes": list(result.notes),
        "error": {"kind": error.kind, "message": error.message} if error else None,
    }


def _output_facts(output: Output, index: int, at: int) -> dict[str, Any]:
    told = {"name": output.name, "type": output.type, "description": output.description, "shape": list(output.shape)}
    if output.dataset is None:
        return {**told, "prediction": output.prediction}
    return {**told, "dtype": output.dtype, "file": f"{index:06d}-{at}.npy"}


def tables(paths: RunPaths) -> list[dict[str, Any]]:
    """The tables that are there, which is when the run's driver has ended."""
    there = [(paths.root / name, kind) for name, kind in _TABLES.items() if (paths.root / name).is_file()]
    return [{"name": path.name, "bytes": path.stat().st_size, "media_type": kind} for path, kind in there]


def files(result: CaseResult) -> Iterator[dict[str, Any]]:
    """The files with the arrays of one case: each alone, and all with what is known of them."""
    arrays = [(at, output) for at, output in enumerate(result.outputs) if output.dataset is not None]
    for at, output in arrays:
        known = {"case": result.case_id, "output": output.name, "shape": list(output.shape), "dtype": output.dtype}
        yield {"name": f"{result.index:06d}-{at}.npy", "media_type": _NPY, **known}
    if arrays:
        yield {"name": f"{result.index:06d}.h5", "media_type": _H5, "case": result.case_id}


def download(paths: RunPaths, name: str, folder: Path) -> Download:
    """One of a job's files. folder: for what has to be made first. Refused (404) if there is none of that name."""
    if name in _TABLES and (paths.root / name).is_file():
        return _of_file(paths.root / name, _TABLES[name])
    if match := _ARRAY.fullmatch(name):
        return _array(paths, int(match[1]), int(match[2]))
    if match := _CASE.fullmatch(name):
        return _case(paths, int(match[1]), folder)
    raise _unknown()


def _array(paths: RunPaths, index: int, at: int) -> Download:
    outputs = _outputs(paths, index)
    if at >= len(outputs) or outputs[at].dataset is None:
        raise _unknown()
    return Download(_NPY, *export.npy(paths, outputs[at]))


def _case(paths: RunPaths, index: int, folder: Path) -> Download:
    outputs = [output for output in _outputs(paths, index) if output.dataset is not None]
    if not outputs:
        raise _unknown()
    target = folder / "arrays.h5"
    export.copy_arrays(paths, outputs, target)
    return _of_file(target, _H5)


def _outputs(paths: RunPaths, index: int) -> tuple[Output, ...]:
    found = page(paths, index, 1).results
    return found[0].outputs if found and found[0].index == index else ()


def _of_file(path: Path, media_type: str) -> Download:
    stream = open(path, "rb")  # closed with the last part, or with the generator
    size = path.stat().st_size

    def parts() -> Iterator[bytes]:
        with stream:
            left = size  # a table may be replaced, not this file
            while left and (part := stream.read(min(left, 2**20))):
                left -= len(part)
                yield part

    return Download(media_type, size, parts())


def _unknown() -> Refused:
    return Refused(404, "The job has no such file.")
