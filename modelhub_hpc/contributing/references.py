"""What is to be cited for a model: config.json's publication, else what CITATION.cff says."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from modelhub_hpc.errors import InvalidError, shown

CITATION = "CITATION.cff"
_DOI = re.compile(r"10\.\d{4,9}/[^\s\"'<>{}\\]+[^\s\"'<>{}\\.,;)]")
_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5}(?:v\d+)?)", re.IGNORECASE)


def reference(folder: Path, publication: Mapping[str, Any], doi: str) -> dict[str, Any] | None:
    """The publication as a registry's entry has it; None where nothing is to be cited.

    doi: counts more than what is found. Raises InvalidError for a CITATION.cff that cannot be read.
    """
    found = _published(publication) if publication else _cited(folder)
    if not found.get("title"):
        return None
    url = found["url"] or ""
    own = _DOI.search(doi) or _DOI.search(found["doi"] or "") or _DOI.search(url)
    arxiv = _ARXIV.search(url)
    bibtex = str(publication.get("bibtex", "")).strip()
    return {
        **found,
        "url": url if url.startswith("http") else None,
        "doi": own[0] if own else None,
        "arxiv": arxiv[1] if arxiv else None,
        "bibtex": bibtex if bibtex.startswith("@") else None,
    }


def _published(publication: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": publication.get("title"),
        "authors": list(names(str(publication.get("authors", "")))) or None,
        "year": publication.get("year"),
        "source": publication.get("source") or None,
        "url": publication.get("url"),
        "doi": None,
    }


def names(authors: str) -> Iterator[str]:
    """The authors in a text: with semicolons between, else with commas or "and".

    >>> list(names("Jane Doe, John Roe and Max Moe")), list(names("Doe, Jane; Roe, John"))
    (['Jane Doe', 'John Roe', 'Max Moe'], ['Doe, Jane', 'Roe, John'])
    """
    between = ";" if ";" in authors else r",|\band\b"
    return (name.strip() for name in re.split(between, authors) if name.strip())


def _cited(folder: Path) -> dict[str, Any]:
    """Of CITATION.cff the work that it prefers, else itself."""
    path = folder / CITATION
    try:
        whole = yaml.safe_load(path.read_bytes()) if path.exists() else {}
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidError(f"{shown(path)} cannot be read: {shown(error)}") from error
    cited = whole.get("preferred-citation", whole) if isinstance(whole, dict) else None
    if not isinstance(cited, dict) or not isinstance(cited.get("authors", []), list):
        raise InvalidError(f"{shown(path)} is no citation file: it must hold 'title: ...' and a list of 'authors:'")
    released = cited.get("date-released")
    return {
        "title": cited.get("title"),
        "authors": [_author(each) for each in cited.get("authors", []) if isinstance(each, dict)] or None,
        "year": cited.get("year") or (released.year if isinstance(released, datetime.date) else None),
        "source": cited.get("journal"),
        "url": cited.get("url") or cited.get("repository-code"),
        "doi": cited.get("doi"),
    }


def _author(given: Mapping[str, Any]) -> str:
    parts = (given.get(name) for name in ("given-names", "name-particle", "family-names", "name"))
    return " ".join(str(part) for part in parts if part)
