"""How a model's publication is cited."""

from __future__ import annotations

import re

from modelhub_hpc.models.entry import Entry, Reference

_SPECIAL = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
_MEETING = re.compile(r"proceedings|conference|workshop|symposium|meeting", re.IGNORECASE)


def bibtex(entry: Entry) -> str | None:
    """The BibTeX of the entry's reference: its own, or one made of what is known; None without a reference."""
    reference = entry.reference
    if reference is None:
        return None
    if reference.bibtex:
        return reference.bibtex
    kind, source = _kind(reference)
    fields = {
        "title": f"{{{_escaped(reference.title)}}}",  # braces keep the case of its letters
        "author": _escaped(" and ".join(reference.authors or ())),
        source: _escaped(reference.source or ""),
        "year": str(reference.year or ""),
        "doi": _escaped(reference.doi or ""),
        "eprint": reference.arxiv or "",
        "archivePrefix": "arXiv" if reference.arxiv else "",
        "url": _address(reference.url or ""),
    }
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    key = f"{entry.name}-{reference.year}" if reference.year else entry.name
    return f"@{kind}{{{key},\n{lines}}}"


def _kind(reference: Reference) -> tuple[str, str]:
    """The kind of publication, and what its source is called there."""
    source = reference.source or ""
    if _MEETING.search(source):
        return "inproceedings", "booktitle"
    if not source or source.lower() == "arxiv":
        return "misc", "howpublished"
    return "article", "journal"


def _escaped(text: str) -> str:
    """
    >>> print(_escaped("R&D of 50% {x}"))
    R\\&D of 50\\% \\{x\\}
    """
    return "".join(_SPECIAL.get(c, c) for c in " ".join(text.split()))


def _address(url: str) -> str:
    """A URL as it is, but for what would end its field."""
    return "".join(f"%{ord(c):02X}" if c in "{}\\" else c for c in url)
