"""A table in the forms that people take away: CSV with bare numbers, Markdown and LaTeX to be read."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc.runfolder import replacing

Cell = str | int | float | None

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}
_MARKDOWN = re.compile(r"([\\`*_|<>\[\]#])")


@dataclass(frozen=True)
class Table:
    """title: a sentence. header, rows: as people read them. notes: what stands below. words: columns before numbers.

    records: the same, or more, as bare numbers, with the same names in every row; None is an empty cell.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Cell]]
    notes: Sequence[str] = ()
    words: int = 1

    def markdown(self) -> str:
        ruler = f"|{' --- |' * self.words}{' --: |' * (len(self.header) - self.words)}"
        lines = [_in_cells(self.header), ruler, *map(_in_cells, self.rows)]
        return "\n\n".join([f"**{_in_markdown(self.title)}**", "\n".join(lines), *map(_in_markdown, self.notes)]) + "\n"

    def latex(self) -> str:
        """A table for \\usepackage{booktabs}."""
        rows = [" & ".join(map(in_latex, row)) + r" \\" for row in self.rows]
        notes = [rf"\footnotesize {in_latex(note)}\par" for note in self.notes]
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{table}",
                r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
                rf"\caption{{{in_latex(self.title)}}}",
                rf"\begin{{tabular}}{{@{{}}{'l' * self.words}{'r' * (len(self.header) - self.words)}@{{}}}}",
                r"\toprule",
                " & ".join(map(in_latex, self.header)) + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\par\smallskip\begin{minipage}{\linewidth}",
                *notes,
                r"\end{minipage}",
                r"\end{table}",
                "",
            ]
        )

    def write(self, folder: Path) -> None:
        """NAME.csv, NAME.md and NAME.tex, each whole or as it was."""
        write_csv(folder / f"{self.name}.csv", self.records)
        for ending, text in ((".md", self.markdown()), (".tex", self.latex())):
            with replacing(folder / f"{self.name}{ending}") as stream:
                stream.write(text)


def write_csv(path: Path, records: Iterable[Mapping[str, Cell]]) -> None:
    """Rows of one form; numbers as Python writes them, which is all their digits."""
    rows = ({_stored(name): _stored(value) for name, value in record.items()} for record in records)
    first: dict[str, Cell] = next(rows, {})
    with replacing(path) as stream:
        table = csv.DictWriter(stream, list(first), lineterminator="\n")
        table.writeheader()
        table.writerows(itertools.chain([first] if first else [], rows))


def _stored(value: Any) -> Any:
    """Text of models may hold half characters, which no file can."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def in_latex(text: str) -> str:
    """
    >>> in_latex("U-Net_v2: 95 %")
    'U-Net\\\\_v2: 95 \\\\%'
    """
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def one_line(text: str) -> str:
    """Text from models and files as a cell can hold it."""
    return "".join(each if each.isprintable() else " " for each in text)


def _in_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def _in_cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(map(_in_markdown, row))} |"


def p_words(p: float) -> str:
    """
    >>> p_words(0.0000123), p_words(0.0312), p_words(0.54)
    ('< 0.0001', '0.031', '0.54')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
