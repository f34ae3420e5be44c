"""The log files of a run: which there are, whose they are, and how they are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from modelhub_hpc.cli.output import many_lines, one_line
from modelhub_hpc.record import RunPaths
from modelhub_hpc.runs import NotedJob, noted_jobs

DRIVER, WORKER, ARRAY, JOB, SESSION = "driver", "worker", "array", "job", "session"

_OF_JOB = re.compile(r"slurm-([0-9]+)\.out")
_OF_SESSION = re.compile(r"session-.*?(?:-job([0-9]+))?-[0-9]+-[0-9]+\.log")
_BLOCK = 1 << 16
_JUDGED = 1 << 18  # bytes at the end of a log by which it is judged
_DULL = re.compile(r" INFO |^\s*$")


@dataclass(frozen=True)
class LogFile:
    """kind: whose it is; job: id of the SLURM job in which it was written; array: id of the array of which that is."""

    path: Path
    kind: str
    job: str | None = None
    array: str | None = None


def log_files(paths: RunPaths) -> list[LogFile]:
    """The logs of a run, in the order of their names, job numbers as numbers."""
    jobs = noted_jobs(paths)
    try:
        names = os.listdir(paths.logs)
    except OSError:
        names = []
    found = (_log_file(paths.logs / name, jobs) for name in names)
    return sorted((each for each in found if each), key=lambda each: (int(each.job or 0), each.path.name))


def _log_file(path: Path, jobs: Sequence[NotedJob]) -> LogFile | None:
    if match := _OF_JOB.fullmatch(path.name):
        kinds = {job.id: job.kind for job in jobs}
        array = _array_of(match[1], jobs)
        return LogFile(path, ARRAY if array else kinds.get(match[1], JOB), match[1], array)
    if match := _OF_SESSION.fullmatch(path.name):
        return LogFile(path, SESSION, match[1], _array_of(match[1], jobs) if match[1] else None)
    if path.name.startswith("driver-") and path.suffix == ".log":
        return LogFile(path, DRIVER)
    return None


def _array_of(job_id: str, jobs: Sequence[NotedJob]) -> str | None:
    """The array of a job whose number is not one that sbatch has told: its tasks get theirs when they start."""
    told = next((job for job in jobs if job.id == job_id), None)
    if told is not None:
        return job_id if told.kind == ARRAY else None
    before = [job.id for job in jobs if job.kind == ARRAY and job.id.isdigit() and int(job.id) <= int(job_id)]
    return max(before, key=int, default=None)


def of_job(files: Sequence[LogFile], job: str) -> list[LogFile]:
    """The logs that were written in a job, in an array ("12"), or in one of its tasks ("12_3")."""
    array, _, task = job.partition("_")
    if not task:
        return [file for file in files if job in (file.job, file.array)]
    # the first words of each task say which it is
    said = re.compile(rf"-[0-9]+_{re.escape(task)}(-[0-9]+)? on ")
    tasks = (file for file in files if file.array == array and file.kind != SESSION)
    jobs = {file.job for file in tasks if any(said.search(line) for line in end_of(file.path))}
    return [file for file in files if file.job in jobs]


def newest_last(files: Sequence[LogFile]) -> list[LogFile]:
    return sorted(files, key=lambda each: (_written(each.path), each.path.name))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def tail_position(path: Path, count: int) -> int:
    """Where the last lines of a log begin; 0 for one that cannot be read."""
    try:
        with open(path, "rb") as stream:
            position, data = stream.seek(0, os.SEEK_END), b""
            while count and position and data[:-1].count(b"\n") < count:
                step = min(_BLOCK, position)
                position = stream.seek(position - step)
                data = stream.read(step) + data
    except OSError:
        return 0
    ends = [match.start() for match in re.finditer(b"\n", data[:-1])]
    return position + (ends[-count] + 1 if count and len(ends) >= count else 0)


def last_lines(path: Path, count: int | None) -> list[str]:
    """The last lines of a log, all of them for None; [] for one that cannot be read."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0 if count is None else tail_position(path, count))
            return _lines(stream.read())
    except OSError:
        return []


def end_of(path: Path) -> list[str]:
    """The lines in the last part of a log."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _JUDGED))
            return _lines(stream.read())
    except OSError:
        return []


def _lines(data: bytes) -> list[str]:
    lines = data.decode(errors="replace").split("\n")
    return lines if lines[-1] else lines[:-1]


def says_something(file: LogFile) -> bool:
    """Whether there is more in a log than what every job writes."""
    return any(not _DULL.search(line) for line in end_of(file.path))


def header(file: LogFile) -> str:
    """The line above a log, as `tail` writes it."""
    whose = f"{file.kind}, job {file.job}" if file.job else file.kind
    return f"==> {one_line(file.path)} <== ({whose})"


def show_logs(files: Sequence[LogFile], lines: int | None) -> None:
    """The last lines of these logs, all for None, each log below its name."""
    for index, file in enumerate(files):
        click.echo(header(file) if not index else f"\n{header(file)}")
        for line in last_lines(file.path, lines):
            click.echo(many_lines(line))


def log_facts(file: LogFile, lines: int | None) -> dict[str, Any]:
    return {"path": str(file.path), "kind": file.kind, "job": file.job, "lines": last_lines(file.path, lines)}


@dataclass
class Growing:
    """A log that is being written. position: of the first byte that was not given yet."""

    file: LogFile
    position: int = 0
    _begun: bytes = field(default=b"", repr=False)

    def lines(self) -> Iterator[str]:
        """The lines that were completed since the last call."""
        *whole, self._begun = (self._begun + self._news()).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)

    def rest(self) -> Iterator[str]:
        """The last line, if it has no end."""
        if self._begun:
            yield self._begun.decode(errors="replace")
            self._begun = b""

    def _news(self) -> bytes:
        try:
            if self.file.path.stat().st_size <= self.position:
                return b""
            with open(self.file.path, "rb") as stream:
                stream.seek(self.position)
                data = stream.read()
        except OSError:
            return b""  # not there yet, or no more
        self.position += len(data)
        return data
