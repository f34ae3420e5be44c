"""inputs.sha256: the digest of every input file of a run, as `sha256sum --check` reads it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InputError
from modelhub_hpc.plan.files import files_of, identity_of
from modelhub_hpc.plan.manifest import Case, Manifest
from modelhub_hpc.runfolder import RunPaths, drop, replacing, storage

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True)
class Hashed:
    """files: lines of inputs.sha256; left_out: cases whose inputs are gone or not those of the run, with the reason."""

    files: int
    left_out: tuple[tuple[str, str], ...]


def hash_inputs(paths: RunPaths, manifest: Manifest, observe: Callable[[int], None]) -> Hashed:
    """Write inputs.sha256; where it was interrupted, the next call goes on. observe: told how many cases are done.

    Raises TryAgainError or UnfitError if the storage of the run fails.
    """
    work = paths.private / "hashing.jsonl"
    with storage(work):
        with open(work, "a+b") as stream:
            done = _whole_lines(stream)
            for number, case in enumerate(manifest.stream()):
                if number >= done:
                    stream.write(json.dumps(_digests(case)).encode() + b"\n")
                    stream.flush()
                    observe(number + 1)
    found = _publish(work, paths.inputs_sha256)
    drop(work)
    return found


def _whole_lines(stream: IO[bytes]) -> int:
    """How many cases were done before; a line that was not finished goes."""
    stream.seek(0)
    count = size = 0
    for line in stream:
        if line.endswith(b"\n"):
            count, size = count + 1, size + len(line)
    stream.truncate(size)
    return count


def _digests(case: Case) -> dict[str, Any]:
    """The digests of a case's files, or why there are none."""
    try:
        _require_same(case)
        files = [(path, _digest(path)) for named in files_of(case) for path in files_in(named)]
        _require_same(case)  # which nobody changed meanwhile
    except InputError as error:
        return {"case": case.id, "why": error.kind}
    except OSError as error:
        return {"case": case.id, "why": error.strerror or "unreadable"}
    return {"case": case.id, "files": files}


def _require_same(case: Case) -> None:
    if identity_of(case) != (case.input_bytes, case.input_mtime_ns):
        raise InputError("changed", case.id)


def files_in(path: str) -> list[str]:
    """A folder is an input for the files in it."""
    if not os.path.isdir(path):
        return [path]
    with os.scandir(path) as entries:
        return sorted(entry.path for entry in entries if entry.is_file())


@functools.lru_cache(maxsize=1024)
def _digest(path: str) -> str:
    # an atlas may be an input of every case
    return file_digest(Path(path))


def _publish(work: Path, target: Path) -> Hashed:
    files, left_out = 0, list[tuple[str, str]]()
    with open(work, "rb") as stream, replacing(target) as text:
        for case in map(json.loads, stream):
            if "why" in case:
                left_out.append((case["case"], case["why"]))
            for path, digest in case.get("files", ()):
                text.write(line(digest, path))
                files += 1
    return Hashed(files, tuple(left_out))


def line(digest: str, path: str) -> str:
    r"""A line of sha256sum, which marks a name that it had to escape with a backslash before all.

    >>> print(line("12ab", "/a b") + line("12ab", "/a\nb"), end="")
    12ab  /a b
    \12ab  /a\nb
    """
    escaped = path.translate(_ESCAPES)
    return f"{'' if escaped == path else chr(92)}{digest}  {escaped}\n"


def read(paths: RunPaths) -> Iterator[tuple[str, str]]:
    """(path, digest) of every line of inputs.sha256; nothing where there is none."""
    if not paths.inputs_sha256.exists():
        return
    with open(paths.inputs_sha256, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        for text in stream:
            digest, _, path = text.removesuffix("\n").partition("  ")
            if digest.startswith("\\"):
                digest, path = digest[1:], _unescaped(path)
            yield path, digest


def _unescaped(path: str) -> str:
    """
    >>> _unescaped(r"a\\nb\\\\n")
    'a\\nb\\\\n'
    """
    parts = path.split("\\\\")
    return "\\".join(part.replace("\\n", "\n").replace("\\r", "\r") for part in parts)
