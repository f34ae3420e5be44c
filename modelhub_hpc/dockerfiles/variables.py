"""Variables and quotes in a Dockerfile, and how a shell is told the same.

A value is a sequence of pieces: text, and references to variables that only the base image can know (its PATH).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelhub_hpc.errors import InvalidError


@dataclass(frozen=True)
class Unknown:
    """A variable that the Dockerfile does not set; rest: what ${name...} says beside its name, as a shell reads it."""

    name: str
    rest: str = ""


Value = tuple["str | Unknown", ...]

_REFERENCE = re.compile(
    r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-+])(?P<word>[^}]*))?\})"
)
# a word goes on through quoted blanks, escaped ones and references
_WORD = re.compile(r"""(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|\$\{[^}]*\}|[^\s\\"']|[\\"'])+""", re.DOTALL)
_SAFE_IN_ASSIGNMENT = re.compile(r"[\w@%+:,./=-]*", re.ASCII)


def split(text: str) -> list[str]:
    """The words of an instruction, still with quotes, escapes and references.

    >>> split('A="b c" D=e\\\\ f')
    ['A="b c"', 'D=e\\\\ f']
    """
    return _WORD.findall(text)


def evaluate(raw: str, known: Mapping[str, Value]) -> Value:
    """A word as Docker reads it: quotes and escapes resolved, known variables replaced.

    >>> evaluate('"$A/$B"', {"A": ("x y",)})
    ('x y/', Unknown(name='B', rest=''))
    """
    return _joined(_pieces(raw, known))


def substituted(text: str, known: Mapping[str, Value]) -> str:
    """Text with known variables replaced, in which quotes mean nothing. InvalidError for one that is not known.

    >>> substituted('"$A" \\\\$A', {"A": ("x",)})
    '"x" $A'
    """

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "\\$" else text_of(_referred(match, known))

    return re.sub(r"\\\$|" + _REFERENCE.pattern, value, text)


def _pieces(raw: str, known: Mapping[str, Value]) -> Iterator[str | Unknown]:
    at, quoted = 0, False
    while at < len(raw):
        char = raw[at]
        if char == "'" and not quoted and (end := raw.find("'", at + 1)) > 0:
            yield raw[at + 1 : end]
            at = end + 1
        elif char == '"':
            quoted = not quoted
            at += 1
        elif char == "\\" and at + 1 < len(raw):
            kept = quoted and raw[at + 1] not in '"$\\'
            yield raw[at : at + 2] if kept else raw[at + 1]
            at += 2
        elif char == "$" and (match := _REFERENCE.match(raw, at)):
            yield from _referred(match, known)
            at = match.end()
        elif raw.startswith("${", at):
            raise InvalidError(
                f"'{raw}' changes a variable in a way that only newer versions of Docker know."
            )
        else:
            yield char
            at += 1


def _referred(match: re.Match[str], known: Mapping[str, Value]) -> Value:
    name, how = match["bare"] or match["name"], match["how"] or ""
    value = known.get(name)
    if value is None:
        word = text_of(evaluate(match["word"], known)) if how else ""
        return (Unknown(name, f"{how}{word}"),)
    if how.endswith("+"):
        wanted = bool(value) or not how.startswith(":")
        return evaluate(match["word"], known) if wanted else ()
    if how == ":-" and not value:
        return evaluate(match["word"], known)
    return value


def _joined(pieces: Iterator[str | Unknown]) -> Value:
    found: list[str | Unknown] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        elif piece:
            found.append(piece)
    return tuple(found)


def unknown(value: Value) -> list[str]:
    """The variables that only the base image can know."""
    return [piece.name for piece in value if isinstance(piece, Unknown)]


def text_of(value: Value) -> str:
    """The value where it has to be known. Raises InvalidError naming the variable that is not."""
    for name in unknown(value):
        raise InvalidError(f"${name} is not set in this Dockerfile. Give its value: --build-arg {name}=VALUE")
    return "".join(piece for piece in value if isinstance(piece, str))


def for_shell(value: Value) -> str:
    """The value as the right side of an assignment in a shell.

    >>> for_shell(("/opt/bin:", Unknown("PATH"))), for_shell(("a b",)), for_shell(())
    ('"/opt/bin:${PATH}"', "'a b'", '')
    """
    if unknown(value):
        return '"' + "".join(map(_in_quotes, value)) + '"'
    text = text_of(value)
    return text if _SAFE_IN_ASSIGNMENT.fullmatch(text) else shlex.quote(text)


def _in_quotes(piece: str | Unknown) -> str:
    if isinstance(piece, Unknown):
        return "${" + piece.name + _escaped(piece.rest) + "}"
    return _escaped(piece)


def _escaped(text: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", text)
