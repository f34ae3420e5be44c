"""`mh-hpc diff`: whether two runs have found the same, and where they have not."""

from __future__ import annotations

import csv as tables
import heapq
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import Voice, number, one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES

if TYPE_CHECKING:
    from modelhub_hpc.evaluation.differences import CaseDifference, Summary
    from modelhub_hpc.evaluation.outputs import OutputDifference, Tolerance
    from modelhub_hpc.runs.reading import Reading

_path = click.Path(path_type=Path)
_FACTS = ("model", "version", "model digest", "image", "software", "engine", "manifest")
_CELL = 100
_DIGITS = 24  # of digests in people's tables


@click.command()
@click.argument("first", type=_path, metavar="RUN1")
@click.argument("second", type=_path, metavar="RUN2")
@click.option("--rtol", type=click.FloatRange(min=0), default=1e-5, show_default=True, help="Relative tolerance.")
@click.option("--atol", type=click.FloatRange(min=0), default=1e-8, show_default=True, help="Absolute tolerance.")
@click.option("--case", metavar="ID", default="", help="Only this case.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, metavar="N", help="Cases to show, the worst first. Default 20."
)
@click.option("--csv", metavar="FILE|-", help="Write a row for every case and output; - is stdout.")
@json_option
def diff(
    first: Path, second: Path, rtol: float, atol: float, case: str, limit: int, csv: str | None, as_json: bool
) -> int:
    """Compare the results of RUN1 and RUN2, folders or ids, case by case.

    Exit code 0 if nothing differs by more than the tolerance, 3 if something does. Numbers a and b are close where
    |a - b| <= atol + rtol * max(|a|, |b|); NaN equals NaN; whole numbers of arrays have to be equal.
    """
    from modelhub_hpc.cli.runs import find
    from modelhub_hpc.evaluation.differences import Summary, differences
    from modelhub_hpc.evaluation.outputs import Tolerance
    from modelhub_hpc.runs import reading

    if csv == "-" and as_json:
        raise click.UsageError("--csv - and --json exclude each other.")
    voice = voice_of(as_json or csv == "-")
    runs = [reading.read(find(each).root) for each in (first, second)]
    tolerance, summary = Tolerance(rtol, atol), Summary()
    found = summary.passing(differences(runs[0], runs[1], tolerance, case))
    shown = _worst(_written(found, csv), limit)
    if as_json:
        voice.answer(_facts(runs, tolerance, summary, shown))
    _tell(runs, tolerance, summary, shown, voice)
    return EXIT_DONE if summary.same else EXIT_FAILED_CASES


def _worst(found: Iterable[CaseDifference], limit: int) -> list[CaseDifference]:
    """The cases that differ most, the worst first; all others pass by."""
    from modelhub_hpc.evaluation.differences import severity
    from modelhub_hpc.evaluation.outputs import Verdict

    # one is always kept, so that everything passes by
    different = (case for case in found if case.verdict is Verdict.DIFFERENT)
    return heapq.nlargest(max(limit, 1), different, severity)[:limit]


def _written(found: Iterable[CaseDifference], csv: str | None) -> Iterator[CaseDifference]:
    """The same cases, each written to the table once it comes by."""
    from modelhub_hpc.errors import UsageError
    from modelhub_hpc.runfolder import replacing

    if csv is None:
        yield from found
    elif csv == "-":
        yield from _rows(found, sys.stdout)
    else:
        path = Path(csv).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"--csv {one_line(csv)}: not a file in a folder that exists.")
        with replacing(path) as stream:
            yield from _rows(found, stream)


def _rows(found: Iterable[CaseDifference], stream: TextIO) -> Iterator[CaseDifference]:
    from modelhub_hpc.evaluation.differences import COLUMNS, columns

    writer = tables.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for case in found:
        writer.writerows(columns(case))
        yield case


def _of_run(run: Reading) -> tuple[str, ...]:
    request = run.request
    image = request.image.sha256 if request.image else "none"
    model = request.model
    return model.name, model.version, model.digest, image, request.software, request.engine, request.plan


def _facts(
    runs: Sequence[Reading], tolerance: Tolerance, summary: Summary, shown: Sequence[CaseDifference]
) -> dict[str, Any]:
    names = [name.replace(" ", "_") for name in _FACTS]
    told = [dict(zip(names, _of_run(run))) for run in runs]
    return {
        "same": summary.same,
        "rtol": tolerance.relative,
        "atol": tolerance.absolute,
        "runs": [{"run": str(run.paths.root), "run_id": run.request.run_id, **facts} for run, facts in zip(runs, told)],
        "cases": {verdict.value: count for verdict, count in summary.verdicts.items()},
        "statuses": [{"first": a, "second": b, "cases": count} for (a, b), count in summary.states.items()],
        "outputs": {name: _output_facts(each) for name, each in summary.outputs.items()},
        "differences": [_case_facts(case) for case in shown],
    }


def _output_facts(each: Any) -> dict[str, Any]:
    return {**vars(each), "verdicts": {verdict.value: count for verdict, count in each.verdicts.items()}}


def _case_facts(case: CaseDifference) -> dict[str, Any]:
    outputs = [{**vars(each), "verdict": each.verdict.value, "dice": dict(each.dice)} for each in case.outputs]
    return {**vars(case), "verdict": case.verdict.value, "outputs": outputs}


def _tell(
    runs: Sequence[Reading], tolerance: Tolerance, summary: Summary, shown: Sequence[CaseDifference], voice: Voice
) -> None:
    from modelhub_hpc.evaluation.outputs import Verdict

    voice.columns(_heads(runs))
    voice.say("")
    different, total = summary.verdicts[Verdict.DIFFERENT], summary.verdicts.total()
    within = f"rtol {tolerance.relative:g}, atol {tolerance.absolute:g}"
    if not different:
        close = summary.verdicts[Verdict.CLOSE]
        exact = f"{number(close, 'case')} not to the last bit" if close else "to the last bit"
        voice.say(f"No difference in {number(total, 'case')}: {exact} ({within}).")
    else:
        voice.say(f"{different:,} of {number(total, 'case')} {'differs' if different == 1 else 'differ'} ({within}).")
    voice.columns(_statuses(summary))
    if summary.outputs:
        voice.say("")
        voice.columns(_outputs(summary))
    for case in shown:
        voice.say("")
        for line in _lines(case):
            voice.say(line)
    if different > len(shown):
        voice.say(f"\nand {different - len(shown):,} more: --limit, --csv FILE")


def _heads(runs: Sequence[Reading]) -> Iterator[tuple[str, str, str]]:
    """What the runs are; of what is the same in both, once."""
    yield ("", "first", "second")
    yield ("run", one_line(runs[0].request.run_id), one_line(runs[1].request.run_id))
    for name, ours, theirs in zip(_FACTS, *map(_of_run, runs)):
        if ours != theirs:
            yield (name, *(one_line(each, _DIGITS) for each in (ours, theirs)))
    for name, ours, theirs in zip(_FACTS[:2], *map(_of_run, runs)):
        if ours == theirs:
            yield (name, one_line(ours), "the same")


def _statuses(summary: Summary) -> Iterator[tuple[str, str]]:
    for (first, second), count in sorted(summary.states.items()):
        if first != second:
            yield (f"{first or 'not there'} in the first, {second or 'not there'} in the second", f"{count:,}")


def _outputs(summary: Summary) -> Iterator[tuple[str, ...]]:
    from modelhub_hpc.evaluation.outputs import Verdict

    yield ("output", "same", "close", "different", "largest", "relative", "other top label", "lowest Dice")
    for name, each in summary.outputs.items():
        counts = (f"{each.verdicts[verdict]:,}" for verdict in Verdict)
        figures = map(_figure, (each.largest, each.largest_relative))
        yield (one_line(name, _CELL), *counts, *figures, f"{each.other_top:,}", _figure(each.lowest_dice))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _lines(case: CaseDifference) -> Iterator[str]:
    from modelhub_hpc.evaluation.outputs import Verdict

    states = case.first if case.first == case.second else f"{case.first or 'not there'}, {case.second or 'not there'}"
    yield f"{one_line(case.case_id)}: {states}{f'; {one_line(case.reason)}' if case.reason else ''}"
    for output in case.outputs:
        if output.verdict is not Verdict.SAME:
            yield f"  {one_line(output.name, _CELL)}: {one_line('; '.join(_words(output)))}"


def _words(output: OutputDifference) -> Iterator[str]:
    yield from output.reasons
    if output.unequal:
        yield f"{output.different:,} of {output.values:,} values differ ({output.unequal:,} are not equal)"
    if output.largest is not None:
        yield f"by {_figure(output.largest)} at most, relative {_figure(output.largest_relative)}"
    if output.place:
        yield f"at [{', '.join(map(str, output.place))}]"
    if output.top:
        yield f"most probable: {output.top[0]}, {output.top[1]}"
    if output.dice:
        yield "Dice " + ", ".join(f"{label} {value:.4f}" for label, value in output.dice.items())
