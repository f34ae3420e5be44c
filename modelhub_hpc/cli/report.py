"""`mh-hpc report`: a run as one page to look at."""

from __future__ import annotations

from pathlib import Path

import click

from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import number, one_line, size, voice_of
from modelhub_hpc.errors import UsageError

_SAMPLE = 60


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Path(path_type=Path), metavar="FILE", help="Default: RUN/report.html.")
@click.option(
    "--sample", type=click.IntRange(0, 2000), default=_SAMPLE, show_default=True, metavar="N",
    help="How many cases have pictures; half of them are those that stand out.",
)  # fmt: skip
@json_option
def report(run: Path, target: Path | None, sample: int, as_json: bool) -> int:
    """Write a page about RUN, a folder or an id: failures with evidence, what stands out, time, cost, origin.

    It is one file that reaches no network. Figures are of all cases; pictures are of a sample.
    """
    from modelhub_hpc import report as reports
    from modelhub_hpc.cli.progress import counting
    from modelhub_hpc.cli.runs import find
    from modelhub_hpc.report.survey import FLAGS
    from modelhub_hpc.runs import reading

    voice = voice_of(as_json)
    given = reading.read(find(run).root)
    path = target.absolute() if target else given.paths.report_html
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--to {one_line(target)}: not a file in a folder that exists.")
    with counting(voice, "Looking at results", given.request.cases) as observe:
        made = reports.write(given, path, sample, observe)
    found = made.survey
    failed, odd = found.tally.failed - found.quarantined, {kind: found.flagged[kind] for kind in FLAGS}
    if as_json:
        counts = {"cases": found.tally.cases, "done": found.tally.done, "failed": failed}
        counts |= {"quarantined": found.quarantined, "pending": found.tally.pending}
        voice.answer({"report": str(path), "bytes": made.bytes, "pictures": made.shown, **counts, "flagged": odd})
        return 0
    voice.say(f"{one_line(path)} ({size(made.bytes)}, pictures of {number(made.shown, 'case')})")
    voice.say(f"{number(found.tally.done, 'case')} done, {failed:,} failed, {found.quarantined:,} quarantined")
    for kind, count in odd.items():
        if count:
            voice.say(f"{FLAGS[kind]}: {number(count, 'case')}")
    return 0
