"""All models that the registries know or this server serves; and one of them, with all that is known of it."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
from werkzeug.wrappers import Response

from modelhub_hpc import models
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.models import citation, pulled, shelves
from modelhub_hpc.models.entry import Entry, Limit
from modelhub_hpc.models.search import Wanted, matches, nearest
from modelhub_hpc.models.shelves import Found
from modelhub_hpc.service.pages import pictures
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import Service

_LICENCE_CHARS = 50_000
_WEB = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True)
class Known:
    """A model of a registry, or one that is served, or both; at least one of found and contribution is there."""

    name: str
    found: Found | None
    contribution: Contribution | None
    facts: Mapping[str, Any]  # its config.json, where it is served
    folder: Path | None  # of its contribution, where that is here

    @property
    def entry(self) -> Entry | None:
        return self.found.entry if self.found else None

    @property
    def served(self) -> bool:
        return self.contribution is not None

    @property
    def title(self) -> str:
        return self.entry.title if self.entry else self.name

    @property
    def description(self) -> str:
        return self.entry.description if self.entry else str(self._part("model").get("description", ""))

    @property
    def task(self) -> str:
        return self.entry.task if self.entry else str(self._part("meta").get("task", ""))

    @property
    def modality(self) -> str:
        return (self.entry.modality or "") if self.entry else ""

    @property
    def data(self) -> str:
        return self.entry.data_type if self.entry else str(self._part("meta").get("data_type", ""))

    @property
    def licence(self) -> str:
        return (self.entry.licence.model or "") if self.entry and self.entry.licence else ""

    @property
    def backend(self) -> str:
        return ", ".join(self.entry.backend) if self.entry else ""

    @property
    def runs_on(self) -> str:
        entry = self.entry
        return ", ".join((*entry.backend, f"Python {entry.python or '?'}", *entry.newest.image.holds)) if entry else ""

    @property
    def outputs(self) -> list[str]:
        given = self.contribution.outputs if self.contribution else self.entry.io.outputs if self.entry else ()
        return list(dict.fromkeys(each.type for each in given))

    @property
    def architecture(self) -> str:
        return str(self._part("model").get("architecture", ""))

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self.facts.get(name)
        return part if isinstance(part, dict) else {}


# what the registry can be narrowed by: the name in the address, what people read, and what a model has of it
_FACETS: Mapping[str, tuple[str, Callable[[Known], Sequence[str]]]] = {
    "task": ("Task", lambda known: [known.task]),
    "modality": ("Modality", lambda known: [known.modality]),
    "data": ("Data", lambda known: [known.data]),
    "output": ("Output", lambda known: known.outputs),
    "backend": ("Framework", lambda known: known.backend.split(", ")),
    "licence": ("Licence", lambda known: [known.licence]),
}


def add(pages: flask.Blueprint, service: Service) -> None:
    @pages.get("/")
    def registry() -> str:
        return flask.render_template("registry.html", **_listing(service, flask.request.args))

    @pages.get("/models/<name>")
    def model(name: str) -> str:
        known = find(service, name)
        found = known.found
        return flask.render_template(
            "model.html",
            known=known,
            inputs=list(_inputs(known)),
            outputs=list(_outputs(known)),
            bibtex=citation.bibtex(found.entry) if found else None,
            licences=list(_licences(known)),
            versions=_versions(found) if found else [],
            thumbnail=has_thumbnail(known),
        )

    @pages.get("/models/<name>/thumbnail.png")
    def thumbnail(name: str) -> Response:
        folder = find(service, name).folder
        picture = pictures.thumbnail(folder) if folder else None
        if picture is None:
            raise Refused(404, f"'{name}' has no thumbnail.")
        return pictures.reply(picture, for_s=3600)

    @pages.app_template_test("web_address")
    def web_address(text: str) -> bool:
        """Whether it may be a link: a registry may be anybody's, and javascript: is an address too."""
        return bool(_WEB.fullmatch(text))


def find(service: Service, name: str) -> Known:
    """Refused (404) for a model that neither a registry nor this server knows."""
    found = None
    with suppress(InvalidError):
        found = shelves.find(name, _shelves(service))
    if found is None and name not in service.models:
        raise Refused(404, f"Neither a registry nor this server has a model '{name}'.")
    return _known(service, name, found)


def label_names(service: Service, model: str, output: str) -> Mapping[str, str]:
    """What the numbers of a mask mean, as far as the registry knows."""
    with suppress(Refused):
        entry = find(service, model).entry
        given = next((each for each in entry.io.outputs if each.name == output), None) if entry else None
        return (given.labels or {}) if given else {}
    return {}


def has_thumbnail(known: Known) -> bool:
    return known.folder is not None and pictures.thumbnail(known.folder) is not None


def _shelves(service: Service) -> Sequence[shelves.Shelf]:
    """Those that can be read: a server goes on without a registry that was not fetched yet."""
    with suppress(InvalidError):
        return shelves.shelves(service.settings.site)
    return [shelves.shipped()]


def _known(service: Service, name: str, found: Found | None) -> Known:
    contribution = service.models[name].contribution if name in service.models else None
    if found and contribution and found.entry.id != contribution.id:
        found = None  # another model of that name
    facts = _config(contribution.path, contribution.digest) if contribution else {}
    folder = contribution.path if contribution else _folder(service, name)
    return Known(name, found, contribution, facts, folder)


@functools.lru_cache(maxsize=64)
def _config(folder: Path, digest: str) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = json.loads((folder / "contrib_src/model/config.json").read_bytes())
    return facts


def _folder(service: Service, name: str) -> Path | None:
    """Where a model that is not served lies here; what it holds is not looked at."""
    if "/" in name or name.startswith("."):
        return None
    brought = pulled.find(name, service.settings.site)
    places = [place / name for place in (*service.settings.site.model_dirs, models.shipped())]
    return next((path for path in (*places, *([brought.path] if brought else [])) if path.is_dir()), None)


def _listing(service: Service, given: Mapping[str, str]) -> dict[str, Any]:
    every = list(_every(service))
    words = given.get("q", "").split()[:20]
    chosen = {name: value for name in _FACETS if (value := given.get(name, ""))}
    here = given.get("here") == "1"
    kept = [known for known in every if _says(known, words) and _has(known, chosen) and (known.served or not here)]
    guesses = nearest(words, [known.entry for known in every if known.entry]) if words and not kept else {}
    return {
        "models": kept,
        "thumbnails": {known.name for known in kept if has_thumbnail(known)},
        "total": len(every),
        "words": " ".join(words),
        "facets": [_facet(name, every, chosen) for name in _FACETS],
        "here": here,
        "narrowed": bool(words or chosen or here),
        "guess": next((guess for guess in guesses.values() if guess), None),
    }


def _every(service: Service) -> Iterator[Known]:
    """Served ones first, then by name."""
    found, _ = shelves.everything(_shelves(service))
    by_name = {each.entry.name: each for each in found}
    names = {*by_name, *service.models}
    for name in sorted(names, key=lambda name: (name not in service.models, name.lower())):
        yield _known(service, name, by_name.get(name))


def _says(known: Known, words: Sequence[str]) -> bool:
    if known.entry:
        return matches(known.entry, Wanted(words=tuple(words)))
    text = f"{known.name} {known.description} {known.task} {known.data}".lower()
    return all(word.lower() in text for word in words)


def _has(known: Known, chosen: Mapping[str, str]) -> bool:
    return all(value in _FACETS[name][1](known) for name, value in chosen.items())


def _facet(name: str, every: Sequence[Known], chosen: Mapping[str, str]) -> dict[str, Any]:
    title, values = _FACETS[name]
    counts = Counter(value for known in every for value in values(known) if value)
    return {"name": name, "title": title, "counts": sorted(counts.items()), "chosen": chosen.get(name, "")}


def _inputs(known: Known) -> Iterator[tuple[str, str, str, str]]:
    """(name, formats, size, description)"""
    if known.entry:
        for taken in known.entry.io.inputs:
            size = " × ".join(map(_limit, taken.dim_limits))
            yield taken.key or "single", ", ".join(taken.mime), size, taken.description or ""
    elif known.contribution:
        for spec in known.contribution.inputs:
            size = " × ".join(_limit(Limit(*limit)) for limit in spec.dim_limits)
            yield spec.key, ", ".join(spec.formats), size, spec.description


def _limit(limit: Limit) -> str:
    if limit.min == limit.max:
        return "any" if limit.min is None else str(limit.min)
    return f"≥ {limit.min}" if limit.max is None else f"{limit.min or 0}–{limit.max}"


def _outputs(known: Known) -> Iterator[tuple[str, str, str, str, str]]:
    """(name, type, axes, labels, description)"""
    if known.entry:
        for given in known.entry.io.outputs:
            labels = ", ".join(f"{value} {name}" for value, name in (given.labels or {}).items())
            yield given.name, given.type, given.axes or "", labels, given.description or ""
    elif known.contribution:
        for spec in known.contribution.outputs:
            yield spec.name, spec.type, spec.axes, "", spec.description


def _licences(known: Known) -> Iterator[tuple[str, str]]:
    """(what it is of, its text), of those that lie in the contribution."""
    for name, what in (("model", "Model"), ("sample_data", "Sample data")):
        path = known.folder / "contrib_src/license" / name if known.folder else None
        if path and path.is_file():
            yield what, path.read_text("utf-8", "replace")[:_LICENCE_CHARS]


def _versions(found: Found) -> list[dict[str, Any]]:
    """The newest first."""
    return [{"version": each, "source": found.source(each)} for each in reversed(found.entry.versions)]
