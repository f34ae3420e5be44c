"""`mh-hpc logs -f`: what is being written, until the run ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import click

from modelhub_hpc import config, slurm
from modelhub_hpc.cli.logfiles import DRIVER, SESSION, Growing, LogFile, header, log_files, of_job, tail_position
from modelhub_hpc.cli.output import Voice, many_lines
from modelhub_hpc.errors import EXIT_DONE, EXIT_INTERRUPTED
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runs import Queue, site_now
from modelhub_hpc.runs.look import is_driven

FOLLOW_S = 1.0


def follow_logs(paths: RunPaths, of: RunRequest, job: str | None, lines: int, voice: Voice) -> int:
    """Show what the logs get until the run ends, or until Ctrl-C, of which the run does not hear; the exit code."""
    try:
        _Follower(paths, of, job, voice).follow(lines)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # as after `tail -f` and `docker logs -f`
    return EXIT_DONE


class _Follower:
    """Follows the logs of drivers and jobs, or of a job that was named and of its models.

    Looks at the files again and again: no kernel tells of what another machine writes.
    """

    def __init__(self, paths: RunPaths, of: RunRequest, job: str | None, voice: Voice) -> None:
        self._paths, self._of, self._job, self._voice = paths, of, job, voice
        site = site_now(paths, of)
        self._of_models = not config.on_slurm(site)  # the driver of such a run writes to its terminal
        self._queue = Queue(slurm.job_name(of.run_id), site.poll_s)
        self._growing: dict[Path, Growing] = {}
        self._above: Path | None = None  # the log whose lines were written last

    def follow(self, lines: int) -> None:
        for file in self._files():
            shown = lines if file.kind == DRIVER or self._of_models or self._job else 0
            self._growing[file.path] = Growing(file, tail_position(file.path, shown))
        self._look()
        while is_driven(self._paths, self._of, self._queue):
            time.sleep(FOLLOW_S)
            self._look()
            self._queue.look_again()
        time.sleep(FOLLOW_S)  # the last words of a driver come when it does not drive any more
        self._look()
        for growing in self._growing.values():
            self._write(growing.file, growing.rest())

    def _files(self) -> list[LogFile]:
        files = log_files(self._paths)
        if self._job is not None:
            return of_job(files, self._job)
        return [file for file in files if self._of_models or file.kind != SESSION]

    def _look(self) -> None:
        for file in self._files():
            growing = self._growing.setdefault(file.path, Growing(file))
            self._write(file, growing.lines())

    def _write(self, file: LogFile, lines: Iterable[str]) -> None:
        for line in lines:
            if self._voice.json:
                click.echo(json.dumps({"path": str(file.path), "kind": file.kind, "job": file.job, "line": line}))
                continue
            if self._above != file.path:
                click.echo(header(file) if self._above is None else f"\n{header(file)}")
                self._above = file.path
            click.echo(many_lines(line))
