"""A run folder as a Workflow Run RO-Crate: what was run, with what, from what, to what.

The workflow is run.json, which `mh-hpc rerun` takes as its description; its one action is the run. The inputs lie
elsewhere and may be many, so the manifest stands for them. What is written is plain JSON-LD: a library for crates
takes as long to import as some models take from their start to their first result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import config
from modelhub_hpc.digests import file_digest
from modelhub_hpc.models.entry import Entry, Reference
from modelhub_hpc.publication.statement import Statement
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import Json, RunPaths, storage

_VERSION = "1.1"
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
_WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
_RUN_TERMS = "https://w3id.org/ro/terms/workflow-run#"
_TERMS = ("ContainerImage", "containerImage", "sha256", "tag")
_PROGRAMS = {
    "engine": ("engine of modelhub-hpc", ""),
    "python": ("Python", "https://www.python.org"),
    "apptainer": ("Apptainer", "https://apptainer.org"),
    "slurm": ("Slurm", "https://slurm.schedmd.com"),
}
_PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
_WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_NO_LICENSE = "None was stated. Ask those who made this run before you use its results."
# options that can change what a result is, or whether there is one
_DECIDING = (
    "runtime", "gpu", "threads", "batch_size", "nan", "mem_mb", "case_timeout_s", "max_input_mb", "max_elements",
    "max_output_mb", "allow_network",
)  # fmt: skip
_FILES = {
    "manifest.csv": ("text/csv", "The cases: id, input files, their size and time of change."),
    "chunks.json": ("application/json", "The manifest cut into chunks that were computed together."),
    "skipped.jsonl": ("application/jsonl", "What lay among the inputs and is no case, each with the reason."),
    "results.csv": ("text/csv", "One row per case: status, inputs, outputs, or where its arrays are."),
    "failures.csv": ("text/csv", "The cases that failed, with kind, message and evidence."),
    "record.json": ("application/json", "How it went: versions, options, workers, nodes, jobs, seconds."),
    "methods.md": ("text/markdown", "A paragraph on methods, with keys of CITATION.bib."),
    "CITATION.bib": ("application/x-bibtex", "What to cite."),
    "inputs.sha256": ("text/plain", "sha256 of every input file, as sha256sum --check takes it."),
}
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_RESULTS = ("results.csv", "failures.csv", "record.json")
_DIGESTED = (*_RESULTS, "inputs.sha256")

_Properties = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a crate is made of. record: what record.json says; arrays: whether the .h5 files of shards are there."""

    paths: RunPaths
    run: RunRequest
    record: Mapping[str, Any]
    entry: Entry | None
    said: Statement
    arrays: bool = True

    def present(self) -> list[str]:
        """The files of the crate but for run.json, by their names."""
        return [name for name in _FILES if (self.paths.root / name).exists()]


def metadata(facts: Facts) -> dict[str, Any]:
    """The content of ro-crate-metadata.json.  Raises TryAgainError or UnfitError if the storage fails."""
    entities = dict(_entities(facts))
    parts = [name for name, each in entities.items() if "File" in each["@type"] or each["@type"] == "Dataset"]
    about = {
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": _refs(f"https://w3id.org/ro/crate/{_VERSION}", _WORKFLOW_CRATE),
    }
    everything = {"ro-crate-metadata.json": about, "./": {**_root(facts), "hasPart": _refs(*parts)}, **entities}
    terms = {name: _RUN_TERMS + name for name in _TERMS}
    context = [f"https://w3id.org/ro/crate/{_VERSION}/context", terms]
    graph = [{"@id": identifier, **properties} for identifier, properties in everything.items()]
    found: dict[str, Any] = _sound({"@context": context, "@graph": graph})
    return found


def _root(facts: Facts) -> _Properties:
    run, counts = facts.run, facts.record["counts"]
    based = {"isBasedOn": {"@id": "#repeated"}} if run.repeats else {}
    return {
        "@type": "Dataset",
        "name": f"{run.model.name} {run.model.version} over {counts['cases']:,} cases ({run.run_id})",
        "description": _summary(facts),
        "datePublished": _time(facts.record["ended"]),
        "license": _license(facts.said),
        "conformsTo": _refs(*_PROFILES),
        "mainEntity": {"@id": "run.json"},
        "mentions": {"@id": "#run"},
        **({"author": {"@id": _agent(facts.said)}} if facts.said.agent else {}),
        **based,
    }


def _license(said: Statement) -> Json:
    """An SPDX id and an address are addresses; anything else is a text."""
    given = said.license or _NO_LICENSE
    if _SPDX.fullmatch(given):
        return {"@id": f"https://spdx.org/licenses/{given}"}
    return {"@id": _encoded(given)} if given.startswith(("https://", "http://")) else given


def _summary(facts: Facts) -> str:
    counts = facts.record["counts"]
    missing = f", {counts['pending']:,} not computed" if counts["pending"] else ""
    return (
        f"Predictions of the model {facts.run.model.name} (version {facts.run.model.version}) for "
        f"{counts['cases']:,} cases: {counts['done']:,} done, {counts['failed']:,} failed{missing}."
    )


def _entities(facts: Facts) -> Iterator[tuple[str, _Properties]]:
    for address, (name, version) in _PROFILES.items():
        yield address, {"@type": "CreativeWork", "name": name, "version": version}
    yield from _data(facts)
    yield from _parameters(facts)
    yield from _software(facts)
    yield from _model(facts)
    yield from _stated(facts)
    yield "#run", _action(facts)
    if facts.run.repeats:
        text = f"The run {facts.run.repeats}, which this one repeats."
        yield "#repeated", {"@type": "CreativeWork", "name": facts.run.repeats, "description": text}


def _data(facts: Facts) -> Iterator[tuple[str, _Properties]]:
    yield "run.json", {**_workflow(facts), **_measured(facts.paths.run_json)}
    for name in facts.present():
        kind, text = _FILES[name]
        path = facts.paths.root / name
        parameter = _ports().get(name)
        yield name, {
            "@type": "File",
            "name": name,
            "description": text,
            "encodingFormat": kind,
            **({"exampleOfWork": {"@id": parameter}} if parameter else {}),
            **_measured(path, _digest(facts, name, path)),
        }
    yield "shards/", {
        "@type": "Dataset",
        "name": "shards",
        "description": f"All results: JSON lines, a file per chunk. {_arrays(facts)}",
        "exampleOfWork": {"@id": "#output-shards"},
    }


def _arrays(facts: Facts) -> str:
    return "Arrays are in the HDF5 files that they name." if facts.arrays else "The arrays that they name are left out."


def _digest(facts: Facts, name: str, path: Path) -> str:
    if name == "manifest.csv":
        return facts.run.plan
    if name in _DIGESTED:
        with storage(path):
            return file_digest(path)
    return ""


def _measured(path: Path, digest: str = "") -> _Properties:
    with storage(path):
        size = path.stat().st_size
    return {"contentSize": str(size), **({"sha256": digest} if digest else {})}


def _ports() -> dict[str, str]:
    """Files that are inputs or outputs of the workflow, with their formal parameters."""
    return {"manifest.csv": "#input-manifest", **{name: f"#output-{name.partition('.')[0]}" for name in _RESULTS}}


def _workflow(facts: Facts) -> _Properties:
    inputs = ["#input-manifest", *(f"#option-{name}" for name in _options(facts))]
    outputs = [*(_ports()[name] for name in _RESULTS), "#output-shards"]
    return {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": "run.json",
        "description": "What was asked for, resolved once: model and its digest, image and its sha256, options.",
        "encodingFormat": "application/json",
        "conformsTo": {"@id": _WORKFLOW_PROFILE},
        "programmingLanguage": {"@id": "#mh-hpc-run"},
        "version": facts.run.model.version,
        "input": _refs(*inputs),
        "output": _refs(*outputs),
        "hasPart": _refs("#model", "#mh-hpc"),
    }


def _options(facts: Facts) -> dict[str, Json]:
    """The options that decide, those that were left to the machine aside."""
    given = config.to_json(facts.run.site)
    return {name: given[name] for name in _DECIDING if given[name] is not None}


def _parameters(facts: Facts) -> Iterator[tuple[str, _Properties]]:
    """A formal parameter for each input and output of the workflow, and a value for each option."""
    for name, identifier in {**_ports(), "shards/": "#output-shards"}.items():
        kind = "Dataset" if name.endswith("/") else "File"
        yield identifier, _parameter(name, kind, name, {})
    for name, value in _options(facts).items():
        text = {"description": config.OPTIONS[name].metadata["help"], "valueRequired": "False"}
        yield f"#option-{name}", _parameter(name, _kind(value), f"#value-{name}", text)
        yield f"#value-{name}", {
            "@type": "PropertyValue",
            "name": name,
            "value": str(value),
            "exampleOfWork": {"@id": f"#option-{name}"},
        }


def _parameter(name: str, kind: str, example: str, more: Mapping[str, str]) -> _Properties:
    return {
        "@type": "FormalParameter",
        "name": name,
        "additionalType": kind,
        "conformsTo": {"@id": _PARAMETER},
        "workExample": {"@id": example},
        **more,
    }


def _kind(value: Json) -> str:
    if isinstance(value, bool):
        return "Boolean"
    return {int: "Integer", float: "Float"}.get(type(value), "Text")


def _software(facts: Facts) -> Iterator[tuple[str, _Properties]]:
    versions = facts.record["versions"]
    yield "#mh-hpc-run", {"@type": "ComputerLanguage", "name": "run description of mh-hpc", "alternateName": "run.json"}
    needed = [f"#{name}" for name in _PROGRAMS if name in versions]
    yield "#mh-hpc", {
        **_program("modelhub-hpc", versions["modelhub-hpc"]),
        "description": "Runs published deep-learning models over whole studies; `mh-hpc submit` made this run.",
        "softwareRequirements": _refs(*needed),
    }
    for name, (title, address) in _PROGRAMS.items():
        if name in versions:
            yield f"#{name}", {**_program(title, versions[name]), **({"url": address} if address else {})}
    image = facts.run.image
    if image:
        name, _, tag = image.name.rpartition(":")
        yield "#image", {
            "@type": "ContainerImage",
            "additionalType": {"@id": f"{_RUN_TERMS}SIFImage"},
            "name": name if name and "/" not in tag else image.name,
            **({"tag": tag} if name and "/" not in tag else {}),
            "sha256": image.sha256,
            **({"identifier": image.digest} if image.digest else {}),
        }


def _program(name: str, version: str) -> _Properties:
    return {"@type": "SoftwareApplication", "name": name, "softwareVersion": version}


def _model(facts: Facts) -> Iterator[tuple[str, _Properties]]:
    model, entry = facts.run.model, facts.entry
    found = {
        **_program(model.name, model.version),
        "identifier": model.id,
        "additionalProperty": {"@id": "#model-digest"},
    }
    if entry:
        optional = {"description": entry.description, "license": entry.licence and entry.licence.model}
        optional |= {"alternateName": entry.title, "url": _repository(entry)}
        found |= {name: value for name, value in optional.items() if value}
    if entry and entry.reference:
        identifier = _address(entry.reference)
        found["citation"] = {"@id": identifier}
        yield identifier, _article(entry.reference)
    yield "#model", found
    yield "#model-digest", {"@type": "PropertyValue", "name": "sha256 of contrib_src", "value": model.digest}


def _repository(entry: Entry) -> str | None:
    addresses = (version.source.repository for version in entry.versions)
    return next((address for address in addresses if address), None)


def _address(of: Reference) -> str:
    """Where a publication is found, else a name within the crate."""
    if of.doi:
        return _encoded(f"https://doi.org/{of.doi}")
    if of.arxiv:
        return _encoded(f"https://arxiv.org/abs/{of.arxiv}")
    return _encoded(of.url) if of.url and of.url.startswith(("https://", "http://")) else "#model-publication"


def _encoded(address: str) -> str:
    """An address without what an IRI may not have.

    >>> _encoded("https://doi.org/10.1/a<b> c")
    'https://doi.org/10.1/a%3Cb%3E%20c'
    """
    return re.sub(r'[\x00-\x20<>"{}|\\^`\x7f-\udfff]', lambda c: "".join(f"%{b:02X}" for b in _bytes(c[0])), address)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _article(of: Reference) -> _Properties:
    found = {
        "@type": "ScholarlyArticle",
        "name": of.title,
        "author": ", ".join(of.authors or ()),
        "datePublished": str(of.year or ""),
        "isPartOf": of.source or "",
    }
    return {name: value for name, value in found.items() if value}


def _stated(facts: Facts) -> Iterator[tuple[str, _Properties]]:
    if facts.said.agent:
        yield _agent(facts.said), {"@type": "Person", "name": facts.said.agent}
    license = _license(facts.said)
    if isinstance(license, dict):
        yield str(license["@id"]), {"@type": "CreativeWork", "name": facts.said.license}


def _agent(said: Statement) -> str:
    return said.orcid or "#agent"


def _action(facts: Facts) -> _Properties:
    record = facts.record
    inputs = [name for name in ("manifest.csv", "inputs.sha256") if name in facts.present()]
    found: _Properties = {
        "@type": "CreateAction",
        "name": f"mh-hpc submit: {facts.run.model.name} {facts.run.model.version}",
        "description": _summary(facts),
        "instrument": {"@id": "run.json"},
        "startTime": _time(record["started"]),
        "endTime": _time(record["ended"]),
        "object": _refs(*inputs, *(f"#value-{name}" for name in _options(facts))),
        "result": _refs(*(name for name in _RESULTS if name in facts.present()), "shards/"),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    if record["stopped"] is not None:
        found["actionStatus"] = "http://schema.org/FailedActionStatus"
        found["error"] = "It ended before every case was computed; record.json says why."
    if facts.run.image:
        found["containerImage"] = {"@id": "#image"}
    if facts.said.agent:
        found["agent"] = {"@id": _agent(facts.said)}
    return found


def _refs(*identifiers: str) -> list[dict[str, str]]:
    return [{"@id": identifier} for identifier in identifiers]


def _time(utc: str) -> str:
    """A time of record.json with its zone as numbers, as the profile wants it.

    >>> _time("2026-01-02T03:04:05Z")
    '2026-01-02T03:04:05+00:00'
    """
    return f"{utc.removesuffix('Z')}+00:00"


def _sound(value: Any) -> Any:
    """The same without half characters, which no reader of JSON need take."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sound(name): _sound(each) for name, each in value.items()}
    return [_sound(each) for each in value] if isinstance(value, list) else value
