"""`mh-hpc validate` and `mh-hpc test`: what a contributor is told of a model, from its files and from running it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import json_option, site_flags, site_options
from modelhub_hpc.cli.output import MARKS, Voice, many_lines, number, one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, EXIT_INVALID

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.contributing import trial
    from modelhub_hpc.contributing.findings import Finding
    from modelhub_hpc.contributing.validate import Report
    from modelhub_hpc.contributing.verdicts import Problem

_folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


@click.command()
@_folder
@json_option
def validate(folder: Path, as_json: bool) -> int:
    """Check the contribution in DIR without running it: every mistake with its place and its mend.

    Errors keep the model from being published (exit code 4); warnings are for you to judge (exit code 0).
    """
    from modelhub_hpc.contributing.validate import validate

    voice = voice_of(as_json)
    report = validate(folder, config.load())
    if voice.json:
        voice.answer(_facts(report))
    else:
        for finding in (*report.errors, *report.warnings):
            voice.warn("\n".join(_lines(finding)))
        voice.say(_sum(report))
    return EXIT_INVALID if report.errors else EXIT_DONE


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{finding.level:<9}{one_line(finding.where)}: {one_line(finding.what)}"
    yield f"{'':<9}{one_line(finding.mend)}"


def _sum(report: Report) -> str:
    name = one_line(report.model or report.folder.name)
    judged = f"; its code was judged by {one_line(report.python)}" if report.python else ""
    errors, warnings = len(report.errors), len(report.warnings)
    counts = f"{number(errors, 'error')}, {number(warnings, 'warning')}" if errors + warnings else "nothing is wrong"
    return f"{name}: {counts}{judged}."


def _facts(report: Report) -> dict[str, Any]:
    def plain(findings: list[Finding]) -> list[dict[str, str]]:
        return [{name: text for name, text in vars(each).items() if name != "level"} for each in findings]

    return {
        "folder": str(report.folder),
        "model": report.model,
        "python": report.python,
        "valid": not report.errors,
        "errors": plain(report.errors),
        "warnings": plain(report.warnings),
    }


_FOR_TESTS = ("runtime", "case_timeout_s", "start_timeout_s", "mem_mb", "gpu")
_EVIDENCE = 12  # lines of a traceback
_NAMED = 3  # samples with the same problem


@click.command()
@_folder
@click.option("--image", metavar="NAME|FILE", help="Use this image instead of the one the model names.")
@click.option("--update-expected", is_flag=True, help="Make what the model gives now its expected outputs.")
@json_option
@site_options(_FOR_TESTS)
def test(folder: Path, image: str | None, update_expected: bool, as_json: bool, **given: Any) -> int:
    """Try the contribution in DIR in its container, on its own samples; measure it into DIR/measured.json.

    Every sample is predicted three times: in one process, in another, and as another user; offline and read-only.
    Exit code 4 if a check fails, 5 without Apptainer.
    """
    from modelhub_hpc.contributing import trial

    voice = voice_of(as_json)
    site = config.load({**site_flags(given), "workers": 1, "executor": "inline"})
    with _observer(voice) as observe:
        report = trial.test(folder, image, site, update_expected, observe)
    if voice.json:
        voice.answer(_trial_facts(report))
    else:
        _show(report, update_expected, voice)
    return EXIT_DONE if report.ok else EXIT_INVALID


@contextlib.contextmanager
def _observer(voice: Voice) -> Iterator[Callable[[int, int, int], None]]:
    from modelhub_hpc.cli import progress
    from modelhub_hpc.run import Progress

    began = time.monotonic()
    with progress.reporter(voice) as show:
        yield lambda made, failed, total: show(
            Progress(total, made - failed, failed, 0, time.monotonic() - began, workers=1)
        )


def _show(report: trial.Report, update: bool, voice: Voice) -> None:
    rows = ((MARKS[check.ok], check.name, one_line(check.detail, 90)) for check in report.checks)
    voice.columns(rows)
    for check in report.checks:
        for what in dict.fromkeys(problem.what for problem in check.problems):
            alike = [problem for problem in check.problems if problem.what == what]
            voice.warn("\n".join(_problem_lines(alike)))
    for path in report.written:
        voice.say(f"wrote {one_line(path)}")
    if update and len(report.written) < 2:
        voice.warn("No expected outputs were written, since something is wrong with what the model gives.")
    failed = sum(check.ok is False for check in report.checks)
    name = one_line(report.model)
    voice.say(f"{name}: {number(failed, 'check')} failed." if failed else f"{name}: all is well.")


def _problem_lines(alike: list[Problem]) -> Iterator[str]:
    """One problem, though several samples have it."""
    first, samples = alike[0], list(dict.fromkeys(problem.sample for problem in alike if problem.sample))
    more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
    about = ", ".join([first.check, *map(one_line, samples[:_NAMED])])
    yield f"{about}{more}: {one_line(first.what)}"
    yield f"    {one_line(first.mend)}"
    yield from (f"    | {line}" for line in many_lines(first.evidence).strip().splitlines()[-_EVIDENCE:])


def _trial_facts(report: trial.Report) -> dict[str, Any]:
    return {
        "model": report.model,
        "image": report.image,
        "passed": report.ok,
        "checks": [{**vars(check), "problems": [vars(each) for each in check.problems]} for check in report.checks],
        "measured": report.measured,
        "written": [str(path) for path in report.written],
    }
