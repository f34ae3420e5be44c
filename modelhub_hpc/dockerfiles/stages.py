"""The stages of a Dockerfile: what each starts from, which of them the wanted one needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modelhub_hpc.dockerfiles.instructions import Instruction
from modelhub_hpc.dockerfiles.variables import Value, evaluate, split, text_of
from modelhub_hpc.errors import InvalidError

_STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Stage:
    """One FROM and what follows it; base: an image; globals: the ARGs before the first FROM."""

    name: str
    base: str
    origin: Instruction
    instructions: tuple[Instruction, ...]
    globals: Mapping[str, Value]


def stages(instructions: Sequence[Instruction], build_args: Mapping[str, str]) -> list[Stage]:
    """All stages, in order; one that starts from another holds that one's instructions too."""
    found: list[Stage] = []
    known: dict[str, Value] = {}
    for each in instructions:
        if each.name == "FROM":
            found.append(_begun(each, found, known))
        elif found:
            found[-1] = replace(found[-1], instructions=(*found[-1].instructions, each))
        elif each.name == "ARG":
            known.update(arguments(each, known, build_args))
        else:
            raise each.error("it comes before the first FROM.")
    if not found:
        raise InvalidError("There is no FROM in it: this is no Dockerfile.")
    return found


def arguments(
    each: Instruction, known: Mapping[str, Value], build_args: Mapping[str, str]
) -> dict[str, Value]:
    """What an ARG sets: what the caller gives, else its default; nothing for one that has neither."""
    found: dict[str, Value] = {}
    for word in split(each.text):
        name, equals, default = word.partition("=")
        if name in build_args:
            found[name] = (build_args[name],) if build_args[name] else ()
        elif equals:
            found[name] = evaluate(default, known)
    return found


def _begun(origin: Instruction, before: Sequence[Stage], known: Mapping[str, Value]) -> Stage:
    words = origin.text.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        raise origin.error(f"'{origin.text}' is not of the form IMAGE [AS NAME].")
    name = words[2].lower() if len(words) == 3 else f"stage-{len(before)}"
    if not _STAGE_NAME.fullmatch(name):
        raise origin.error(f"'{name}' cannot be the name of a stage.")
    try:
        base = text_of(evaluate(words[0], known))
    except InvalidError as error:
        raise origin.error(str(error)) from None
    if parent := next((stage for stage in before if stage.name == base.lower()), None):
        return replace(parent, name=name, origin=origin)
    if base == "scratch":
        raise origin.error(
            "an image from scratch has no shell to make it with. Build it elsewhere and convert it."
        )
    return Stage(name, base, origin, (), dict(known))


def target_of(found: Sequence[Stage], name: str | None) -> Stage:
    """The stage to build: the last one, or the one called `name`, which may be its number."""
    if name is None:
        return found[-1]
    stage = _named(found, name)
    if stage is None:
        raise InvalidError(
            f"There is no stage '{name}'. There are: {', '.join(stage.name for stage in found)}"
        )
    return stage


def needed(found: Sequence[Stage], target: Stage) -> list[Stage]:
    """The stages that `target` takes files from, each before those that need it, and `target` itself last."""
    wanted: list[Stage] = []
    for each in target.instructions:
        if stage := source(each, found, target):
            wanted += [more for more in needed(found, stage) if more not in wanted]
    return [*wanted, target]


def source(each: Instruction, found: Sequence[Stage], stage: Stage) -> Stage | None:
    """What a COPY of `stage` takes files from; None where that is the build context.

    A stage before it; else an image, of which a stage is made that only starts from it.
    """
    name = dict(each.flags).get("from")
    if name is None:
        return None
    before = found[: found.index(stage)]
    return _named(before, name) or Stage(re.sub(r"[^a-z0-9._-]", "-", name.lower()), name, each, (), {})


def _named(found: Sequence[Stage], name: str) -> Stage | None:
    if name.isdigit() and int(name) < len(found):
        return found[int(name)]
    return next((stage for stage in reversed(found) if stage.name == name.lower()), None)
