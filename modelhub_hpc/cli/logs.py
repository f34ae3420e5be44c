"""`mh-hpc logs`: what the driver, the jobs and the models of a run have written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelhub_hpc import request, slurm
from modelhub_hpc.cli.caselog import show_case
from modelhub_hpc.cli.follow import follow_logs
from modelhub_hpc.cli.logfiles import (
    DRIVER,
    LogFile,
    log_facts,
    log_files,
    newest_last,
    of_job,
    says_something,
    show_logs,
)
from modelhub_hpc.cli.output import Voice, number, one_line
from modelhub_hpc.cli.runs import find
from modelhub_hpc.errors import EXIT_DONE, ModelHubError, UsageError
from modelhub_hpc.record import RunPaths
from modelhub_hpc.runs import noted_jobs

LINES = 20
_OTHERS = 10  # logs, besides the driver's, that are shown without being asked for
_NAMED = 12  # jobs that are named where another is not known


def logs(named: Path, case: str | None, job: str | None, follow: bool, lines: int | None, voice: Voice) -> int:
    """Show the run's logs, or those of one case or job; the exit code."""
    paths = find(named)
    some = LINES if lines is None else lines
    if case is not None:
        if job is not None or follow:
            raise UsageError("--case shows what is there: it goes with neither --job nor -f.")
        return show_case(paths, request.read(paths), case, some, voice)
    if follow:
        return follow_logs(paths, request.read(paths), job, some, voice)
    if job is not None:
        _show(paths, _of_job(paths, job), lines, voice)
    else:
        _show_what_matters(paths, some, voice)
    return EXIT_DONE


def _show_what_matters(paths: RunPaths, lines: int, voice: Voice) -> None:
    """What drivers have written, newest last, and the other logs that say more than they always do."""
    files = newest_last(log_files(paths))
    drivers = [file for file in files if file.kind == DRIVER]
    others = [file for file in files if file.kind != DRIVER and says_something(file)]
    _show(paths, [*drivers, *others[-_OTHERS:]], lines, voice)
    _tell_of_silent_driver(paths, drivers, voice)
    if len(others) > _OTHERS:
        voice.warn(f"{number(len(others) - _OTHERS, 'log')} more in {one_line(paths.logs)}; --job ID shows one job's.")


def _show(paths: RunPaths, files: Sequence[LogFile], lines: int | None, voice: Voice) -> None:
    if voice.json:
        voice.answer({"run": str(paths.root), "logs": [log_facts(file, lines) for file in files]})
        return
    show_logs(files, lines)
    if not files:
        voice.warn(f"No log says anything so far in {one_line(paths.logs)}")


def _of_job(paths: RunPaths, job: str) -> list[LogFile]:
    """The logs of a job. Raises UsageError that names those there are."""
    files = log_files(paths)
    found = of_job(files, job)
    if found:
        return found
    known = list(dict.fromkeys(file.job for file in files if file.job))
    some = f"The latest that have: {', '.join(known[-_NAMED:])}." if known else "No job of the run has."
    raise UsageError(f"Job {one_line(job)} has written no log into {one_line(paths.logs)}. {some}")


def _tell_of_silent_driver(paths: RunPaths, drivers: Sequence[LogFile], voice: Voice) -> None:
    """Say what SLURM knows of the last driver's job, if that has not written a word: it may never have begun."""
    jobs = [job for job in noted_jobs(paths) if job.kind == DRIVER]
    if not jobs or jobs[-1].id in {file.job for file in drivers}:
        return
    try:
        job = slurm.look_up(jobs[-1].id)
    except ModelHubError as error:
        voice.warn(f"The driver's job {jobs[-1].id} has no log, and SLURM does not say why: {one_line(error)}")
        return
    known = f"SLURM says: {job.state} ({job.reason})" if job else "SLURM does not know it any more"
    voice.warn(f"The driver's job {jobs[-1].id} has no log. {known}")
