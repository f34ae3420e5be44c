"""What a deployment image says of itself: the card of `apptainer run-help`, and its labels."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.images import Image
from modelhub_hpc.contribution import InputSpec, Contribution

PREFIX = "org.modelhub-hpc."
_WIDTH = 100
_INDENT = 14
_LONGEST_LABEL = 2000
_VISIBLE = (
    "Inside the container are your home, the current folder and /tmp; show it others with --bind FOLDER. "
    "GPUs: apptainer run --nv. Exit codes: 0 done, 2 usage, 3 some cases failed, 4 the model does not start."
)
_DOI = re.compile(r"\b10\.\d{4,9}/[^\s\"'<>{}\\]+[^\s\"'<>{}\\.,;)]")
_LICENCES = {
    "Apache-2.0": r"apache licen[cs]e,? version 2|apache-2\.0",
    "MIT": r"\bmit licen[cs]e|permission is hereby granted, free of charge",
    "BSD-3-Clause": r"bsd.3.clause|neither the name of",
    "BSD-2-Clause": r"bsd.2.clause",
    "GPL-3.0": r"gnu general public license\s+version 3|gpl-3\.0|gplv3",
    "GPL-2.0": r"gnu general public license\s+version 2|gpl-2\.0|gplv2",
    "CC-BY-NC-SA-4.0": r"attribution-noncommercial-sharealike 4\.0|cc[ -]by-nc-sa[ -]4\.0",
    "CC-BY-NC-4.0": r"attribution-noncommercial 4\.0|cc[ -]by-nc[ -]4\.0",
    "CC-BY-SA-4.0": r"attribution-sharealike 4\.0|cc[ -]by-sa[ -]4\.0",
    "CC0-1.0": r"cc0[ -]1\.0",
    "CC-BY-4.0": r"creative commons attribution 4\.0|cc[ -]by[ -]4\.0",
}


@dataclass(frozen=True)
class Card:
    """The facts that card and labels are made of. config: config.json; licences: the texts, "" where none is given."""

    model: Contribution
    image: Image
    engine: str
    config: Mapping[str, Any]
    model_licence: str
    sample_licence: str

    @property
    def environment(self) -> str:
        """The image's name; of one that was named by its file the file's, since folders tell of their owner."""
        return Path(self.image.name).name if self.image.name.startswith("/") else self.image.name


def read(model: Contribution, image: Image, engine: Path) -> Card:
    """The card of a contribution. engine: the folder that goes into the image. Raises InvalidError."""
    config = json.loads((model.contrib_src / "model/config.json").read_bytes())
    licences = [_text(model.contrib_src / "license" / name) for name in ("model", "sample_data")]
    return Card(model, image, engine_version(engine), config, *licences)


def engine_version(engine: Path) -> str:
    source = (engine / "modelhubapi/__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if not match:
        raise InvalidError(f"{shown(engine)} is no engine: modelhubapi/__init__.py names no version.")
    return match[1]


def licence_name(text: str) -> str:
    """The SPDX name of the one licence that a text is or names; "" where it names none, or several.

    >>> licence_name("Licensed under the Apache License, Version 2.0"), licence_name("Ask me.")
    ('Apache-2.0', '')
    """
    named = [name for name, words in _LICENCES.items() if re.search(words, text, re.IGNORECASE)]
    return named[0] if len(named) == 1 else ""


def labels(card: Card) -> dict[str, str]:
    """The labels of the image; each is one printable line."""
    model, licence = card.model, licence_name(card.model_licence)
    doi = _DOI.search(json.dumps(_section(card.config, "publication"), ensure_ascii=False))
    ours = {
        "model.id": model.id,
        "model.name": model.name,
        "model.version": model.version,
        "model.digest": f"sha256:{model.digest}",
        "engine.version": card.engine,
        "image.name": card.environment,
        "image.digest": card.image.digest,
        "image.sha256": card.image.sha256,
        "licence": licence or _first_line(card.model_licence),
        "doi": doi[0] if doi else "",
    }
    general = {
        "title": model.name,
        "version": model.version,
        "licenses": licence,
        "description": str(_section(card.config, "model").get("description", "")),
    }
    named = {PREFIX + name: value for name, value in ours.items()}
    named.update({f"org.opencontainers.image.{name}": value for name, value in general.items()})
    return {name: shown(" ".join(value.split()))[:_LONGEST_LABEL] for name, value in named.items() if value}


def help_text(card: Card, file_name: str) -> str:
    """The card for people. file_name: what examples call the image."""
    sections = [_title(card), *_facts(card), "", *_usage(card, shown(file_name))]
    return "\n".join(sections) + "\n"


def _title(card: Card) -> str:
    version = f" {card.model.version}" if card.model.version != "0" else ""
    title = shown(" ".join(f"{card.model.name}{version}".split()))
    description = _wrapped("", _section(card.config, "model").get("description"))
    return "\n".join([title, "=" * len(title), *description, ""])


def _facts(card: Card) -> Iterator[str]:
    meta, model = _section(card.config, "meta"), _section(card.config, "model")
    yield from _wrapped("Task", meta.get("task_extended") or meta.get("task"))
    yield from _wrapped("Field", meta.get("application_area"))
    yield from _wrapped("Data", meta.get("data_type"))
    for spec in card.model.inputs:
        yield from _wrapped("Input", _input(spec))
    for output in card.model.outputs:
        yield from _wrapped("Output", f"{output.name} ({output.type}). {output.description}")
    yield from _wrapped("Network", model.get("architecture"))
    yield from _wrapped("Origin", model.get("provenance"))
    yield from _wrapped("Licence", _licence(card.model_licence, "model"))
    yield from _wrapped("Samples", _licence(card.sample_licence, "sample_data"))
    yield from _wrapped("Cite", _citation(_section(card.config, "publication")))
    made_of = (card.environment, card.image.digest, f"engine {card.engine}")
    yield from _wrapped("Made of", ", ".join(part for part in made_of if part))


def _input(spec: InputSpec) -> str:
    name = "" if spec.key == "single" else f"{spec.key}: "
    size = " x ".join(_limits(low, high) for low, high in spec.dim_limits)
    dims = f"; channels or z, then y, x: {size}" if size else ""
    return f"{name}{', '.join(spec.formats) or 'any format'}{dims}. {spec.description}"


def _limits(low: int | None, high: int | None) -> str:
    if low == high and low is not None:
        return str(low)
    if high is None:
        return "any" if low is None else f"{low} or more"
    return f"at most {high}" if low is None else f"{low} to {high}"


def _licence(text: str, name: str) -> str:
    if not text.strip():
        return "no licence given: ask its authors"
    return f"{licence_name(text) or _first_line(text)} (in full: /contrib_src/license/{name})"


def _citation(publication: Mapping[str, Any]) -> str:
    authors = publication.get("authors", "")
    listed = ", ".join(map(str, authors)) if isinstance(authors, list) else str(authors)
    rest = [str(publication.get(name, "")) for name in ("title", "source", "year", "url")]
    return ". ".join(part.strip().rstrip(".") for part in [listed, *rest] if part.strip())


def _usage(card: Card, name: str) -> Iterator[str]:
    inputs = (
        "INPUT" if card.model.single else " ".join(f"{shown(spec.key)}=FILE" for spec in card.model.inputs)
    )
    several = "*" if card.model.single else "cases.json"
    commands = {
        f"apptainer run {name} {inputs}": "predict; JSON on stdout",
        f"apptainer run {name} --csv {several} > results.csv": "a table of many cases",
        f"apptainer run {name} -o arrays {inputs}": "arrays as arrays/<case>/<output>.npy",
        f"apptainer run --app serve {name}": "HTTP on 127.0.0.1:8080",
        f"apptainer run --app sandbox {name}": "its notebooks in Jupyter",
        f"apptainer run --app shell {name}": "a shell beside the model",
        f"apptainer test {name}": "predict its own samples",
    }
    width = max(len(command) for command in commands)
    yield from ("Use", *(f"  {command:<{width}}  {what}" for command, what in commands.items()), "")
    yield from textwrap.wrap(_VISIBLE, _WIDTH)


def _wrapped(name: str, value: object) -> list[str]:
    """A fact in lines of readable width; none for what nobody filled in."""
    text = shown(" ".join(str(value if value is not None else "").split()))
    indent = " " * (_INDENT if name else 0)
    return textwrap.wrap(
        text, _WIDTH, initial_indent=name.ljust(len(indent)), subsequent_indent=indent, break_on_hyphens=False
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _first_line(text: str) -> str:
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InvalidError(f"{shown(path)} cannot be read: {error.strerror}") from error
