"""`mh-hpc sandbox` and `mh-hpc shell`: work with a model by hand, in its image."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import FOR_WORK_BY_HAND, site_flags, site_options
from modelhub_hpc.cli.output import Voice, one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.sandbox import Jupyter, Place

F = TypeVar("F", bound=Callable[..., Any])
_folder = click.Path(path_type=Path)


def _place_options(command: F) -> F:
    """The options that say what can be seen there."""
    options = (
        click.option("--image", metavar="NAME|FILE", help="Use this image instead of the one the model names."),
        click.option("--data", type=_folder, metavar="FOLDER", help="Show this folder as /data, read-only."),
        click.option(
            "--keep", type=_folder, metavar="FOLDER", help="Make the copy of the contribution here, and keep it."
        ),
        site_options(FOR_WORK_BY_HAND),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Default: 8888, or any that is free.")
@click.option("--json", "as_json", is_flag=True, help="Answer with JSON once Jupyter is ready.")
@_place_options
def sandbox(model: str, port: int | None, as_json: bool, **given: Any) -> int:
    """Open the notebooks of MODEL in Jupyter, in its image, until Ctrl-C.

    /contrib_src is a copy that may be changed, and it is gone at the end unless --keep is given; so is /output.
    Only this machine reaches the server, with a token that is new each time. The image must hold Jupyter.
    """
    from modelhub_hpc.sandbox import jupyter

    voice = voice_of(as_json)
    place = _place(model, **given)
    try:
        with jupyter(place, port) as server:
            _tell(place, server, voice)
            server.serve()
    except KeyboardInterrupt:
        pass  # which is how it is meant to end
    voice.say("\nThe sandbox is closed." + (f" Your copy: {one_line(place.keep)}" if place.keep else ""))
    return EXIT_DONE


@click.command()
@click.argument("model")
@click.argument("command", nargs=-1)
@_place_options
def shell(model: str, command: tuple[str, ...], **given: Any) -> int:
    """Open a shell in the image of MODEL, or run a COMMAND there:  mh-hpc shell MODEL -- python run.py

    The working folder is /contrib_src, a copy that may be changed, and it is gone at the end unless --keep is given;
    so is /output. The exit code is that of the shell or COMMAND.
    """
    from modelhub_hpc import sandbox

    if not command and not sys.stdin.isatty():
        raise UsageError(
            f"There is no terminal here for a shell.\nIn a batch job, name a command:  "
            f"mh-hpc shell {shlex.quote(model)} -- COMMAND...\n"
            f"or ask SLURM for a terminal:  srun --pty mh-hpc shell {shlex.quote(model)}"
        )
    return sandbox.shell(_place(model, **given), command, config.caller().terminal)


def _place(
    model: str, image: str | None, data: Path | None, keep: Path | None, **given: Any
) -> Place:
    from modelhub_hpc.sandbox import place

    site = config.load({**site_flags(given), "workers": 1, "executor": "inline"})
    return place(model, image, site, data and data.absolute(), keep and keep.absolute())


def _tell(place: Place, server: Jupyter, voice: Voice) -> None:
    host, keep = config.node(), place.keep
    tunnel = f"ssh -L {server.port}:localhost:{server.port} {config.caller().user}@{host}"
    if voice.json:
        facts = {"url": server.url, "port": server.port, "token": server.token, "ssh": tunnel}
        voice.answer({**facts, "model": place.model.name, "image": place.image.name, "keep": keep and str(keep)})
    voice.say(f"{one_line(place.model.name)} in {one_line(place.image.name)}:\n\n  {server.url}\n")
    voice.say(f"From another machine, first:\n\n  {tunnel}\n")
    stays = f"kept in {one_line(keep)}" if keep else "which is gone at the end (--keep FOLDER)"
    network = "It has the network." if place.site.allow_network else "It has no network (--allow-network)."
    voice.say(f"/contrib_src is a copy, {stays}. {network} Ctrl-C ends it.")
