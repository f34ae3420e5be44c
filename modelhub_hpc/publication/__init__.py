"""What others need to understand, cite and check a run: an RO-Crate, a paragraph on methods, and its references.

They name no folder, person or node: those stand in run.json, manifest.csv, results.csv and record.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelhub_hpc.errors import TryAgainError, shown
from modelhub_hpc.models.known import entry_of
from modelhub_hpc.publication import crate, methods, references
from modelhub_hpc.publication.crate import Facts
from modelhub_hpc.publication.statement import Statement, state, stated
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import RunPaths, dumps, read_json, replacing

__all__ = ["Facts", "Statement", "facts", "record_of", "state", "write"]


def write(paths: RunPaths, run: RunRequest, record: Mapping[str, Any]) -> None:
    """Write methods.md, CITATION.bib and ro-crate-metadata.json anew; record: what record.json says.

    Raises TryAgainError or UnfitError if the storage fails.
    """
    entry = entry_of(run.model)
    cited = references.of_run(run, entry, bool(record["jobs"]))
    _replace(paths.citation_bib, cited.text())
    _replace(paths.methods_md, methods.text(run, record, entry, cited))
    _replace(paths.crate_json, dumps(crate.metadata(facts(paths, run, record)), indent=2) + "\n")


def facts(paths: RunPaths, run: RunRequest, record: Mapping[str, Any], arrays: bool = True) -> Facts:
    """What the crate of a run is made of. arrays: whether the arrays of its results are to be there."""
    return Facts(paths, run, record, entry_of(run.model), stated(paths), arrays)


def record_of(paths: RunPaths) -> dict[str, Any]:
    """What record.json says; TryAgainError where no driver has come to an end yet."""
    found = read_json(paths.record_json)
    if not found:
        raise TryAgainError(
            f"{shown(paths.root)} has no record yet: no driver of the run has ended.\n"
            "Wait for it; where it was killed:  mh-hpc resume RUN"
        )
    return found


def _replace(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace").decode())
