"""`mh-hpc models`, `search`, `show` and `registry`: the models that registries know, here or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import FOR_REGISTRIES, json_option, site_flags, site_options
from modelhub_hpc.cli.output import Voice, many_lines, number, one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES, EXIT_INVALID, InvalidError, UsageError, shown

if TYPE_CHECKING:
    from modelhub_hpc.models.entry import Entry
    from modelhub_hpc.models.shelves import Found, Shelf

# what a command needs is imported when it runs, so that --help and completion are quick

EXIT_NO_MATCH = EXIT_FAILED_CASES  # 1, which grep has for it, is a bug of ours
F = TypeVar("F", bound=Callable[..., Any])
_refresh = click.option("--refresh", is_flag=True, help="First bring copies of git registries up to date (network).")


def _of_registries(command: F) -> F:
    return json_option(_refresh(site_options(FOR_REGISTRIES)(command)))


@click.command("models")
@_of_registries
def list_models(as_json: bool, refresh: bool, **given: Any) -> int:
    """List all models that the registries know."""
    voice = voice_of(as_json)
    found, places = _everything(voice, refresh, given)
    _answer(found, places, voice)
    voice.say(f"{number(len(found), 'model')}. More of one:  mh-hpc show MODEL")
    return EXIT_DONE


@click.command()
@click.argument("words", nargs=-1)
@click.option("--task", metavar="TEXT", help="Part of the task, such as segmentation.")
@click.option("--backend", metavar="NAME", help="A framework, such as pytorch.")
@click.option("--input", "mime", metavar="MIME", help="What it must accept, or part of that: image/png, dicom.")
@click.option("--modality", metavar="TEXT", help="CT, MRI, X-ray, photograph ...")
@click.option("--gpu/--no-gpu", default=None, help="Those that use a GPU; those that need none.")
@_of_registries
def search(words: tuple[str, ...], as_json: bool, refresh: bool, **given: Any) -> int:
    """Find models by WORDS, all of which are in what is known of them, and by what they must have.

    Case does not matter. Exit code 3: there is none.
    """
    from modelhub_hpc.models.search import Wanted, matches

    wanted = Wanted(words, *(given.pop(name) for name in ("task", "backend", "mime", "modality", "gpu")))
    if wanted == Wanted():
        raise UsageError("Say what to look for, such as:  mh-hpc search liver --input dicom\nAll:  mh-hpc models")
    voice = voice_of(as_json)
    found, places = _everything(voice, refresh, given)
    right = [each for each in found if matches(each.entry, wanted)]
    _answer(right, places, voice)
    if not right:
        voice.warn(_nothing(words, found))
    return EXIT_DONE if right else EXIT_NO_MATCH


@click.command()
@click.argument("model")
@click.option("--bibtex", is_flag=True, help="Only the BibTeX of its publication.")
@click.option("--measured", is_flag=True, help="What past runs of it took: time, memory, energy, by hardware.")
@click.option("--in", "folders", type=click.Path(path_type=Path), multiple=True, metavar="DIR",
              help="For --measured: a run, or a folder of runs; repeatable [./runs].")
@_of_registries
def show(
    model: str, bibtex: bool, measured: bool, folders: tuple[Path, ...], as_json: bool, refresh: bool, **given: Any
) -> int:
    """Show all that the registry knows of MODEL, a NAME or NAME@VERSION, and its versions side by side."""
    from modelhub_hpc.cli.card import card
    from modelhub_hpc.models import citation, pulled, shelves

    if folders and not measured:
        raise UsageError("--in says where runs lie, for:  mh-hpc show MODEL --measured")

    voice = voice_of(as_json)
    name, wanted = pulled.parse(model)
    site = config.load(site_flags(given))
    found = shelves.find(name, shelves.shelves(site, refresh))
    version = found.entry.version(wanted or None)
    if measured:
        return _show_measured(found.entry, wanted or None, folders, voice)
    cited = citation.bibtex(found.entry)
    if as_json:
        voice.answer({**_facts(found), "shown": version.version, "bibtex": cited})
    elif not bibtex:
        voice.columns((line,) for line in card(found, version))
        here = pulled.find(model, site) or found.shelf == shelves.shipped() and version.source.repository is None
        do = "It is here:  mh-hpc run" if here else "To have it here:  mh-hpc pull"
        voice.say(f"\n{do} {one_line(model)}{' FILE' if here else ''}")
    elif cited is None:
        raise InvalidError(f"The registry knows no publication of '{shown(name)}'.")
    else:
        click.echo(many_lines(cited))
    return EXIT_DONE


def _show_measured(entry: Entry, version: str | None, folders: Sequence[Path], voice: Voice) -> int:
    import dataclasses

    from modelhub_hpc.cli.card import measured_rows, resources
    from modelhub_hpc.cli.runs import RUNS
    from modelhub_hpc.runs.measured import measured

    absent = [one_line(folder) for folder in folders if not folder.is_dir()]
    if absent:
        raise UsageError(f"--in: there is no folder {', '.join(absent)}.")
    found = [each for each in measured(entry.id, folders or (RUNS,)) if version in (None, each.version)]
    if voice.json:
        stated = dataclasses.asdict(entry.resources)
        voice.answer({"model": entry.name, "measured": [vars(each) for each in found], "stated": stated})
        return EXIT_DONE
    if found:
        voice.columns(measured_rows(found))
    else:
        places = ", ".join(one_line(folder) for folder in folders or (RUNS,))
        voice.say(f"No run of {one_line(entry.name)} that has ended lies in {places}. Others:  --in DIR")
    voice.say(f"The registry says: {one_line(resources(entry))}")
    return EXIT_DONE


@click.group()
def registry() -> None:
    """Registries: folders whose models/<name>.json say what is known of models."""


@registry.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@json_option
def validate(folder: Path, as_json: bool) -> int:
    """Check all entries of the registry in DIR. Exit code 4: some are wrong; each mistake is told with its mend."""
    from modelhub_hpc.models import checks, shelves

    voice = voice_of(as_json)
    shelf = shelves.Shelf(str(folder), shelves.root(folder))
    problems = list(checks.problems(shelf))
    if as_json:
        told = [
            {"file": str(path), "path": each.path, "rule": each.rule, "mend": each.mend} for path, each in problems
        ]
        voice.answer({"registry": str(shelf.folder), "entries": len(shelf.files()), "problems": told})
    for path, problem in problems:
        voice.warn(f"{one_line(path)}: {one_line(problem)}")
    voice.say(f"{number(len(shelf.files()), 'file')}, {number(len(problems), 'problem')}")
    return EXIT_INVALID if problems else EXIT_DONE


def _everything(voice: Voice, refresh: bool, given: dict[str, Any]) -> tuple[list[Found], list[Shelf]]:
    from modelhub_hpc.models import shelves

    places = shelves.shelves(config.load(site_flags(given)), refresh)
    found, flaws = shelves.everything(places)
    for flaw in flaws:
        voice.warn(f"left out: {many_lines(str(flaw))}")
    return found, places


def _answer(found: Sequence[Found], places: Sequence[Shelf], voice: Voice) -> None:
    if voice.json:
        voice.answer([_facts(each) for each in found])
    elif found:
        voice.columns(_rows(found, len(places) > 1))


def _rows(found: Sequence[Found], several: bool) -> Iterator[Sequence[str]]:
    """A table for people; which registry knows a model is said where there are several."""
    from modelhub_hpc.cli.card import gpu

    yield ("model", "version", "backend", "GPU", "task", *(["registry"] if several else []))
    for each in found:
        entry = each.entry
        cells = (entry.name, entry.newest.version, "/".join(entry.backend), gpu(entry), entry.task_extended)
        more = f" (also in {', '.join(each.hidden)})" if each.hidden else ""
        yield (*(one_line(cell, 60) for cell in cells), *([one_line(each.shelf.name + more)] if several else []))


def _facts(found: Found) -> dict[str, Any]:
    return {**found.entry.to_json(), "registry": found.shelf.name, "also_in": list(found.hidden)}


def _nothing(words: Sequence[str], found: Sequence[Found]) -> str:
    from modelhub_hpc.models.search import nearest

    absent = nearest(words, [each.entry for each in found])
    if not absent:
        return "No model has all of that."
    told = (f"'{one_line(word)}'" + (f" (did you mean '{near}'?)" if near else "") for word, near in absent.items())
    return f"No model has {', nor '.join(told)}."


MODEL_COMMANDS = (list_models, search, show, registry)
