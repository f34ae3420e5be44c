"""The commands for those who contribute a model."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from modelhub_hpc import config
from modelhub_hpc.cli.checking import test, validate
from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, UsageError, shown

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.contributing.publish import Published

_path = click.Path(path_type=Path)
_Parsed = TypeVar("_Parsed")


@click.command()
@click.argument("name")
@click.option("--dir", "folder", type=_path, metavar="DIR", help="Where its folder is made; default: here.")
@click.option("--framework", metavar="NAME", help="onnxruntime, pytorch, ... or a recipe's name, for its image.")
@click.option("--image", metavar="NAME", help="The image itself, where no framework's serves.")
@click.option("--input", "inputs", multiple=True, metavar="[KEY=]MIME[,MIME]", help="May be repeated, with keys.")
@click.option("--output", "outputs", multiple=True, metavar="[NAME:]TYPE", help="May be repeated; in this order.")
@click.option("--licence", "--license", metavar="NAME", help="Apache-2.0, MIT, BSD-3-Clause or CC-BY-4.0.")
@click.option("--author", metavar="NAME", help="Whose model it is.")
@json_option
def init(
    name: str,
    folder: Path | None,
    framework: str | None,
    image: str | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    licence: str | None,
    author: str | None,
    as_json: bool,
) -> int:
    """Make a contribution called NAME: all files of the template, with a stand-in for the network, so that it runs.

    What no flag says is asked for on a terminal; elsewhere the defaults count.
    """
    from modelhub_hpc.contributing import scaffold

    ask = _Asking(sys.stdin.isatty() and sys.stderr.isatty() and not as_json)
    environments, types = scaffold.images(), f"NAME:TYPE ... ({', '.join(scaffold.OUTPUT_TYPES)})"
    scaffold.checked_name(name)
    if framework or not image:
        known = _one_of(sorted(environments), "framework")
        framework = ask(framework, "Framework (pytorch, tensorflow, ..., or a recipe's name)", "onnxruntime", known)
    wanted = scaffold.Wanted(
        name=name,
        image=image or environments[str(framework)],
        backend=scaffold.backend(framework or "numpy"),
        inputs=ask(_words(inputs), "Input: MIME, or KEY=MIME ...", "image/png", scaffold.parse_inputs),
        outputs=ask(_words(outputs), f"Outputs: {types}", "probabilities:label_list", scaffold.parse_outputs),
        licence=ask(licence, "Licence", scaffold.LICENCES[0], _one_of(scaffold.LICENCES, "licence")),
        author=ask(author, "Author", f"The authors of {name}", one_line),
    )
    target = (folder or Path()).absolute() / name
    files = scaffold.create(wanted, target)
    voice = voice_of(as_json)
    if as_json:
        facts = {"path": str(target), "image": wanted.image, "files": files, "sample": scaffold.sample(wanted)}
        voice.answer(facts)
        return EXIT_DONE
    shown_as = one_line(folder / name if folder else f"./{name}")
    voice.say(f"{shown_as}: a contribution of {len(files)} files, with a stand-in for the network. It runs as it is:")
    voice.say(f"  mh-hpc run {shown_as} {shown_as}/{scaffold.sample(wanted)}")
    voice.say(f"What to do next is in {shown_as}/README.md.")
    return EXIT_DONE


class _Asking:
    """Asks for what is not given, if somebody is there to ask."""

    def __init__(self, somebody: bool) -> None:
        self._somebody = somebody

    def __call__(self, given: str | None, question: str, default: str, parse: Callable[[str], _Parsed]) -> _Parsed:
        """What the words mean. Raises UsageError; on a terminal the question is put again instead."""
        if given is not None or not self._somebody:
            return parse(default if given is None else given)

        def patiently(answer: str) -> _Parsed:
            try:
                return parse(answer)
            except UsageError as error:
                raise click.UsageError(str(error)) from error

        answer: _Parsed = click.prompt(question, default=default, err=True, value_proc=patiently)
        return answer


def _words(given: tuple[str, ...]) -> str | None:
    return " ".join(given) or None


def _one_of(known: Sequence[str], what: str) -> Callable[[str], str]:
    def parse(word: str) -> str:
        if word not in known:
            raise UsageError(f"{shown(word)!r} is no {what} known here. Known: {', '.join(known)}")
        return word

    return parse


@click.command()
@click.argument("folder", metavar="DIR", type=_path)
@click.option("--registry", required=True, type=_path, metavar="FOLDER", help="A registry's folder, to write into.")
@click.option("--repository", metavar="URL", default="", help="Where DIR is; default: what it is a clone of.")
@click.option("--commit", metavar="SHA", default="", help="Which commit there has what is in DIR; with --repository.")
@click.option("--doi", metavar="DOI", default="", help="Of the model or its publication.")
@click.option("--version", metavar="X.Y.Z", default="", help="Default: what config.json says under modelhub.")
@json_option
def publish(
    folder: Path, registry: Path, repository: str, commit: str, doi: str, version: str, as_json: bool
) -> int:
    """Add the model in DIR to a registry, as an entry or a further version of it, which anybody can then pull.

    DIR is a git clone whose commit is pushed: that its repository has the very files is looked at first.
    """
    from modelhub_hpc.contributing.publish import Given, publish

    given = Given(repository, commit, doi, version)
    published = publish(folder, registry, given, config.load())
    voice = voice_of(as_json)
    if as_json:
        voice.answer(_facts(published))
    for line in _tidings(published):
        voice.say(line)
    return EXIT_DONE


def _facts(published: Published) -> dict[str, object]:
    version = dataclasses.asdict(published.version)
    facts = {"changed": published.changed, "before": published.before, "entry": published.entry.to_json()}
    return {"path": str(published.path), "name": published.entry.name, "version": version, **facts}


def _tidings(published: Published) -> Iterator[str]:
    name, number, source = published.entry.name, published.version.version, published.version.source
    path = one_line(published.path)
    if not published.changed:
        yield f"{path}: has {name} {number} already; nothing to do."
        return
    yield f"{path}: {'updated' if number in published.before else 'now has'} {name} {number}."
    if (source.repository or "").startswith("file:"):
        yield f"It comes from {one_line(source.repository)}: only who can read that can pull it."
    yield "To offer it to others: commit this file to the registry's repository, and open a pull request."
    yield f"To try it:  mh-hpc pull {name}@{number} --registry {one_line(published.path.parent.parent)}"


CONTRIBUTOR_COMMANDS = (init, validate, test, publish)
