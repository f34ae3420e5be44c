"""`mh-hpc config`: every option with its value, and where that comes from."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.errors import EXIT_DONE


@click.group("config", invoke_without_command=True)
@json_option
@click.pass_context
def config_group(context: click.Context, as_json: bool) -> int:
    """Show every option with its value here, after files and variables."""
    context.obj = dataclasses.replace(context.obj, json=as_json)
    return EXIT_DONE if context.invoked_subcommand else _show(context.obj, (), False)


@config_group.command("show")
@click.argument("options", nargs=-1, metavar="[OPTION]...")
@click.option("--origin", is_flag=True, help="Also where each value comes from: a file, a variable, or default.")
@json_option
@click.pass_obj
def show(voice: Voice, options: tuple[str, ...], origin: bool, as_json: bool) -> int:
    """Show these OPTIONs, or all, with their values here."""
    return _show(dataclasses.replace(voice, json=voice.json or as_json), options, origin)


def _show(voice: Voice, names: tuple[str, ...], with_origin: bool) -> int:
    site, origins = config.load_with_origins()
    values = config.to_json(site)
    wanted = [config.known(name, "the command line") for name in names] or list(values)
    if voice.json:
        voice.answer({n: {"value": values[n], "origin": origins[n]} if with_origin else values[n] for n in wanted})
        return EXIT_DONE
    rows = ((name, _text(values[name]), one_line(origins[name])) for name in wanted)
    voice.columns(row if with_origin else row[:2] for row in rows)
    if not names and not with_origin:
        read = [one_line(path) for path in config.files() if path.is_file()]
        voice.say(f"from: {', '.join(read) or 'defaults'}")
    return EXIT_DONE


def _text(value: Any) -> str:
    return "" if value is None else one_line(value)
