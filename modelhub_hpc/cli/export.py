"""`mh-hpc export`: the results of a run as files that others read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import Voice, number, one_line, size, voice_of
from modelhub_hpc.errors import EXIT_DONE, EXIT_INVALID, UsageError

if TYPE_CHECKING:
    from modelhub_hpc.export import Summary

# as modelhub_hpc.export has them, which imports much; a test compares
FORMATS = ("nifti", "dicom-seg", "png", "contours", "csv", "parquet", "h5", "json")
LAYOUTS = ("plain", "bids")
_MOST_REASONS = 10


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Where files go.")
@click.option(
    "--format", "formats", multiple=True, required=True, metavar="FORMAT[,...]", help=f"{', '.join(FORMATS)}."
)
@click.option("--layout", type=click.Choice(LAYOUTS), default="plain", show_default=True, help="How files are called.")
@click.option("--case", "cases", multiple=True, metavar="ID", help="Only this case; may be repeated.")
@click.option("--output", "outputs", multiple=True, metavar="NAME", help="Only this output; may be repeated.")
@click.option("--force", is_flag=True, help="Write files again that are there and current.")
@json_option
def export(
    run: Path,
    folder: Path,
    formats: tuple[str, ...],
    layout: str,
    cases: tuple[str, ...],
    outputs: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> int:
    """Write the results of RUN, a folder or an id, into DIR in one or more formats; finished or not.

    The same command again goes on: files that are there and current are kept, tables are made anew. Cases that failed
    are rows of the tables, and no error here. Exit code 4 where a format has no file since all outputs were refused.
    """
    from modelhub_hpc.cli.progress import counting
    from modelhub_hpc.cli.runs import find
    from modelhub_hpc.export import Wanted, export
    from modelhub_hpc.runs import reading

    voice, given = voice_of(as_json), reading.read(find(run).root)
    wanted = Wanted(_formats(formats), layout, frozenset(cases), frozenset(outputs), force)
    target = folder.absolute()
    with counting(voice, "Exporting cases", len(cases) or given.request.cases) as observe:
        summary = export(given, target, wanted, lambda so_far: observe(so_far.cases))
    if voice.json:
        voice.answer({"run": str(given.paths.root), "to": str(target), **summary.to_json()})
    _tell(summary, target, voice)
    return EXIT_INVALID if summary.barren else EXIT_DONE


def _formats(given: Sequence[str]) -> tuple[str, ...]:
    """Those that were asked for, in the order of FORMATS, however they were given."""
    asked = {name.strip() for text in given for name in text.split(",")}
    unknown = sorted(asked - set(FORMATS))
    if unknown:
        raise UsageError(f"--format {one_line(unknown[0])}: there is no such format. There are {', '.join(FORMATS)}.")
    return tuple(name for name in FORMATS if name in asked)


def _tell(summary: Summary, target: Path, voice: Voice) -> None:
    kept, written = sum(summary.kept.values()), sum(summary.written.values())
    before = f", {kept:,} were there" if kept else ""
    voice.say(f"{one_line(target)}: {number(written, 'file')} ({size(summary.bytes)}){before}")
    failed = f", {summary.failed:,} failed" if summary.failed else ""
    pending = f", {summary.pending:,} without a result yet" if summary.pending else ""
    voice.say(f"{number(summary.done, 'case')} done{failed}{pending}")
    for (kind, output, reason), count in summary.empty.most_common(_MOST_REASONS):
        voice.say(f"  {one_line(output)} as {kind}, {number(count, 'case')} without a file: {one_line(reason)}")
    for (kind, output, reason), count in summary.left_out.most_common(_MOST_REASONS):
        voice.warn(f"  {one_line(output)} as {kind}, {number(count, 'case')} left out: {one_line(reason)}")
    if summary.left_out:
        voice.warn(f"  left_out.csv in {one_line(target)} names the cases.")
    for kind in summary.barren:
        voice.warn(f"There is no file in the format {kind}.")
