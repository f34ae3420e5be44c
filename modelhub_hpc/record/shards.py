"""Shards: the results of a chunk, published whole and first-wins, and read back only if they verify.

A case is done if and only if a complete, verified shard holds it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import TryAgainError, shown
from modelhub_hpc.record.hdf5 import ArrayOutput, ArrayStore, check_storable
from modelhub_hpc.record.results import CaseResult, LabelTables, Output
from modelhub_hpc.runfolder import (
    PART,
    Json,
    RunPaths,
    drop,
    dumps,
    link_first,
    storage,
    sync_folder,
    token,
    write_synced,
)

FORMAT = 2
_READABLE = (1, FORMAT)  # 1: without tables of labels
PENDING, DONE, FAILED = 0, 1, 2

_SHARD_NAME = re.compile(r"c(\d{6,})(?:\.g([1-9]\d*))?\.jsonl")
_CASE_STATUS = re.compile(rb'\n\{"index": (\d+), "status": "(done|failed)"')

_log = logging.getLogger(__name__)


class ShardInvalid(ValueError):
    """A shard that cannot be trusted; the text says what is wrong with it."""


@dataclass(frozen=True)
class Shard:
    chunk: int
    generation: int
    attempt: str
    arrays_file: str | None
    results: tuple[CaseResult, ...]


def _no_fault(step: str) -> None:
    """Nothing goes wrong at this step."""


@dataclass
class ShardWriter:
    """One attempt at one chunk: collect results, then publish them all or none.

    Use as a context manager: what was not published leaves nothing behind.
    `by` says who computed them, and is asked when they are published.
    `fault` is called with the name of each step of publish(), so that a test can end the process there.
    """

    paths: RunPaths
    run_id: str
    plan_digest: str
    chunk: int
    generation: int = 0
    attempt: str = field(default_factory=token)
    by: Callable[[], Mapping[str, Json]] = dict
    fault: Callable[[str], None] = _no_fault

    def __post_init__(self) -> None:
        self.final = self.paths.shard(self.chunk, self.generation)
        self._part = self.final.with_name(f".{self.final.name}.{self.attempt}{PART}")
        self._arrays: ArrayStore | None = None
        self._tables = LabelTables()
        self._lines: list[bytes] = []
        self._indexes: set[int] = set()
        self._published = False

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, result: CaseResult, arrays: Mapping[str, ArrayOutput] | None = None) -> CaseResult:
        """Take one result; arrays by output name.  Returns the result as it will be published.

        An output of that name gets its `dataset`, `dtype` and `shape`; one that is missing is appended.
        Raises ValueError if the result or an array cannot be stored (nothing is taken then), and
        TryAgainError if the storage fails (the writer is closed then).
        """
        if result.index in self._indexes:
            raise ValueError(f"chunk {self.chunk} already has a result for case {result.index}")
        line = result.to_json(self._tables)
        if arrays:
            for output in arrays.values():
                check_storable(output.array)
            result = self._store(result, arrays)
            line = result.to_json(self._tables)
        self._lines.append(f"{line}\n".encode("ascii"))
        self._indexes.add(result.index)
        return result

    def publish(self) -> bool:
        """Make the results visible; False if another attempt had published them before.

        Raises TryAgainError or UnfitError if the storage fails.  The writer is closed in any case.
        """
        try:
            with storage(self.final, sum(map(len, self._lines))):
                return self._publish()
        finally:
            self.close()

    def close(self) -> None:
        """Remove what is not part of a published shard."""
        drop(self._part)
        if self._arrays is not None and not self._published:
            self._arrays.discard()
        self._arrays = None

    def _store(self, result: CaseResult, arrays: Mapping[str, ArrayOutput]) -> CaseResult:
        path = self.paths.arrays(self.chunk, self.attempt)
        outputs = list(result.outputs)
        try:
            for name, output in arrays.items():
                with storage(path, output.array.nbytes):
                    self._arrays = self._arrays or ArrayStore(path)
                    place = self._arrays.add(result.case_id, name, output)
                _set_output(outputs, name, output, f"{path.name}:{place}")
        except BaseException:
            self.close()
            raise
        return replace(result, outputs=tuple(outputs))

    def _publish(self) -> bool:
        self.fault("before-close")
        arrays = self._finish_arrays()
        self.fault("after-close")
        write_synced(self._part, *self._content(arrays))
        self.fault("before-link")
        if not self._link():
            return False
        self._published = True
        self.fault("after-link")
        sync_folder(self.final.parent)
        self.fault("after-dirsync")
        return True

    def _finish_arrays(self) -> dict[str, Any] | None:
        if self._arrays is None:
            return None
        size, digest = self._arrays.finish()
        return {"file": self._arrays.path.name, "bytes": size, "sha256": digest}

    def _content(self, arrays: dict[str, Any] | None) -> list[bytes]:
        header = dumps(
            {
                "format": FORMAT,
                "run_id": self.run_id,
                "plan": self.plan_digest,
                "chunk": self.chunk,
                "generation": self.generation,
                "attempt": self.attempt,
                "by": dict(self.by()),
                "tables": list(self._tables.tables),
                "arrays": arrays,
            }
        )
        lines = [f"{header}\n".encode("ascii"), *self._lines]  # never put together: they may be many megabytes
        digest = hashlib.sha256()
        for line in lines:
            digest.update(line)
        last = dumps({"cases": len(self._lines), "sha256": digest.hexdigest()})
        return [*lines, f"{last}\n".encode("ascii")]

    def _link(self) -> bool:
        """First wins, unless what is there is damaged."""
        for _ in range(3):
            if link_first(self._part, self.final):
                return True
            seen = identity(self.final)
            try:
                verified(self.final, self.run_id, self.plan_digest)
                return False
            except ShardInvalid as damage:
                set_aside(self.paths, self.final, seen, str(damage))
        raise TryAgainError(f"{shown(self.final)} is damaged each time it is written: check the storage.")


def _set_output(outputs: list[Output], name: str, stored: ArrayOutput, dataset: str) -> None:
    array = stored.array
    new = Output(name, stored.type, stored.description, array.shape, None, dataset, str(array.dtype))
    for position, output in enumerate(outputs):
        if output.name == name and output.dataset is None:
            outputs[position] = new
            return
    outputs.append(new)


@dataclass(frozen=True)
class Verified:
    chunk: int
    generation: int
    attempt: str
    arrays_file: str | None
    cases: int
    tables: LabelTables
    body: bytes

    def statuses(self) -> dict[int, int]:
        """DONE or FAILED of each case, by its row of the manifest, without parsing the rest.

        Raises ShardInvalid if a line is no result, or two are of one case.
        """
        found = _CASE_STATUS.findall(b"\n" + self.body)
        of_rows = {int(index): DONE if status == b"done" else FAILED for index, status in found}
        if not len(found) == len(of_rows) == self.cases:
            raise ShardInvalid("a result in it has another form, or is there twice")
        return of_rows


def read_shard(path: Path, run_id: str, plan_digest: str, verify_arrays: bool = True) -> Shard:
    """A shard and its results, in the order they were added.

    verify_arrays: compute the digest of its arrays file too, not only look at its size.
    Raises ShardInvalid, and OSError if the storage fails.
    """
    found = verified(path, run_id, plan_digest, verify_arrays)
    try:
        results = tuple(CaseResult.from_json(line, found.tables) for line in found.body.splitlines())
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ShardInvalid(f"a result in it has another form ({error!r})") from error
    return Shard(found.chunk, found.generation, found.attempt, found.arrays_file, results)


def maker(path: Path) -> dict[str, Any]:
    """Who computed a shard, as its first line says; {} if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            found: dict[str, Any] = json.loads(stream.readline()).get("by", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def verified(path: Path, run_id: str, plan_digest: str, verify_arrays: bool = True) -> Verified:
    """A shard of which everything is sound but the meaning of its result lines, which is not looked at.

    Raises ShardInvalid, and OSError if the storage fails.
    """
    header, cases, body = _split(_read(path))
    if (header.get("run_id"), header.get("plan")) != (run_id, plan_digest):
        raise ShardInvalid(f"it belongs to another run or plan ({header.get('run_id')!r})")
    try:
        chunk, generation, attempt = int(header["chunk"]), int(header["generation"]), str(header["attempt"])
        tables = LabelTables(header.get("tables", ()))
        arrays_file = _verify_arrays(path.parent, header["arrays"], verify_arrays)
    except (KeyError, TypeError) as error:
        raise ShardInvalid(f"its header has another form ({error!r})") from error
    if RunPaths(path.parent.parent).shard(chunk, generation) != path:
        raise ShardInvalid(f"it holds chunk {chunk}, generation {generation}, under a wrong name")
    return Verified(chunk, generation, attempt, arrays_file, cases, tables, body)


def _read(path: Path) -> bytes:
    for last_try in (False, True):
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ShardInvalid("it is missing") from error
        except OSError as error:
            # NFS: the server replaced the folder under our handle; opening the name again finds it.
            if error.errno != errno.ESTALE or last_try:
                raise
    raise AssertionError("unreachable")


def _split(data: bytes) -> tuple[dict[str, Any], int, bytes]:
    """The header, the number of case lines and these lines of an intact shard."""
    cut = data.rfind(b"\n", 0, -1) + 1
    try:
        first_line, last = json.loads(data[: data.find(b"\n") + 1]), json.loads(data[cut:])
        expected = last["cases"], last["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardInvalid("it is truncated or damaged: its first or last line cannot be read") from error
    found = data.count(b"\n") - 2, hashlib.sha256(data[:cut]).hexdigest()
    if not data.endswith(b"\n") or expected != found:
        raise ShardInvalid("it is damaged: its content does not have the digest it was written with")
    if first_line.get("format") not in _READABLE:
        raise ShardInvalid(f"it has format {first_line.get('format')!r}, not {FORMAT}")
    return first_line, found[0], data[data.find(b"\n") + 1 : cut]


def _verify_arrays(folder: Path, arrays: dict[str, Any] | None, with_digest: bool) -> str | None:
    if arrays is None:
        return None
    path = folder / os.path.basename(str(arrays["file"]))
    try:
        size = path.stat().st_size
        digest = file_digest(path) if with_digest and size == arrays["bytes"] else arrays["sha256"]
    except FileNotFoundError as error:
        raise ShardInvalid(f"its arrays file {path.name} is missing") from error
    if (size, digest) != (arrays["bytes"], arrays["sha256"]):
        raise ShardInvalid(f"its arrays file {path.name} has changed")
    return path.name


def identity(path: Path) -> tuple[int, int, int] | None:
    """Which file this is: inode, size and time of its last change; None if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def set_aside(paths: RunPaths, path: Path, seen: tuple[int, int, int] | None, reason: str) -> None:
    """Move a damaged shard away; another file that took its place since it was `seen` is put back."""
    target = paths.quarantine / f"{path.name}.{token()}"
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return
    if identity(target) == seen:
        _log.warning(
            "%s is not used: %s. Moved to %s; its cases run again.", path.name, reason, shown(target)
        )
        return
    link_first(target, path)
    drop(target)


def listing(paths: RunPaths) -> list[tuple[int, int]]:
    """(chunk, generation) of every shard there is, ascending."""
    with os.scandir(paths.shards) as entries:
        matches = [_SHARD_NAME.fullmatch(entry.name) for entry in entries]
    return sorted((int(match[1]), int(match[2] or 0)) for match in matches if match)


def arrays_of(path: Path) -> str | None:
    """The name of the arrays file of a shard.  Raises ShardInvalid if it does not say, and OSError."""
    with io.open(path, "rb") as stream:
        line = stream.readline()
    try:
        arrays = json.loads(line)["arrays"]
        return None if arrays is None else str(arrays["file"])
    except (ValueError, KeyError, TypeError) as error:
        raise ShardInvalid(f"the header of {path.name} cannot be read") from error
