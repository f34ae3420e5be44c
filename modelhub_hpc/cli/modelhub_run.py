"""`modelhub-run`, the command of ModelHub's own package: its options become commands of mh-hpc, which are shown."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from modelhub_hpc import config
from modelhub_hpc.cli.output import one_line
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import EXIT_DONE, InvalidError, UsageError

# what a command needs is imported when it runs, so that --help and completion are quick

API_PORT = 8080  # port 80, which it was, takes root


@dataclass(frozen=True)
class Asked:
    """What modelhub-run was asked for, in its own words; ports: None where not given."""

    model: str
    expert: bool = False
    bash: bool = False
    gpu: bool = False
    update: bool = False
    updatedocker: bool = False
    mountdata: Path | None = None
    apiport: int | None = None
    jupyterport: int | None = None


_port = click.IntRange(1, 65535)
_folder = click.Path(path_type=Path)


@click.command("modelhub-run", hidden=True)
@click.argument("model", required=False)
@click.option("-l", "--list", "listing", is_flag=True, help="List all models: mh-hpc models")
@click.option("-u", "--update", is_flag=True, help="Fetch the model again: mh-hpc pull MODEL --again")
@click.option("-ud", "--updatedocker", is_flag=True, help="Fetch its image again: mh-hpc images rm, mh-hpc pull MODEL")
@click.option("-e", "--expert", is_flag=True, help="Its notebooks in Jupyter: mh-hpc sandbox MODEL")
@click.option("-b", "--bash", is_flag=True, help="A shell in its image: mh-hpc shell MODEL")
@click.option("-g", "--gpu", is_flag=True, help="Insist on GPUs: --gpu on")
@click.option("-md", "--mountdata", type=_folder, metavar="FOLDER", help="Show this folder as /data: --data FOLDER")
@click.option("-mf", "--mountframework", type=_folder, metavar="FOLDER", help="Refused: the engine is that of mh-hpc.")
@click.option("-ap", "--apiport", type=_port, metavar="N", help=f"Port of the HTTP interface, default {API_PORT}.")
@click.option("-jp", "--jupyterport", type=_port, metavar="N", help="Port of Jupyter: --port N")
def modelhub_run(model: str | None, listing: bool, mountframework: Path | None, **given: Any) -> int:
    """Run MODEL as modelhub-run did: serve it over HTTP, or with -e in Jupyter, or with -b open a shell.

    Every option becomes commands of mh-hpc, which are shown before they are run.
    """
    if mountframework:
        raise UsageError("-mf has no place here: the engine in the container is always that of mh-hpc. Leave it out.")
    if not model and not listing:
        raise UsageError("Name a model:  modelhub-run MODEL\nAll that there are:  modelhub-run --list")
    if given["expert"] and given["bash"]:
        raise UsageError("-e and -b exclude each other.")
    site = config.load()
    asked = Asked(model or "", **given)
    program = click.get_current_context().find_root().command
    for words in [["models"]] if listing else commands(asked, site):
        click.echo(f"modelhub-run: this is now  mh-hpc {one_line(shlex.join(words))}", err=True)
        code = program.main(words, "mh-hpc", standalone_mode=False)
        if code:
            return int(code)
    return EXIT_DONE


def commands(asked: Asked, site: SiteConfig) -> Iterator[list[str]]:
    """The command lines of mh-hpc, each to be run before the next is asked for: they depend on what is here then."""
    from modelhub_hpc import images, models

    here = _is_here(asked.model, site)
    if asked.update or not here:
        yield ["pull", *(["--again"] if here else []), "--", asked.model]
    model = models.find(asked.model, site)
    if asked.updatedocker and _has_image(model.image, site):
        yield ["images", "rm", "--", model.image]
    if not _has_image(model.image, site):
        own = model.path == Path(asked.model).absolute()  # a folder that no registry need know
        yield ["convert", f"docker://{model.image}"] if own else ["pull", "--", asked.model]
    options = ["--gpu", "on"] if asked.gpu else []
    options += ["--data", str(asked.mountdata)] if asked.mountdata else []
    if asked.expert:
        port = ["--port", str(asked.jupyterport)] if asked.jupyterport else []
        yield ["sandbox", *options, *port, "--", asked.model]
    elif asked.bash:
        yield ["shell", *options, "--", asked.model]
    else:
        serve = [images.find(model.image, site).interpreter, "/framework/start.py", "serve"]
        port = ["--port", str(asked.apiport or API_PORT)]
        yield ["shell", *options, "--allow-network", asked.model, "--", *serve, *port]


def _is_here(model: str, site: SiteConfig) -> bool:
    from modelhub_hpc import models

    try:
        return bool(models.find(model, site))
    except InvalidError:
        return False


def _has_image(name: str, site: SiteConfig) -> bool:
    from modelhub_hpc import images

    try:
        return bool(images.find(name, site))
    except InvalidError:
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """The program modelhub-run; the exit code."""
    from modelhub_hpc.cli import commands as program

    return program.main(["modelhub-run", *(sys.argv[1:] if arguments is None else arguments)])
