"""Where things lie in a run folder, and how a file gets there: whole, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias, Union

from modelhub_hpc.errors import TryAgainError, UnfitError, shown

Json: TypeAlias = Union[None, bool, int, float, str, "list[Json]", "dict[str, Json]"]

PART = ".part"

_log = logging.getLogger(__name__)

_TRY_AGAIN = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ESTALE,
        errno.ENOENT,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
    }
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNFIT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


@dataclass(frozen=True)
class RunPaths:
    """The names of everything in one run folder."""

    root: Path

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.csv"

    @property
    def manifest_index(self) -> Path:
        return self.private / "manifest.npy"

    @property
    def chunks_json(self) -> Path:
        return self.root / "chunks.json"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    def shard(self, chunk: int, generation: int = 0) -> Path:
        """The results of a chunk; generations above 0 hold only the cases that were tried again."""
        suffix = f".g{generation}" if generation else ""
        return self.shards / f"c{chunk:06d}{suffix}.jsonl"

    def arrays(self, chunk: int, attempt: str) -> Path:
        return self.shards / f"c{chunk:06d}.{attempt}.h5"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def quarantine(self) -> Path:
        """Shards that were damaged after they had been published."""
        return self.root / "quarantine"

    @property
    def progress_json(self) -> Path:
        return self.root / "progress.json"

    @property
    def record_json(self) -> Path:
        return self.root / "record.json"

    @property
    def results_csv(self) -> Path:
        return self.root / "results.csv"

    @property
    def failures_csv(self) -> Path:
        return self.root / "failures.csv"

    @property
    def crate_json(self) -> Path:
        """The run folder described as an RO-Crate; with `methods_md` and `citation_bib` made for a publication."""
        return self.root / "ro-crate-metadata.json"

    @property
    def methods_md(self) -> Path:
        return self.root / "methods.md"

    @property
    def citation_bib(self) -> Path:
        return self.root / "CITATION.bib"

    @property
    def inputs_sha256(self) -> Path:
        """sha256 of all input files, where somebody has asked for them."""
        return self.root / "inputs.sha256"

    @property
    def report_html(self) -> Path:
        """A page about the run, where somebody has asked for one."""
        return self.root / "report.html"

    @property
    def private(self) -> Path:
        """Mode 0700: owner records, the manifest's index, the workers' own files."""
        return self.root / ".mh-hpc"

    @property
    def order_json(self) -> Path:
        """What the next driver is asked to do."""
        return self.private / "order.json"

    @property
    def statement_json(self) -> Path:
        """What was stated of the run for its publication."""
        return self.private / "statement.json"

    @property
    def round_json(self) -> Path:
        """The chunks that the present array of jobs has divided among them."""
        return self.private / "round.json"

    @property
    def faults(self) -> Path:
        """Why jobs of an array could not begin, a file each."""
        return self.private / "faults"

    @property
    def jobs(self) -> Path:
        """A file per SLURM job that was submitted for the run, by its id."""
        return self.private / "jobs"

    def careful(self, chunk: int) -> Path:
        """Which case of a chunk is being computed, while that chunk is under suspicion."""
        return self.private / "careful" / f"c{chunk:06d}"

    @property
    def skipped(self) -> Path:
        """One JSON line per thing that lay among the inputs and is no case."""
        return self.root / "skipped.jsonl"

    def owns(self, name: str) -> bool:
        """Whether an entry of the root is there from before run.json was: folders, and files in the making."""
        ours = (self.shards, self.logs, self.quarantine, self.private, self.manifest, self.skipped)
        return name in {path.name for path in ours} or (name.startswith(".") and name.endswith(PART))

    def create(self) -> None:
        """Make the folders that are missing.  Raises TryAgainError or UnfitError."""
        with storage(self.root):
            for folder in (self.root, self.shards, self.logs, self.quarantine):
                folder.mkdir(parents=True, exist_ok=True)
            self.private.mkdir(mode=0o700, exist_ok=True)
            self.private.chmod(0o700)
            for folder in (self.jobs, self.faults, self.careful(0).parent):
                folder.mkdir(exist_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that another process writes; {} where there is none yet, or none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def privately(group_readable: bool = False) -> Iterator[None]:
    """What is made within is for its owner alone, or for the group to read: inputs and results may name people."""
    before = os.umask(0o027 if group_readable else 0o077)
    try:
        yield
    finally:
        os.umask(before)


def token() -> str:
    """A name nobody else has."""
    return secrets.token_hex(8)


@contextlib.contextmanager
def storage(path: Path, need_bytes: int | None = None) -> Iterator[None]:
    """Turn what storage answers into an error a user can act on; need_bytes is what was being written.

    Raises TryAgainError (full, failing or gone) or UnfitError (not allowed); other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _TRY_AGAIN:
            raise TryAgainError(_storage_message(error, path, need_bytes)) from error
        if error.errno in _UNFIT:
            raise UnfitError(f"{shown(path)} cannot be written: {_reason(error)}") from error
        raise


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _storage_message(error: OSError, path: Path, need_bytes: int | None) -> str:
    room = f" ({_free(path)}{_needed(need_bytes)})" if error.errno in _FULL else ""
    return (
        f"{_reason(error)}: {shown(path)}{room}.\n"
        "What is committed stays. Mend the storage, then run the same command again: it continues."
    )


def _free(path: Path) -> str:
    try:
        stat = os.statvfs(path.parent)
    except OSError as error:
        return f"free space unknown: {_reason(error)}"
    return f"{stat.f_bavail * stat.f_frsize / 1e6:.1f} MB free"


def _needed(need_bytes: int | None) -> str:
    return "" if need_bytes is None else f", up to {need_bytes / 1e6:.1f} MB being written"


def dumps(value: object, indent: int | None = None) -> str:
    """Strict JSON in ASCII.  Raises ValueError for NaN and infinities."""
    return json.dumps(value, allow_nan=False, ensure_ascii=True, indent=indent)


def publish_text(path: Path, text: str) -> bool:
    """Publish a whole file once; False if one was there already, which then stays as it is.

    text may hold surrogates from file names: their bytes are written.
    Raises TryAgainError or UnfitError.
    """
    data = text.encode("utf-8", "surrogateescape")
    part = _part_of(path)
    with storage(path, len(data)):
        try:
            write_synced(part, data)
            created = link_first(part, path)
            sync_folder(path.parent)
        finally:
            drop(part)
    return created


def publish_json(path: Path, value: object) -> bool:
    """publish_text() of strict, indented JSON."""
    return publish_text(path, dumps(value, indent=2) + "\n")


def replace_json(path: Path, value: object) -> None:
    """Show new content to readers at once, for files that only inform."""
    with replacing(path) as stream:
        stream.write(dumps(value) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text stream that becomes `path` when the block ends well, and leaves nothing otherwise."""
    with arriving(path) as part:
        with open(part, "x", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            yield stream


@contextlib.contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """Where to make a file that becomes `path` when the block ends well, and leaves nothing otherwise.

    Raises TryAgainError or UnfitError if the storage fails.
    """
    part = _part_of(path)
    with storage(path):
        try:
            yield part
            os.replace(part, path)
        finally:
            drop(part)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{token()}{PART}")


def write_synced(path: Path, *parts: bytes) -> None:
    """Create a file that must not exist yet, and wait until it is on the disk."""
    with io.open(path, "xb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def drop(path: Path) -> None:
    """Remove a file that nothing needs; one that cannot be removed does no harm and is only logged."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("left behind: %s (%s)", shown(path), error)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_first(part: Path, final: Path) -> bool:
    """Give `part` its final name unless that name is taken; the caller unlinks `part`.

    Raises OSError, and UnfitError where the file system has no way to do it.
    """
    try:
        os.link(part, final)
    except OSError as error:
        if _same_file(part, final):  # NFS: the link was made, its answer was lost, the retry met itself
            return True
        if error.errno == errno.EEXIST:
            return False
        if error.errno in _NO_HARD_LINKS:
            return _rename_first(part, final)
        raise
    return True


def _same_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except FileNotFoundError:
        return False


def _rename_first(part: Path, final: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise _no_exclusive_names(final)
    arguments = _AT_FDCWD, os.fsencode(part), _AT_FDCWD, os.fsencode(final), _RENAME_NOREPLACE
    if libc.renameat2(*arguments) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise _no_exclusive_names(final)
    raise OSError(code, os.strerror(code), final)


def _no_exclusive_names(final: Path) -> UnfitError:
    return UnfitError(f"""
        {shown(final.parent)} is on a file system ({_file_system(final.parent)})
        that has neither hard links nor exclusive renames: two processes could overwrite each other's files.
        Choose another file system (--outdir for a run, MH_HPC_CACHE_DIR for images).""")


def _file_system(folder: Path) -> str:
    """The type of the file system that is mounted closest above a folder."""
    path, closest, kind = os.path.realpath(folder), "", "unknown"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split(" ")
            mount = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
            if os.path.commonpath((mount, path)) == mount and len(mount) >= len(closest):
                closest, kind = mount, fields[fields.index("-") + 1]
    return kind
