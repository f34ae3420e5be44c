"""`mh-hpc benchmark`: several models over the same cases, against what is known of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from modelhub_hpc.cli.options import FOR_RUNS, json_option, site_flags, site_options
from modelhub_hpc.cli.output import voice_of

F = TypeVar("F", bound=Callable[..., Any])
_path = click.Path(path_type=Path)
_models = click.option(
    "--models", multiple=True, required=True, metavar="A,B,...", help="Names or folders of models; may be repeated."
)
_data = click.option(
    "--data", multiple=True, required=True, metavar="PATH", help="The cases, as `submit` takes its inputs."
)
_output = click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="The output to judge, where a model has several."
)


def _outdir(folder: str) -> Callable[[F], F]:
    return click.option(
        "--outdir", type=_path, default=Path(folder), help=f"Runs, tables and figures. Default ./{folder}."
    )


def _command() -> str:
    return shlex.join(["mh-hpc", *sys.argv[1:]])


@click.group()
def benchmark() -> None:
    """Run models over the same cases and measure them: tables, figures and one run folder for each model.

    The same command again goes on where it was, and computes nothing twice.
    """


@benchmark.command()
@_models
@_data
@click.option("--labels", type=_path, required=True, metavar="CSV", help="Columns `file` (or `case_id`) and `label`.")
@_output
@_outdir("benchmark-classify")
@json_option
@site_options(FOR_RUNS)
def classify(
    models: tuple[str, ...],
    data: tuple[str, ...],
    labels: Path,
    outputs: tuple[str, ...],
    outdir: Path,
    as_json: bool,
    **given: Any,
) -> int:
    """Top-1 and top-5 accuracy with confidence intervals, beside what the models' cards report."""
    from modelhub_hpc.cli.benchmarking import Wanted, classify

    wanted = Wanted(models, data, labels, outputs, outdir.absolute(), site_flags(given), _command())
    return classify(wanted, voice_of(as_json))


@benchmark.command()
@_models
@_data
@click.option("--reference", type=_path, required=True, metavar="CSV", help="Columns `case_id` and `reference`: paths.")
@_output
@click.option("--regions", metavar="brats|FILE", help="Unions of labels that models are ranked by: built in, or YAML.")
@click.option("--case", metavar="ID", help="The case whose outlines are drawn. Default: one of middling Dice.")
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of the permutation test. Default 0.")
@_outdir("benchmark-segment")
@json_option
@site_options(FOR_RUNS)
def segment(
    models: tuple[str, ...],
    data: tuple[str, ...],
    reference: Path,
    outputs: tuple[str, ...],
    regions: str | None,
    case: str | None,
    seed: int,
    outdir: Path,
    as_json: bool,
    **given: Any,
) -> int:
    """Dice, HD95, sensitivity and specificity by region, and a ranking as the BraTS challenges have it."""
    from modelhub_hpc.cli.benchmarking import Wanted, segment

    wanted = Wanted(models, data, reference, outputs, outdir.absolute(), site_flags(given), _command())
    return segment(wanted, regions, case, seed, voice_of(as_json))
