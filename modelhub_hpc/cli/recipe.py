"""`mh-hpc recipe`: write the Apptainer definition that makes the image of a Dockerfile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from modelhub_hpc.cli.output import Voice, number, one_line
from modelhub_hpc.dockerfiles import Recipe, convert
from modelhub_hpc.errors import EXIT_DONE, InvalidError, UsageError, shown
from modelhub_hpc.runfolder import publish_text

_path = click.Path(path_type=Path)


@click.command()
@click.argument("dockerfile", type=_path)
@click.option(
    "-o", "--output", type=_path, metavar="FILE", help="Write the definition there; default: stdout."
)
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE", help="As for docker build.")
@click.option("--target", metavar="STAGE", help="Stop at this stage; default: the last one.")
@click.option("--json", "as_json", is_flag=True, help="Answer with JSON on stdout: definition and notes.")
@click.pass_obj
def recipe(
    voice: Voice,
    dockerfile: Path,
    output: Path | None,
    build_args: tuple[str, ...],
    target: str | None,
    as_json: bool,
) -> int:
    """Make an Apptainer definition of DOCKERFILE, which builds without root.

    What the definition cannot say as the Dockerfile does is said on stderr and at the head of the definition; what
    it cannot say at all is an error that names the line.
    """
    voice = dataclasses.replace(voice, json=as_json)
    made = _converted(dockerfile, dict(_assignment(text) for text in build_args), target)
    if output is not None:
        _write(output, made.definition)
    if as_json:
        voice.answer({"definition": made.definition, "notes": [vars(note) for note in made.notes]})
    elif output is None:
        click.echo(made.definition, nl=False)
    _tell(made, dockerfile, output, voice)
    return EXIT_DONE


def _converted(dockerfile: Path, build_args: dict[str, str], target: str | None) -> Recipe:
    try:
        text = dockerfile.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"{shown(dockerfile)} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidError(
            f"{shown(dockerfile)} is no UTF-8 text: {error.reason} at byte {error.start}."
        ) from error
    try:
        return convert(text, build_args, target)
    except InvalidError as error:
        raise InvalidError(f"{shown(dockerfile)}: {_shown_lines(error)}") from error


def _shown_lines(error: Exception) -> str:
    return "\n".join(shown(line) for line in str(error).splitlines())


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--build-arg wants NAME=VALUE, not '{shown(text)}'.")
    return name, value


def _write(path: Path, text: str) -> None:
    if not publish_text(path, text):
        raise UsageError(f"{shown(path)} exists, and is left as it is. Remove it, or name another with -o.")


def _tell(made: Recipe, dockerfile: Path, output: Path | None, voice: Voice) -> None:
    for note in made.notes:
        voice.warn(f"line {note.line}, {note.name}: {one_line(note.message)}")
    if (dockerfile.parent / ".dockerignore").is_file():
        voice.warn(".dockerignore: Apptainer knows no such file; what COPY names is copied whole.")
    if output is not None:
        voice.say(
            f"{one_line(output)}: written, with {number(len(made.notes), 'note')}. To build the image, in the"
        )
        voice.say(
            f"folder that is Docker's build context: apptainer build --fakeroot image.sif {one_line(output)}"
        )
