"""The commands for runs that have begun, and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelhub_hpc.cli.options import FOR_RUNS, json_option, site_flags, site_options
from modelhub_hpc.cli.output import voice_of
from modelhub_hpc.errors import UsageError

# what a command needs is imported when it runs, so that --help and completion are quick

_path = click.Path(path_type=Path)
_run = click.argument("run", type=_path)
_wait = click.option("--wait", is_flag=True, help="SLURM: follow the run until it ends; Ctrl-C leaves it alone.")


@click.command()
@click.argument("run", type=_path, required=False)
@click.option("--in", "folder", type=_path, metavar="FOLDER", help="Without RUN: where runs lie. Default ./runs.")
@click.option("--watch", is_flag=True, help="Go on until nobody drives it any more; on a terminal in place.")
@json_option
def status(run: Path | None, folder: Path | None, watch: bool, as_json: bool) -> int:
    """Show how RUN stands, or all runs in a table; works while they run.

    RUN is the folder of a run, or its id if it lies in ./runs or has jobs in SLURM's queue.
    """
    from modelhub_hpc.cli.overview import overview
    from modelhub_hpc.cli.runs import RUNS
    from modelhub_hpc.cli.status import status

    if run is None:
        return overview(folder or RUNS, folder is not None, watch, voice_of(as_json))
    if folder is not None:
        raise click.UsageError("RUN and --in exclude each other.")
    return status(run, watch, voice_of(as_json))


@click.command()
@_run
@click.option("--csv", metavar="FILE|-", help="Write a CSV table; - is stdout.")
@click.option("--failed", is_flag=True, help="Only failed cases.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most N of them.")
@json_option
def results(run: Path, csv: str | None, failed: bool, limit: int | None, as_json: bool) -> int:
    """Show the results of RUN, a folder or an id: a table, or with --json an array with one object per case."""
    from modelhub_hpc.cli.results import results
    from modelhub_hpc.cli.runs import find

    if csv is not None and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    return results(find(run).root, csv, failed, limit, voice_of(as_json))


@click.command()
@_run
@click.option("--case", metavar="ID", help="Where a case was computed, what became of it, and the logs of that.")
@click.option("--job", metavar="ID", help="All that a SLURM job has written; 12_3 is a task of an array.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends, or Ctrl-C (exit code 130).")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Last lines of each log. Default 20.")
@json_option
def logs(run: Path, case: str | None, job: str | None, follow: bool, lines: int | None, as_json: bool) -> int:
    """Show what the driver of RUN has written, a folder or an id, and the logs of jobs and models that say something.

    With --job and without -n all of its log.
    """
    from modelhub_hpc.cli.logs import logs

    return logs(run, case, job, follow, lines, voice_of(as_json))


@click.command()
@click.argument("runs", type=_path, nargs=-1, required=True, metavar="RUN...")
@json_option
def cancel(runs: tuple[Path, ...], as_json: bool) -> int:
    """End the driver and all jobs of each RUN, a folder or an id. What is done stays, and `resume` goes on.

    A run on this machine finishes the chunks in flight; told a second time, it ends at once.
    """
    from modelhub_hpc.cli.cancel import cancel

    return cancel(runs, voice_of(as_json))


@click.command()
@_run
@_wait
@json_option
@site_options(FOR_RUNS)
def resume(run: Path, wait: bool, as_json: bool, **given: Any) -> int:
    """Go on with RUN, a folder or an id: it keeps its options, but for those that are given again."""
    return _go_on(run, False, wait, as_json, given)


@click.command()
@_run
@click.option("--failed", is_flag=True, help="Say that it is the failed cases that you mean.")
@_wait
@json_option
@site_options(FOR_RUNS)
def retry(run: Path, failed: bool, wait: bool, as_json: bool, **given: Any) -> int:
    """Try the failed cases of RUN again, a folder or an id, and compute what is missing."""
    if not failed:
        raise UsageError("Say what to try again:  mh-hpc retry RUN --failed\nFor what is missing:    mh-hpc resume RUN")
    return _go_on(run, True, wait, as_json, given)


def _go_on(run: Path, again: bool, wait: bool, as_json: bool, given: dict[str, Any]) -> int:
    from modelhub_hpc.cli.runs import find
    from modelhub_hpc.cli.submit import Submission, submit

    wanted = Submission(
        model=None,
        inputs=(),
        outdir=find(run).root,
        image=None,
        resume=True,
        retry_failed=again,
        fail_fast=False,
        dry_run=False,
        plan_only=False,
        wait=wait,
        flags=site_flags(given),
        command="",
    )
    return submit(wanted, voice_of(as_json))


RUN_COMMANDS = (status, results, logs, cancel, resume, retry)
