"""JSON held up against a JSON Schema: every problem with its place, the rule, and the mend from the schema itself."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc.errors import InvalidError, shown

# jsonschema is imported where it is used: that takes longer than all else that `mh-hpc models` does

Schema = Mapping[str, Any]
_LARGEST = 1 << 20
_SHOWN = 60


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. path: where, such as "versions[0].image.name"; "" is the whole.

    kind: the schema's word for the rule, such as "required"; "" for a rule that no schema can tell.
    """

    path: str
    rule: str
    mend: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.path or '(all)'}: {self.rule}. {self.mend}"


def load(path: Path) -> Any:
    """The JSON in a file; InvalidError if it is no strict JSON: NaN, say, or a name that comes twice."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidError(f"{shown(path)} cannot be read: {error.strerror}.") from error
    if len(raw) > _LARGEST:
        raise InvalidError(f"{shown(path)} is larger than {_LARGEST} bytes, which no file of this kind is.")
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")  # not so with NaN, 1e999, half characters
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{shown(path)} is no JSON: {shown(error)}.") from error
    return data


def problems(data: Any, schema: Schema) -> list[Problem]:
    """Everything in which the data breaks the schema's rules."""
    return [problem for error in _validator(schema).iter_errors(data) for problem in _told(error)]


def place(parts: Any) -> str:
    """
    >>> place(["versions", 0, "image", "a b"])
    'versions[0].image["a b"]'
    """
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_]\w*", part, re.ASCII):
            text += f".{part}"
        else:
            text += f"[{json.dumps(part)}]"
    return text.removeprefix(".")


def _validator(schema: Schema) -> Any:
    from jsonschema import validators

    extend: Any = validators.extend
    return extend(validators.validator_for(schema), {"pattern": _pattern})(schema)


def _pattern(validator: Any, pattern: str, value: Any, schema: Schema) -> Iterator[Any]:
    """As JSON Schema has it, where $ is the very end; to Python it is also before a last line break."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not re.search(re.sub(r"\$\Z", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _told(error: Any) -> Iterator[Problem]:
    where = place(error.absolute_path)
    if error.validator == "additionalProperties" and error.validator_value is False:
        known = list(error.schema.get("properties", ()))
        for name in sorted(set(error.instance) - set(known)):
            path = place([*error.absolute_path, name])
            yield Problem(path, "there is no such property", _instead(name, known), error.validator)
    elif error.validator == "required":
        # jsonschema makes one error of each name that is missing
        name = next(name for name in error.validator_value if error.message.startswith(f"{name!r} is a required"))
        asked = error.schema.get("properties", {}).get(name, {})
        path = place([*error.absolute_path, name])
        yield Problem(path, "is missing", f"Add it: {_wanted(asked)}", error.validator)
    else:
        yield Problem(where, _rule(error), _meant(error) or _wanted(error.schema), error.validator)


def _meant(error: Any) -> str:
    word, known = error.instance, [str(each) for each in error.validator_value] if error.validator == "enum" else []
    near = nearest(word, known) if isinstance(word, str) else None
    return f"Did you mean '{near}'?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The word that somebody who wrote this may have meant.

    >>> nearest("provevance", ["provenance", "format"]), nearest("mask", ["mask_image"]), nearest("x", ["y"])
    ('provenance', 'mask_image', None)
    """
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.55)
    return near[0] if near else None


def _rule(error: Any) -> str:
    found, asked = _brief(error.instance), error.validator_value
    tell: Mapping[str, Callable[[], str]] = {
        "type": lambda: f"{found} is not of type {_or([asked] if isinstance(asked, str) else asked)}",
        "enum": lambda: f"{found} is none of {', '.join(map(_brief, asked))}",
        "const": lambda: f"{found} is not {_brief(asked)}",
        "pattern": lambda: f"{found} is not written as it must be",
        "minLength": lambda: "is empty" if asked == 1 else f"{found} is shorter than {asked} characters",
        "maxLength": lambda: f"{found} is longer than {asked} characters",
        "minItems": lambda: "is empty" if asked == 1 else f"has less than {asked} items",
        "uniqueItems": lambda: "holds the same item twice",
        "minimum": lambda: f"{found} is less than {asked}",
        "maximum": lambda: f"{found} is more than {asked}",
        "exclusiveMinimum": lambda: f"{found} is not more than {asked}",
    }
    return tell.get(error.validator, lambda: f"{found} breaks the rule '{error.validator}': {_brief(asked)}")()


def _wanted(schema: Schema) -> str:
    text = str(schema.get("description", "See the schema."))
    examples = schema.get("examples", ())
    return f"{text} Example: {json.dumps(examples[0], ensure_ascii=False)}." if examples else text


def _instead(name: str, known: list[str]) -> str:
    near = nearest(name, known)
    return f"Did you mean '{near}'?" if near else f"Remove it; known here: {', '.join(known)}."


def _or(words: list[str]) -> str:
    return " or ".join(words)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the name {json.dumps(twice)} comes twice in one object")
    return dict(pairs)
