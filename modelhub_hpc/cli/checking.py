"""`mh-hpc validate`: what a contributor is told of a model, without running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelhub_hpc import config
from modelhub_hpc.cli.output import Voice, number, one_line
from modelhub_hpc.errors import EXIT_DONE, EXIT_INVALID

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.contributing.findings import Finding
    from modelhub_hpc.contributing.validate import Report

_json = click.option("--json", "as_json", is_flag=True, help="Answer with JSON on stdout; all else goes to stderr.")
_folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


@click.command()
@_folder
@_json
def validate(folder: Path, as_json: bool) -> int:
    """Check the contribution in DIR without running it: every mistake with its place and its mend.

    Errors keep the model from being published (exit code 4); warnings are for you to judge (exit code 0).
    """
    from modelhub_hpc.contributing.validate import validate

    voice: Voice = dataclasses.replace(click.get_current_context().obj, json=as_json)
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
