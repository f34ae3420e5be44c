"""What is measured in a label map: its structures, and regions that are unions of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modelhub_hpc.errors import InvalidError, UsageError, shown

Labels = Mapping[int, str]
BACKGROUND = 0


@dataclass(frozen=True)
class Scheme:
    """What a user wants measured. labels: of the references, {} for those of the models.

    regions: the labels of each, by their names or numbers. words: by number, what the name of a label must contain in
    every model that is measured so; then labels are found by their numbers.
    """

    labels: Labels = field(default_factory=dict)
    regions: Mapping[str, Sequence[str | int]] = field(default_factory=dict)
    words: Labels = field(default_factory=dict)


# the labels of the BraTS challenges 2017 to 2020, and their three regions
BRATS = Scheme(
    labels={1: "non-enhancing core", 2: "oedema", 4: "enhancing"},
    regions={"whole tumour": (1, 2, 4), "tumour core": (1, 4), "enhancing tumour": (4,)},
    words={1: "core", 2: "edema", 4: "enhancing"},
)


@dataclass(frozen=True)
class Region:
    """A structure or a region. truth: its numbers in the references; found: in the masks of each model, in order.

    ranked: whether models are ranked by it.
    """

    name: str
    truth: frozenset[int]
    found: tuple[frozenset[int], ...]
    ranked: bool


@dataclass(frozen=True)
class Plan:
    """labels: every number that a reference may hold; of_models: that the masks of each model may hold."""

    regions: tuple[Region, ...]
    labels: Labels
    of_models: tuple[Labels, ...]
    notes: tuple[str, ...] = ()


def scheme_of(named: str | None) -> Scheme:
    """The one that is built in, or that in a YAML or JSON file; UsageError for what is neither."""
    if named is None:
        return Scheme()
    if named == "brats":
        return BRATS
    try:
        given = yaml.safe_load(Path(named).read_bytes())
    except OSError as error:
        raise UsageError(f"--regions {shown(named)}: {error.strerror}. Name a YAML or JSON file, or brats.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--regions {shown(named)} is no YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(given, dict) or not set(given) <= {"labels", "regions"}:
        raise _wrong(named, "has other keys than labels and regions")
    labels, regions = given.get("labels") or {}, given.get("regions") or {}
    if not isinstance(labels, dict) or not all(_number(k) and isinstance(v, str) for k, v in labels.items()):
        raise _wrong(named, "has labels that are not NUMBER: NAME, from 1 on")
    if not isinstance(regions, dict) or not all(isinstance(k, str) and _is_list(v) for k, v in regions.items()):
        raise _wrong(named, "has regions that are not NAME: [LABEL, ...]")
    return Scheme({int(number): name for number, name in labels.items()}, regions)


def _is_list(given: Any) -> bool:
    plain = isinstance(given, list) and bool(given)
    return plain and all(isinstance(each, str) or (_number(each) or 0) > 0 for each in given)


def _number(given: Any) -> int | None:
    if isinstance(given, bool) or not isinstance(given, (int, str)):
        return None
    return int(given) if str(given).isascii() and str(given).isdigit() else None


def _wrong(named: str, what: str) -> UsageError:
    return UsageError(f"""
        --regions {shown(named)} {what}. It should be like this, where labels are those of the references:
        labels: {{1: core, 2: oedema, 4: enhancing}}
        regions: {{whole tumour: [core, oedema, enhancing], tumour core: [core, enhancing]}}""")


def plan(scheme: Scheme, models: Sequence[tuple[str, Mapping[str, str]]]) -> Plan:
    """What to measure in the masks of these models: (name, what it declares of its labels).

    Every structure that all of them have, by its name, and the regions of the scheme, which are ranked by; without any,
    the structures are. InvalidError where nobody says what the labels mean, or models and scheme contradict each other.
    """
    notes = [
        f"{name} does not say what its labels mean: they are taken to be those of the references."
        for name, declared in models
        if not declared and scheme.labels
    ]
    maps = [_map(name, declared, scheme) for name, declared in models]
    truth = dict(scheme.labels) or _common([name for name, _ in models], maps)
    regions = [
        Region(name, _members(labels, truth, "references"), tuple(_each(labels, models, maps)), True)
        for name, labels in scheme.regions.items()
    ]
    for number, name in truth.items():
        if any(name == each.name for each in regions) or any(each.truth == {number} for each in regions):
            continue
        found = [_find(number if scheme.words else name, each) for each in maps]
        if None in found:
            lacking = ", ".join(model for (model, _), place in zip(models, found) if place is None)
            notes.append(f"{name} is not measured by itself: {lacking} has no label of that name.")
        else:
            members = tuple(frozenset({place}) for place in found if place is not None)
            regions.append(Region(name, frozenset({number}), members, not scheme.regions))
    if not regions:
        raise InvalidError("There is nothing to measure: the models have no label in common.")
    return Plan(tuple(regions), truth, tuple(maps), tuple(notes))


def _map(model: str, declared: Mapping[str, str], scheme: Scheme) -> Labels:
    labels = {int(number): name for number, name in declared.items() if _number(number)}
    if not labels and not scheme.labels:
        raise InvalidError(f"""
            Neither {shown(model)} nor its card says what the labels of its masks mean.
            Say it in a file:  --regions FILE  with  labels: {{1: NAME, 2: NAME}}""")
    for number, word in scheme.words.items():
        if labels and word not in labels.get(number, "").lower():
            known = ", ".join(f"{number} {name}" for number, name in labels.items())
            raise InvalidError(
                f"The regions 'brats' take label {number} for {scheme.labels[number]}. {shown(model)} has "
                f"{shown(known)}. Say in a file what its regions are: --regions FILE"
            )
    return labels or dict(scheme.labels)


def _common(names: Sequence[str], maps: Sequence[Labels]) -> Labels:
    """The labels of the references where nobody says so: those of the models, if they have the same."""
    for name, each in zip(names, maps):
        both = set(each) & set(maps[0])
        if any(_plain(each[number]) != _plain(maps[0][number]) for number in both) or not both:
            raise InvalidError(f"""
                {shown(names[0])} and {shown(name)} number their labels differently. Which numbers have the references?
                {_shown(names[0], maps[0])}
                {_shown(name, each)}
                Say it in a file:  --regions FILE  with  labels: {{1: NAME, 2: NAME}}""")
    return {number: name for each in reversed(maps) for number, name in each.items()}


def _each(
    labels: Sequence[str | int], models: Sequence[tuple[str, Mapping[str, str]]], maps: Sequence[Labels]
) -> Iterator[frozenset[int]]:
    for (name, _), known in zip(models, maps):
        yield _members(labels, known, name)


def _members(labels: Sequence[str | int], known: Labels, whose: str) -> frozenset[int]:
    found = {label: _find(label, known) for label in labels}
    for label, number in found.items():
        if number is None:
            raise InvalidError(f"--regions: {_shown(whose, known)}, and no {shown(label)!r}.")
    return frozenset(number for number in found.values() if number is not None)


def _find(label: str | int, known: Labels) -> int | None:
    """The number of a label that is given by its name, in any case, or by its number."""
    named = next((number for number, name in known.items() if _plain(name) == _plain(str(label))), None)
    number = _number(label)
    return named if named is not None else number if number in known else None


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _shown(whose: str, known: Labels) -> str:
    return f"{shown(whose)} has the labels " + shown(", ".join(f"{number} {name}" for number, name in known.items()))
