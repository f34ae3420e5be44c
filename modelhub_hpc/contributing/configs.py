"""Judge a model's config.json, in both of its forms, by the schemas of registry/schemas and by what none can say."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelhub_hpc import inputs, resources, schemas
from modelhub_hpc.contributing.findings import Finding, Level, error, warning
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.schemas import Problem, place

CONFIG = "contrib_src/model/config.json"
# keys without which the model cannot be run: they are in error where others are only missed
_NEEDED = {"id", "meta", "model", "io", "input", "output", "name", "type"}
_INPUT = ("model", "io", "input")
_AXES = 3  # that ModelHub compares with dim_limits
_HARMLESS = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")  # names that published models have
_UNNAMED_ARRAY = "ndarray"  # the type of an output of a published model, which runs all the same
_TOP_LEVEL = ("application", "audio", "example", "font", "image", "message", "model", "multipart", "text", "video")

Place = tuple["str | int", ...]


def read(folder: Path) -> bytes:
    """The text of a contribution's config.json. Raises OSError."""
    return (folder / CONFIG).read_bytes()


def judge(folder: Path) -> Iterator[Finding]:
    """What is wrong with the config.json of a contribution; one that is missing is not ours to miss."""
    if not (folder / CONFIG).is_file():
        return
    try:
        config = schemas.load(folder / CONFIG)
    except InvalidError as reason:
        what = str(reason).partition(CONFIG)[2].strip().rstrip(".")
        yield error("config", CONFIG, what, "Mend the text at that place.")
        return
    yield from judge_config(config)


def judge_config(config: Any) -> Iterator[Finding]:
    """What is wrong with a config.json that has been read."""
    found = schemas.problems(config, _schema(form(config)))
    missing = {each.path for each in found if each.kind == "required"}
    meant = {_meant(each) for each in found if each.kind == "additionalProperties"}
    for each in found:
        if each.kind != "required" or each.path not in meant:
            yield _finding(each, missing, config)
    if all(each.kind in ("additionalProperties", "required", "enum") for each in found):
        yield from _sense(config)


def form(config: Any) -> str:
    """Which form a config.json has: "nested" where model.io.input holds objects, else "flat"."""
    try:
        given = config["model"]["io"]["input"]
        nested = "dim_limits" not in given and any(isinstance(value, dict) for value in given.values())
    except (KeyError, TypeError, AttributeError):
        nested = True
    return "nested" if nested else "flat"


@functools.cache
def _schema(form: str) -> schemas.Schema:
    """The schema of one form, with what both share in its places."""
    folder = resources.folder("registry") / "schemas"
    given, shared = (json.loads((folder / f"config-{name}.json").read_bytes()) for name in (form, "parts"))
    whole: schemas.Schema = _filled(given, shared["$defs"])
    return whole


def _filled(node: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_filled(each, parts) for each in node]
    if not isinstance(node, dict):
        return node
    filled = {key: _filled(value, parts) for key, value in node.items() if key != "$ref"}
    part = _filled(parts[node["$ref"].rpartition("/")[2]], parts) if isinstance(node.get("$ref"), str) else {}
    return {**part, **filled}


def _finding(problem: Problem, missing: set[str], config: Any) -> Finding:
    level: Level = "warning" if _is_harmless(problem, missing, config) else "error"
    if re.search(r"\.format\[\d+\]$", problem.path) and problem.kind == "pattern":
        given = _at(config, problem.path)
        return error("mime", CONFIG, f"{problem.path}: {problem.rule}", _better_type(given))
    if problem.kind == "enum" and level == "warning":
        mend = "It runs as custom. Say what it is: mask_image for labels of pixels, heatmap, image, vector."
        return warning("config", CONFIG, f"{problem.path}: {problem.rule}", mend)
    check = "name" if problem.path == "meta.name" else "config"
    return Finding(level, check, CONFIG, f"{problem.path or 'the whole'}: {problem.rule}", problem.mend)


def _is_harmless(problem: Problem, missing: set[str], config: Any) -> bool:
    """Whether the model runs all the same, as published models with that deviation do."""
    if problem.kind == "additionalProperties":
        meant = _meant(problem)
        return meant not in missing or meant.rpartition(".")[2] not in _NEEDED
    if problem.kind == "required":
        return problem.path == place((*_INPUT, "format"))  # the inputs say it too
    if problem.kind == "enum":
        return bool(_at(config, problem.path) == _UNNAMED_ARRAY)
    if problem.path == "meta.name":
        return problem.kind == "pattern" and bool(_HARMLESS.fullmatch(config["meta"]["name"]))
    return problem.kind == "minLength" and not problem.path.endswith(".name")


def _meant(problem: Problem) -> str:
    """The path of the key that an unknown one may stand for; "" for none."""
    word = re.fullmatch(r"Did you mean '(.+)'\?", problem.mend)
    return place((*problem.path.split(".")[:-1], word[1])) if word else ""


def _at(config: Any, path: str) -> Any:
    for name, number in re.findall(r"(\w+)|\[(\d+)\]", path):
        config = config[int(number)] if number else config[name]
    return config


# -- what no schema can say -----------------------------------------------------------------------------------------


def _sense(config: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        given, outputs = config["model"]["io"]["input"], config["model"]["io"]["output"]
    except KeyError:
        return  # said already
    if form(config) == "flat":
        sections: dict[Place, Any] = {_INPUT: given}
    else:
        sections = {(*_INPUT, key): value for key, value in given.items() if isinstance(value, dict)}
        yield from _keys(given, [str(path[-1]) for path in sections])
    for path, section in sections.items():
        yield from _types(path, section.get("format", ()))
        yield from _limits(path, section.get("dim_limits", ()))
    names = [output.get("name") for output in outputs]
    for number, name in enumerate(names):
        if name in names[:number]:
            where = place(("model", "io", "output", number, "name"))
            yield error("config", CONFIG, f"{where}: {json.dumps(name)} is another output too", "Name each otherwise.")


def _keys(given: Mapping[str, Any], keys: list[str]) -> Iterator[Finding]:
    where, overall = place((*_INPUT, "format")), given.get("format")
    if "single" in keys and len(keys) > 1:
        what = f"{place(_INPUT)}: single is for models with one input, and here are {len(keys)}"
        yield error("config", CONFIG, what, "Name each input by what it holds, such as t1 and flair.")
    elif "single" not in keys and overall and overall != ["application/json"]:
        what = f'{where}: {json.dumps(overall)} is not ["application/json"], though a case has several files'
        yield error("config", CONFIG, what, "Keep the types of the files in the inputs.")
    for key in keys:
        if "format" in key or "description" in key:
            what = f"{place((*_INPUT, key))}: a key with 'format' or 'description' in it is no input to ModelHub"
            yield error("config", CONFIG, what, "Name the input otherwise.")


def _types(path: Place, types: Sequence[str]) -> Iterator[Finding]:
    for number, given in enumerate(types):
        where = f"{place((*path, 'format', number))}: {json.dumps(given)}"
        if given.split("/")[0].lower() not in _TOP_LEVEL:
            yield error("mime", CONFIG, f"{where} is no MIME type", _better_type(given))
        elif not inputs.knows(given):
            what = f"{where} is a type that no file is known to be of, so that none is found in a folder"
            yield warning("mime", CONFIG, what, _better_type(given))


def _better_type(given: str) -> str:
    near = inputs.mime(f"x.{given.lstrip('.')}") or schemas.nearest(given, sorted(inputs.KNOWN_TYPES))
    return f"Did you mean '{near}'?" if near else f"Known are: {', '.join(sorted(inputs.KNOWN_TYPES))}."


def _limits(path: Place, limits: Sequence[Mapping[str, int]]) -> Iterator[Finding]:
    where = place((*path, "dim_limits"))
    if len(limits) != _AXES:
        what = f"{where}: has {len(limits)} entries, where ModelHub compares {_AXES}"
        yield warning("config", CONFIG, what, "Give channels or z, then y, then x; {} is no limit.")
    for number, limit in enumerate(limits):
        low, high = limit.get("min"), limit.get("max")
        if low is not None and high is not None and low > high:
            what = f"{where}[{number}]: allows nothing, since min {low} is more than max {high}"
            yield error("config", CONFIG, what, "Exchange them.")
