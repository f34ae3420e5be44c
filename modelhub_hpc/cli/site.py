"""`mh-hpc site`: a configuration file for the cluster at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from modelhub_hpc import config, sitefile, slurm
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.errors import EXIT_DONE, UsageError, shown
from modelhub_hpc.runfolder import publish_text, replacing


@click.group()
def site() -> None:
    """Adapt mh-hpc to a cluster."""


@site.command()
@click.option(
    "-o", "--output", default="mh-hpc.yaml", show_default=True, metavar="FILE|-", help="Where to; - is stdout."
)
@click.option("--partition", metavar="NAME", help="For this partition; default: the default one, or one with GPUs.")
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Answer with JSON on stdout: what was found and written.")
@click.pass_obj
def init(voice: Voice, output: str, partition: str | None, force: bool, as_json: bool) -> int:
    """Write a commented configuration file out of what SLURM says of itself, as a start."""
    voice = dataclasses.replace(voice, json=as_json)
    kinds, cluster, here = slurm.node_kinds(), slurm.cluster(), sitefile.machine()
    made = sitefile.make(kinds, cluster, here, partition)
    target = None if output == "-" else Path(output).absolute()
    if target is not None:
        _write(target, made.text, force)
    if as_json:
        found = {"cluster": vars(cluster), "partitions": [vars(kind) for kind in kinds], "machine": vars(here)}
        voice.answer({"file": target and str(target), **vars(made), **found})
    elif target is None:
        click.echo(made.text, nl=False)
    if target is not None:
        _tell(made, target, voice)
    return EXIT_DONE


def _write(path: Path, text: str, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise UsageError(f"{shown(path)} is no file that could be written. Name another with --output.")
    if not path.parent.is_dir():
        raise UsageError(f"{shown(path)} cannot be written: there is no folder {shown(path.parent)}.")
    if force:
        with replacing(path.resolve()) as file:  # where a link leads, not the link
            file.write(text)
    elif not publish_text(path, text):
        raise UsageError(
            f"{shown(path)} exists, and is left as it is.\nName another with --output, or write over it with --force."
        )


def _tell(made: sitefile.Profile, path: Path, voice: Voice) -> None:
    voice.say(f"{one_line(path)}: written, for partition {one_line(made.partition)} ({one_line(made.why)}).")
    if "time" not in made.options:
        voice.say("There is no default walltime here: set 'time' in it.")
    if path not in [each.absolute() for each in config.files()]:
        voice.say("It counts once it is ./mh-hpc.yaml, or ~/.config/mh-hpc/config.yaml.")
