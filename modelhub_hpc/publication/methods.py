"""The paragraph of a paper that says what was run, with the numbers of the run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelhub_hpc.errors import count_of
from modelhub_hpc.models.entry import Entry
from modelhub_hpc.publication.references import References, mark
from modelhub_hpc.request import RunRequest

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|@$~^])")


def text(run: RunRequest, record: Mapping[str, Any], entry: Entry | None, cited: References) -> str:
    """Markdown in which pandoc resolves the references: pandoc --citeproc --bibliography CITATION.bib methods.md"""
    sentences = [
        *_model(run, entry, cited),
        *_cases(record),
        *_container(run, record, cited),
        *_hardware(run, record, cited),
        *_time(record),
        *_cost(record),
    ]
    return " ".join(sentences) + "\n"


def _model(run: RunRequest, entry: Entry | None, cited: References) -> Iterator[str]:
    model = run.model
    title = f"{plain(entry.title)} ({plain(model.name)}, " if entry and entry.title != model.name else ""
    named = title or f"{plain(model.name)} ("
    yield (
        f"Predictions were made with the model {named}version {plain(model.version)}, SHA-256 of its files "
        f"{model.digest}){mark(cited.model)} in the template of ModelHub.AI{mark(cited.modelhub)}, "
        f"run by modelhub-hpc {plain(run.software)}{mark(cited.software)}."
    )
    if run.repeats:
        yield f"The run repeats an earlier one ({plain(run.repeats)})."


def _cases(record: Mapping[str, Any]) -> Iterator[str]:
    counts = record["counts"]
    cases, done = counts["cases"], counts["done"]
    if done == cases:
        yield "The only case was predicted." if cases == 1 else f"All {cases:,} cases were predicted."
    else:
        yield f"Of {count_of(cases, 'case')}, {done:,} {'was' if done == 1 else 'were'} predicted{_not_done(record)}."
    if counts["retried"]:
        yield f"More than one attempt was made for {count_of(counts['retried'], 'case')}."


def _not_done(record: Mapping[str, Any]) -> str:
    counts = record["counts"]
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in record["failures"].items())
    failed = f" and {counts['failed']:,} failed ({kinds})" if counts["failed"] else ""
    pending = f"; {counts['pending']:,} were not computed" if counts["pending"] else ""
    return failed + pending


def _container(run: RunRequest, record: Mapping[str, Any], cited: References) -> Iterator[str]:
    network = "with access to the network" if run.site.allow_network else "without network"
    if run.image is None:
        yield f"The model ran without a container, in Python {plain(record['versions']['python'])}."
        return
    version = record["versions"].get("apptainer")
    runtime = f"Apptainer {plain(version)}" if version else "Apptainer"
    source = f", converted from {run.image.digest}" if run.image.digest else ""
    yield (
        f"The model ran in the container image {plain(run.image.name)} (SHA-256 {run.image.sha256}{source}) "
        f"under {runtime}{mark(cited.apptainer)}, {network}."
    )


def _hardware(run: RunRequest, record: Mapping[str, Any], cited: References) -> Iterator[str]:
    workers, nodes = len(record["workers"]), len(record["nodes"])
    gpus = {model for worker in record["workers"] for model in worker["gpu_models"]}
    cpus = {worker["cpu_model"] for worker in record["workers"] if worker.get("cpu_model")}
    on = ("GPUs" if gpus else "CPUs") + _listed(gpus or cpus)
    place = f"{count_of(workers, 'worker')} on {count_of(nodes, 'node')}"
    if not record["jobs"]:
        yield f"The computation used {on}, with {place}."
        return
    version = record["versions"].get("slurm")
    slurm = f"Slurm {plain(version)}" if version else "Slurm"
    jobs = count_of(len(record["jobs"]), "job")
    yield f"The computation used {on}, with {place}, in {jobs} of {slurm}{mark(cited.slurm)}{_used(record)}."


def _listed(models: Iterable[str]) -> str:
    return f" ({', '.join(map(plain, sorted(models)))})" if models else ""


def _used(record: Mapping[str, Any]) -> str:
    """What SLURM has accounted for, where it keeps accounts; MiB of one job at most."""
    usage = record.get("usage") or {}
    figures = ("cpu_hours", 1, "CPU hours"), ("gpu_hours", 1, "GPU hours"), ("peak_mb", 0, "MiB in a job")
    found = [f"{usage[name]:,.{digits}f} {unit}" for name, digits, unit in figures if usage.get(name)]
    return f" ({', '.join(found)})" if found else ""


def _time(record: Mapping[str, Any]) -> Iterator[str]:
    seconds = record["seconds_per_case"]
    if seconds:
        yield (
            f"A case took a median of {_seconds(seconds['median'])} in the model "
            f"(95th percentile {_seconds(seconds['p95'])}, longest {_seconds(seconds['longest'])})."
        )


def _cost(record: Mapping[str, Any]) -> Iterator[str]:
    """What was measured of memory and energy."""
    cost = record.get("cost") or {}
    memory = [
        f"{cost[name]['max']:,.0f} MiB of {of}"
        for name, of in (("peak_mb", "memory"), ("gpu_peak_mb", "its GPUs' memory"))
        if cost.get(name)
    ]
    if memory:
        yield f"The model's process took up to {' and '.join(memory)}."
    energy = cost.get("gpu_energy_j")
    if energy:
        yield f"The GPUs took {energy['total'] / 3.6e6:.3g} kWh for {count_of(energy['cases'], 'case')}."


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def plain(given: str) -> str:
    """Text from a model as what it is in Markdown: one line without markup.

    >>> print(plain("U_Net [v2]\\n# x"))
    U\\_Net \\[v2\\] \\# x
    """
    return _MARKUP.sub(r"\\\1", " ".join(given.split()))
