"""Judge a model's config.json, in both of its forms, by the schemas of registry/schemas.

The schemas say what is right; what is said of a mistake is made here: its path, the rule, and the mend.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import referencing
from jsonschema import Draft202012Validator, FormatChecker

from modelhub_hpc import inputs, resources
from modelhub_hpc.contributing.findings import Finding, Level, error, meant, warning

CONFIG = "contrib_src/model/config.json"
_SCHEMAS = ("config-flat", "config-nested", "config-parts")
# keys without which the model cannot be run: no other key is taken for one of them
_NEEDED = {"id", "meta", "model", "io", "input", "output", "name", "type"}
_INPUT = ("model", "io", "input")
_AXES = 3  # that ModelHub compares with dim_limits
_KINDS = {
    "object": "an object {...}",
    "array": "a list [...]",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}
_PATTERNS = {
    "name": "lower-case letters, digits and single hyphens",
    "version": "three numbers, such as 1.0.0",
    "format": "a MIME type, such as image/png",
}
_UNNAMED_ARRAY = "ndarray"  # of a published model that runs all the same
_TOP_LEVEL = ("application", "audio", "example", "font", "image", "message", "model", "multipart", "text", "video")

Place = tuple["str | int", ...]
Fault = Any  # a jsonschema.ValidationError, whose parts may be of any type as far as its stubs know


def judge(data: bytes) -> Iterator[Finding]:
    """What is wrong with the text of a config.json."""
    try:
        config = json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except _Twice as twice:
        yield error("config", CONFIG, f"has the key '{twice}' twice in one object: one of them is lost", "Remove one.")
        return
    except (ValueError, RecursionError) as reason:
        yield error("config", CONFIG, f"is not JSON: {reason}", "Mend the text at that place.")
        return
    yield from judge_config(config)


def judge_config(config: Any) -> Iterator[Finding]:
    """What is wrong with a config.json that has been read."""
    faults = sorted(_validator(form(config)).iter_errors(config), key=lambda each: list(map(str, each.absolute_path)))
    told = set()
    for fault in faults:
        key = tuple(fault.absolute_path), fault.validator
        if fault.validator not in ("required", "additionalProperties") or key not in told:
            yield from _translated(fault)
        told.add(key)
    if not faults or all(fault.validator in ("additionalProperties", "required") for fault in faults):
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
def _schemas() -> dict[str, dict[str, Any]]:
    folder = resources.folder("registry") / "schemas"
    return {name: json.loads((folder / f"{name}.json").read_bytes()) for name in _SCHEMAS}


@functools.cache
def _validator(form: str) -> Draft202012Validator:
    documents = [(f"{name}.json", referencing.Resource.from_contents(each)) for name, each in _schemas().items()]
    known: referencing.Registry[Any] = referencing.Registry().with_resources(documents)
    return Draft202012Validator(_schemas()[f"config-{form}"], registry=known, format_checker=FormatChecker(["uuid"]))


# -- words ----------------------------------------------------------------------------------------------------------


def _translated(fault: Fault) -> Iterator[Finding]:
    place = tuple(fault.absolute_path)
    if fault.validator == "required":
        yield from _missing(place, fault.instance, fault.schema)
    elif fault.validator == "additionalProperties":
        yield from _unknown(place, fault.instance, fault.schema)
    else:
        yield _wrong(place, fault)


def _missing(place: Place, given: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Finding]:
    for key in schema["required"]:
        if key in given or key in _misspelled(given, schema).values():
            continue
        where, described = path((*place, key)), _described(schema, key)
        if (*place, key) == (*_INPUT, "format"):  # a published model lacks it, and the inputs say it too
            yield warning("config", CONFIG, f"{where} is missing", f"Add {described} of all inputs.")
        else:
            yield error("config", CONFIG, f"{where} is missing", f"Add it: {described}.")


def _described(schema: Mapping[str, Any], key: str) -> str:
    """What a key is to hold: an example, and its meaning where the schema tells."""
    found = _resolved(schema["properties"][key])
    example = f'"{key}": {json.dumps(found.get("examples", ["..."])[0])}'
    meaning = found.get("description", "").rstrip(".")
    return f"{example} ({meaning[:1].lower()}{meaning[1:]})" if meaning else example


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    part = schema["$ref"].rpartition("/")[2]
    return {**_schemas()["config-parts"]["$defs"][part], **schema}


def _unknown(place: Place, given: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Finding]:
    misspelled = _misspelled(given, schema)
    for key in sorted(set(given) - set(schema["properties"])):
        where = path((*place, key))
        if key in misspelled:
            level: Level = "error" if misspelled[key] in _NEEDED else "warning"
            mend = f"Did you mean '{misspelled[key]}'?"
        else:
            level, mend = "warning", f"Known here: {', '.join(schema['properties'])}. Remove it."
        yield Finding(level, "config", CONFIG, f"{where} is no key of config.json: nobody reads it", mend)


def _misspelled(given: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, str]:
    """Keys that are none, and the missing key that each of them may stand for."""
    properties = schema.get("properties", {})
    if schema.get("additionalProperties") is not False:
        return {}
    missing = set(properties) - set(given)
    near = {key: meant(key, missing) for key in given if key not in properties}
    return {key: known for key, known in near.items() if known}


def _wrong(place: Place, fault: Fault) -> Finding:
    where, value, rule = path(place), _shown(fault.instance), fault.validator_value
    key = next((word for word in reversed(place) if isinstance(word, str)), "")
    if fault.validator == "enum":
        return _wrong_type(where, fault.instance, rule)
    if fault.validator == "pattern":
        return _wrong_pattern(place, key, fault.instance)
    level: Level = "warning" if fault.validator == "minLength" and key != "name" else "error"
    what = _RULES[str(fault.validator)](rule)
    return Finding(level, "config", CONFIG, f"{where} is {value}: must be {what}", _mend(fault, key))


_RULES: dict[str, Callable[[Any], str]] = {
    "type": lambda rule: _KINDS[rule],
    "format": lambda rule: f"a {rule.upper()}",
    "minLength": lambda rule: "a text that is not empty",
    "minItems": lambda rule: f"a list of at least {rule}",
    "minimum": lambda rule: f"{rule} or more",
    "maximum": lambda rule: f"{rule} or less",
    "exclusiveMinimum": lambda rule: f"more than {rule}",
}


def _mend(fault: Fault, key: str) -> str:
    if fault.validator == "format":
        return "Make one:  python3 -c 'import uuid; print(uuid.uuid4())'"
    if fault.validator == "type" and fault.validator_value == "array":
        return f"Put it into brackets: [{_shown(fault.instance)}]."
    examples = fault.schema.get("examples", ())
    return f'For example: "{key}": {json.dumps(examples[0])}' if examples else "Write what it is."


def _wrong_type(where: str, given: Any, types: Sequence[str]) -> Finding:
    rule = f"{where} is {_shown(given)}: must be one of {', '.join(types)}"
    if given == _UNNAMED_ARRAY:
        mend = "It runs as custom. Say what the array is: mask_image for labels of pixels, heatmap, image, vector."
        return warning("config", CONFIG, rule, mend)
    near = meant(given, types) if isinstance(given, str) else None
    mend = f"Did you mean '{near}'?" if near else "custom is what has no type of its own."
    return error("config", CONFIG, rule, mend)


def _wrong_pattern(place: Place, key: str, given: str) -> Finding:
    what = f"{path(place)} is {_shown(given)}: must be {_PATTERNS[key]}"
    if key == "name":
        harmless = re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]*", given)
        better = re.sub("[^a-z0-9]+", "-", given.lower()).strip("-") or "my-model"
        return Finding("warning" if harmless else "error", "name", CONFIG, what, f"Call it '{better}'.")
    if key == "format":
        return error("mime", CONFIG, what, _better_type(given))
    return error("config", CONFIG, what, "Count up: 1.0.0, 1.0.1, 1.1.0, 2.0.0.")


def path(place: Sequence[str | int]) -> str:
    """
    >>> path(["model", "io", "output", 0, "type"]), path(["t1 c", "format"]), path([])
    ('model.io.output[0].type', '["t1 c"].format', 'the whole')
    """
    words = (
        f"[{each}]" if isinstance(each, int) else f".{each}" if each.isidentifier() else f"[{json.dumps(each)}]"
        for each in place
    )
    return "".join(words).removeprefix(".") or "the whole"


def _shown(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
        yield from _keys(given, [str(place[-1]) for place in sections])
    for place, section in sections.items():
        yield from _types(place, section.get("format", ()))
        yield from _limits(place, section.get("dim_limits", ()))
    names = [output.get("name") for output in outputs]
    for number, name in enumerate(names):
        if name in names[:number]:
            where = path(("model", "io", "output", number, "name"))
            yield error("config", CONFIG, f"{where} is {_shown(name)}, as another output is", "Name each differently.")


def _keys(given: Mapping[str, Any], keys: list[str]) -> Iterator[Finding]:
    where, overall = path((*_INPUT, "format")), given.get("format")
    if "single" in keys and len(keys) > 1:
        others = ", ".join(f"'{key}'" for key in keys if key != "single")
        what = f"{path(_INPUT)} has 'single' beside {others}"
        yield error("config", CONFIG, what, "single is for models with one input.")
    elif "single" not in keys and overall and overall != ["application/json"]:
        what = f'{where} is {_shown(overall)}: must be ["application/json"] where a case has several files'
        yield error("config", CONFIG, what, "Keep the types of the files in the inputs.")
    for key in keys:
        if "format" in key or "description" in key:
            what = f"{path((*_INPUT, key))}: a key with 'format' or 'description' in it is no input to ModelHub"
            yield error("config", CONFIG, what, "Name the input otherwise.")


def _types(place: Place, types: Sequence[str]) -> Iterator[Finding]:
    for number, given in enumerate(types):
        where = path((*place, "format", number))
        if given.split("/")[0].lower() not in _TOP_LEVEL:
            yield error("mime", CONFIG, f"{where} is {_shown(given)}, which is no MIME type", _better_type(given))
        elif not inputs.knows(given):
            what = f"{where} is {_shown(given)}: no files are known to be of that type, so none is found in a folder"
            yield warning("mime", CONFIG, what, _better_type(given))


def _better_type(given: str) -> str:
    near = inputs.mime(f"x.{given.lstrip('.')}") or meant(given, inputs.KNOWN_TYPES)
    return f"Did you mean '{near}'?" if near else f"Known are: {', '.join(sorted(inputs.KNOWN_TYPES))}."


def _limits(place: Place, limits: Sequence[Mapping[str, int]]) -> Iterator[Finding]:
    where = path((*place, "dim_limits"))
    if len(limits) != _AXES:
        what = f"{where} has {len(limits)} entries: ModelHub compares {_AXES}"
        yield warning("config", CONFIG, what, "Give channels or z, then y, then x; {} is no limit.")
    for number, limit in enumerate(limits):
        low, high = limit.get("min"), limit.get("max")
        if low is not None and high is not None and low > high:
            what = f"{where}[{number}] allows nothing: min {low} is more than max {high}"
            yield error("config", CONFIG, what, "Exchange them.")


class _Twice(Exception):
    """A key that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in keys if keys.count(key) > 1))
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read(folder: Path) -> bytes:
    """The text of a contribution's config.json. Raises OSError."""
    return (folder / CONFIG).read_bytes()
