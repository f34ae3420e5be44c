"""`mh-hpc record`: what makes a run fit to be published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import Voice, number, one_line, size, voice_of
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES, UsageError

if TYPE_CHECKING:
    from modelhub_hpc.publication import Facts
    from modelhub_hpc.publication.hashing import Hashed
    from modelhub_hpc.runs.reading import Reading

_path = click.Path(path_type=Path)
_ORCID = re.compile(r"(?:https://orcid\.org/)?(\d{4}-\d{4}-\d{4}-\d{3}[\dX])")
_FEW = 5


@click.command()
@click.argument("run", type=_path)
@click.option("--hash-inputs", is_flag=True, help="Write inputs.sha256; what was interrupted goes on.")
@click.option("--license", metavar="ID|URL|TEXT", help="The licence of the results, such as CC-BY-4.0.")
@click.option("--agent", metavar="NAME", help="Who made the run.")
@click.option("--orcid", metavar="ID", help="The ORCID of --agent.")
@click.option("--zip", "archive", type=_path, metavar="FILE", help="Write what can be published into one file.")
@click.option("--arrays/--no-arrays", default=True, show_default=True, help="Whether --zip has the arrays.")
@json_option
def record(
    run: Path,
    hash_inputs: bool,
    license: str | None,
    agent: str | None,
    orcid: str | None,
    archive: Path | None,
    arrays: bool,
    as_json: bool,
) -> int:
    """Write the record of RUN anew, a folder or an id: ro-crate-metadata.json, methods.md, CITATION.bib.

    A driver writes them too, when it ends. What is stated here stays with the run.
    """
    from modelhub_hpc import owner, publication
    from modelhub_hpc.cli.runs import find
    from modelhub_hpc.publication import Statement
    from modelhub_hpc.run import BEAT_S
    from modelhub_hpc.runfolder import privately, storage
    from modelhub_hpc.runs import reading

    voice, found = voice_of(as_json), reading.read(find(run).root)
    said = Statement(license, agent, _orcid(orcid))
    told = publication.record_of(found.paths)
    with storage(found.paths.private):
        found.paths.private.mkdir(mode=0o700, exist_ok=True)  # an unpacked archive has none
    mine = owner.acquire(found.paths.private, f"Run {one_line(found.paths.root)}")
    with owner.beating(mine, BEAT_S), privately(found.request.site.group_readable):
        publication.state(found.paths, said)
        hashed = _hash(found, voice) if hash_inputs else None
        publication.write(found.paths, found.request, told)
        facts = publication.facts(found.paths, found.request, told, arrays)
        packed = _pack(facts, archive.absolute(), voice) if archive else None
    if as_json:
        voice.answer(_facts(found, hashed, archive, packed))
    voice.columns(_rows(found, hashed, archive, packed))
    if archive:
        voice.say(_warning(found, told))
    return EXIT_FAILED_CASES if hashed and hashed.left_out else EXIT_DONE


def _orcid(given: str | None) -> str | None:
    if given is None:
        return None
    match = _ORCID.fullmatch(given)
    if not match:
        raise UsageError(f"--orcid {one_line(given)}: write it as 0000-0002-1825-0097.")
    return f"https://orcid.org/{match[1]}"


def _hash(run: Reading, voice: Voice) -> Hashed:
    from modelhub_hpc.cli.progress import counting
    from modelhub_hpc.publication.hashing import hash_inputs

    with counting(voice, "inputs of cases hashed", len(run.manifest)) as observe:
        return hash_inputs(run.paths, run.manifest, observe)


def _pack(facts: Facts, target: Path, voice: Voice) -> int:
    from modelhub_hpc.cli.progress import waiting
    from modelhub_hpc.publication.archive import write_zip

    with waiting(voice, f"writing {one_line(target)}"):
        return write_zip(facts, target)


def _facts(run: Reading, hashed: Hashed | None, archive: Path | None, packed: int | None) -> dict[str, Any]:
    left_out = [{"case": case, "why": why} for case, why in hashed.left_out] if hashed else []
    inputs = {"file": str(run.paths.inputs_sha256), "files": hashed.files, "left_out": left_out} if hashed else None
    return {
        "run": str(run.paths.root),
        "crate": str(run.paths.crate_json),
        "methods": str(run.paths.methods_md),
        "citation": str(run.paths.citation_bib),
        "inputs": inputs,
        "archive": {"file": str(archive.absolute()), "bytes": packed} if archive else None,
    }


def _rows(run: Reading, hashed: Hashed | None, archive: Path | None, packed: int | None) -> Iterator[tuple[str, str]]:
    yield "crate", one_line(run.paths.crate_json)
    yield "methods", one_line(run.paths.methods_md)
    yield "to cite", one_line(run.paths.citation_bib)
    if hashed:
        yield "inputs", f"{number(hashed.files, 'file')} in {one_line(run.paths.inputs_sha256)}"
        for case, why in hashed.left_out[:_FEW]:
            yield "  left out", f"{case}: {one_line(why)}"
        if len(hashed.left_out) > _FEW:
            yield "  left out", f"and {len(hashed.left_out) - _FEW:,} more"
    if archive and packed is not None:
        yield "archive", f"{one_line(archive)}, {size(packed)}"


def _warning(run: Reading, told: dict[str, Any]) -> str:
    """What an archive tells of this place."""
    folders = sorted({*map(str, run.request.roots), str(run.request.model.path)})
    named = [*folders[:_FEW], *(["..."] if len(folders) > _FEW else [])]
    return (
        "Before you publish it: run.json, manifest.csv, results.csv and record.json in it name folders and nodes "
        f"of this place:\n  {', '.join(map(one_line, [*named, *told['nodes']]))}"
    )
