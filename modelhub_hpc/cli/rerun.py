"""`mh-hpc rerun`: repeat a run from its record."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from modelhub_hpc import __version__
from modelhub_hpc.cli.options import FOR_RUNS, json_option, site_flags, site_options
from modelhub_hpc.cli.output import Voice, one_line, voice_of
from modelhub_hpc.errors import UsageError

_path = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=_path)
@click.option("--outdir", type=_path, help="The new run folder. Default ./runs/ID.")
@click.option("--model", metavar="NAME|FOLDER", help="Where the model is, if not where it was.")
@click.option("--image", metavar="NAME|FILE", help="The image, if not by its name or where it was.")
@click.option(
    "--inputs-root", "moved", multiple=True, metavar="OLD=NEW", help="Inputs below OLD lie below NEW; may be repeated."
)
@click.option("--changed-model", is_flag=True, help="Run a model that is not the same.")
@click.option("--changed-image", is_flag=True, help="Run in an image that is not the same.")
@click.option("--changed-inputs", is_flag=True, help="Run over inputs that are not the same, or are gone.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failed case.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and write nothing.")
@click.option("--wait", is_flag=True, help="SLURM: follow the run until it ends; Ctrl-C leaves it alone.")
@json_option
@site_options(FOR_RUNS)
def rerun(
    run: Path,
    outdir: Path | None,
    model: str | None,
    image: str | None,
    moved: tuple[str, ...],
    changed_model: bool,
    changed_image: bool,
    changed_inputs: bool,
    fail_fast: bool,
    dry_run: bool,
    wait: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Repeat RUN, a folder or an id, as a new run: same model, image, inputs and options, but for those that are given.

    What is not the same is refused, unless it is allowed. `mh-hpc diff` then compares the two.
    """
    from modelhub_hpc.cli.progress import waiting
    from modelhub_hpc.cli.runs import find
    from modelhub_hpc.cli.submit import Submission, begin, site_of
    from modelhub_hpc.record import RunPaths
    from modelhub_hpc.run import Asked
    from modelhub_hpc.runs import reading
    from modelhub_hpc.runs.repeating import PLACES, Allowed, Repetition

    voice, of, flags = voice_of(as_json), reading.read(find(run).root), site_flags(given)
    folder = outdir.absolute() if outdir else None
    if folder and reading.is_run(RunPaths(folder)):
        raise UsageError(f"There is a run in {one_line(folder)}. To go on with it:  mh-hpc resume RUN")
    _tell_versions(of, voice)
    then, command = of.request, shlex.join(["mh-hpc", *sys.argv[1:]])
    site = site_of(then.site, flags, PLACES)
    asked = Asked(then.model.name, then.inputs, site, folder, None, command)
    allowed = Allowed(changed_model, changed_image, changed_inputs)
    repetition = Repetition(of, asked, model, image, dict(map(_root, moved)), allowed)
    with waiting(voice, f"Comparing what is here with {one_line(then.run_id)}"):
        planned = repetition.plan()
    wanted = Submission(
        model=None,
        inputs=(),
        outdir=folder,
        image=None,
        resume=False,
        retry_failed=False,
        fail_fast=fail_fast,
        dry_run=dry_run,
        plan_only=False,
        wait=wait,
        flags=flags,
        command=command,
    )
    return begin(planned, wanted, voice)


def _root(given: str) -> tuple[str, str]:
    old, equals, new = given.partition("=")
    if not (old and equals and new):
        raise UsageError(f"--inputs-root {one_line(given)}: write OLD=NEW, two folders.")
    return old, new


def _tell_versions(of: Any, voice: Voice) -> None:
    then = of.request.software
    if then != __version__:
        voice.say(f"That run was made by modelhub-hpc {one_line(then)}; this is {__version__}.")
