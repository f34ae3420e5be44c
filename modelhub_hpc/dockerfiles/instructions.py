"""Read a Dockerfile into its instructions: directives, comments, continued lines, flags and here-documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelhub_hpc.errors import InvalidError

NAMES = frozenset(
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER"
    " VOLUME WORKDIR".split()
)
_WITH_FLAGS = frozenset({"ADD", "COPY", "FROM", "HEALTHCHECK", "RUN"})
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})
_DIRECTIVE = re.compile(r"#\s*([A-Za-z]+)\s*=\s*(\S+)\s*$")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
_HEREDOC = re.compile(r"""(?<!\S)\d*<<(-?)(["']?)([A-Za-z_][A-Za-z0-9_.]*)\2(?![^\s;&|)>])""")


@dataclass(frozen=True)
class Heredoc:
    """The lines after an instruction up to `end`. literal: nothing is expanded in them."""

    end: str
    body: str
    literal: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction; line: where it begins, from 1; lines: its words after the flags, as the file breaks them."""

    line: int
    name: str
    flags: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def text(self) -> str:
        """Its words as Docker reads them: lines that are continued are one."""
        return "".join(self.lines).strip()

    def words_of_json(self) -> list[str] | None:
        """The words of the JSON ("exec") form; None for the other form."""
        try:
            words = json.loads(self.text)
        except ValueError:
            return None
        return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None

    def error(self, message: str) -> InvalidError:
        return InvalidError(f"line {self.line}: {self.name}: {message}")


def read(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, in order. Raises InvalidError with the line at fault."""
    return list(_Lines(text).instructions())


class _Lines:
    """The lines of a file, taken one by one."""

    def __init__(self, text: str) -> None:
        # only line feeds end lines here; str.splitlines knows ten more characters that do
        self._lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
        self._next = 0
        self._escape = self._directives().get("escape", "\\")
        if self._escape not in ("\\", "`"):
            raise InvalidError(f"line 1: the escape character is \\ or `, not {self._escape}")

    def _directives(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in self._lines:
            match = _DIRECTIVE.match(line.strip())
            if not match:
                break
            found[match[1].lower()] = match[2]
        return found

    def instructions(self) -> Iterator[Instruction]:
        while self._next < len(self._lines):
            if _is_empty(self._lines[self._next]):
                self._next += 1
            else:
                yield self._instruction()

    def _instruction(self) -> Instruction:
        begin = self._next + 1
        first, *rest = self._continued()
        word = first.split(maxsplit=1)[0] if first.strip() else ""
        name = word.upper()
        if name not in NAMES:
            raise InvalidError(f"line {begin}: '{word}' is no instruction of a Dockerfile.")
        # what follows the name keeps the blank at its end, which parts it from the next line
        lines = (first.lstrip()[len(word) :].lstrip(), *rest)
        flags, lines = _flags(lines) if name in _WITH_FLAGS else ((), lines)
        heredocs = tuple(self._heredocs(lines, begin)) if name in _WITH_HEREDOCS else ()
        found = Instruction(begin, name, flags, lines, heredocs)
        if not found.text:
            raise found.error("it has no argument.")
        return found

    def _continued(self) -> list[str]:
        """The lines of one instruction without what joins them; comments and empty lines between them go."""
        found: list[str] = []
        while self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            if _is_empty(line):
                continue
            bare = line.rstrip()
            if not bare.endswith(self._escape):
                return [*found, line]
            found.append(bare[:-1])
        return found

    def _heredocs(self, lines: tuple[str, ...], begin: int) -> Iterator[Heredoc]:
        for dash, quote, end in _HEREDOC.findall("".join(lines)):
            yield Heredoc(end, self._body(end, bool(dash), begin), bool(quote))

    def _body(self, end: str, tabs: bool, begin: int) -> str:
        found = ""
        while self._next < len(self._lines):
            line = self._lines[self._next].lstrip("\t" if tabs else "")
            self._next += 1
            if line == end:
                return found
            found += line + "\n"
        raise InvalidError(f"line {begin}: the here-document that begins here has no end, a line '{end}'.")


def _is_empty(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _flags(lines: tuple[str, ...]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The --flags at the beginning, which may stand on lines of their own, and what follows them."""
    found: list[tuple[str, str]] = []
    first, *rest = lines
    while True:
        while match := _FLAG.match(first := first.lstrip()):
            found.append((match[1], match[2] or ""))
            first = first[match.end() :]
        if first or not rest:
            return tuple(found), (first, *rest)
        first, *rest = rest
