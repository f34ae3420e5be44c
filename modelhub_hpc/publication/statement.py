"""What of a run only a person knows, kept beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from modelhub_hpc.runfolder import RunPaths, read_json, replace_json


@dataclass(frozen=True)
class Statement:
    """license: an SPDX id, an address or a text; agent: who made the run; orcid: the address of theirs."""

    license: str | None = None
    agent: str | None = None
    orcid: str | None = None


def stated(paths: RunPaths) -> Statement:
    """What was stated of the run."""
    found = read_json(paths.statement_json)
    return Statement(**{name: found.get(name) for name in asdict(Statement())})


def state(paths: RunPaths, said: Statement) -> None:
    """Keep a statement, from which every later crate of the run is made; what is None stays as it was."""
    new = {name: value for name, value in asdict(said).items() if value is not None}
    if new:
        replace_json(paths.statement_json, {**asdict(stated(paths)), **new})
