"""What is known of a model, as text for a terminal. Registries may be anybody's: every text is made harmless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from modelhub_hpc.cli.output import aligned, number, one_line
from modelhub_hpc.models.entry import Accuracy, Entry, Input, Limit, Output, Version
from modelhub_hpc.models.shelves import Found

if TYPE_CHECKING:
    from modelhub_hpc.runs.measured import Measured

_UNKNOWN = "not known"
_INDENT = "  "
_DIGITS = 12  # of a commit or a digest, which tell them apart for people

Row = tuple[str, ...]


def card(found: Found, version: Version) -> Iterator[str]:
    """All of it, line by line. version: the one that is spoken of; all are shown side by side."""
    entry = found.entry
    yield f"{one_line(entry.title)} ({one_line(entry.name)} {one_line(version.version)})"
    yield one_line(entry.description)
    yield from _section("", _facts(found, version))
    yield from _section("Accuracy", _accuracy(entry.accuracy))
    yield from _section("What to know", ((f"- {each}",) for each in _notes(entry)))
    yield from _section("Versions", _versions(found, version))
    yield from _section("Reference", ((each,) for each in _reference(entry)))


def measured_rows(found: Iterable[Measured]) -> Iterator[Row]:
    """What runs took, below a row with titles; "-" is what was never measured."""
    yield (
        *("hardware", "version", "runs", "cases", "s per case", "95 % within s"),
        *("peak MiB", "GPU peak MiB", "GPU J per case"),
    )
    for each in found:
        figures = each.seconds, each.p95_s, each.peak_mb, each.gpu_peak_mb, each.gpu_energy_j
        cells = ("-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in figures)
        yield one_line(each.hardware), one_line(each.version), f"{each.runs:,}", f"{each.cases:,}", *cells


def gpu(entry: Entry) -> str:
    """Whether a GPU is needed, in a word."""
    return "needed" if entry.gpu.required else "used" if entry.gpu.uses else "-"


def _section(head: str, rows: Iterable[Row]) -> Iterator[str]:
    safe = [tuple(map(one_line, row)) for row in rows]
    if safe:
        yield ""
        if head:
            yield head
        yield from (f"{_INDENT if head else ''}{line}" for line in aligned(safe))


def _facts(found: Found, version: Version) -> Iterator[Row]:
    entry = found.entry
    yield "task", _task(entry)
    yield "area", entry.application_area
    yield "data", ", ".join(filter(None, (entry.data_type, entry.modality)))
    yield from (("input", text) for text in _inputs(entry.io.inputs))
    yield from (("output", _output(each)) for each in entry.io.outputs)
    yield "runs on", ", ".join((*entry.backend, f"Python {entry.python or '?'}", *version.image.holds))
    yield "GPU", _gpu(entry)
    yield "takes", resources(entry)
    yield "licence", _licence(entry)
    yield "id", entry.id
    yield "registry", found.shelf.name + (f" (also in: {', '.join(found.hidden)})" if found.hidden else "")


def _task(entry: Entry) -> str:
    """In full, led by its kind unless it says that itself."""
    says_it = entry.task.lower() in entry.task_extended.lower()
    return entry.task_extended if says_it else f"{entry.task}: {entry.task_extended}"


def _inputs(given: Sequence[Input]) -> Iterator[str]:
    """Those that differ in their names alone are told together."""
    keys = dict[str, list[str]]()
    for each in given:
        sizes = " x ".join(map(_limit, each.dim_limits))
        text = "; ".join(filter(None, (", ".join(each.mime), sizes, each.description)))
        keys.setdefault(text, []).append(each.key or "single")
    yield from (text if names == ["single"] else f"{', '.join(names)}: {text}" for text, names in keys.items())


def _limit(limit: Limit) -> str:
    """
    >>> _limit(Limit(1, 4)), _limit(Limit(8, 8)), _limit(Limit(32, None)), _limit(Limit(None, None))
    ('1-4', '8', '>=32', 'any')
    """
    if limit.min == limit.max:
        return "any" if limit.min is None else str(limit.min)
    return f">={limit.min}" if limit.max is None else f"{limit.min or 0}-{limit.max}"


def _output(given: Output) -> str:
    axes = f"axes {given.axes}" if given.axes else None
    labels = ", ".join(f"{value} {name}" for value, name in (given.labels or {}).items())
    return f"{given.name}: " + "; ".join(filter(None, (given.type, axes, labels, given.description)))


def _licence(entry: Entry) -> str:
    if entry.licence is None:
        return _UNKNOWN
    return f"{entry.licence.model or _UNKNOWN}; sample data: {entry.licence.sample_data or _UNKNOWN}"


def _gpu(entry: Entry) -> str:
    image = f"image with CUDA {entry.gpu.cuda}" if entry.gpu.cuda else ""
    newest = f"made for GPUs up to {entry.gpu.newest_arch}" if entry.gpu.newest_arch else ""
    word = {"-": "not used"}.get(gpu(entry), gpu(entry))
    return "; ".join(filter(None, (word, image, newest)))


def resources(entry: Entry) -> str:
    """What a case takes, as the entry has it."""
    known = entry.resources
    parts = [
        f"{amount:.3g} {unit}"
        for amount, unit in (
            (known.seconds_per_case, "s per case"),
            (known.memory_mb, "MiB of memory"),
            (known.gpu_memory_mb, "MiB of GPU memory"),
        )
        if amount is not None
    ]
    return ", ".join(parts) + (f" ({known.hardware})" if known.hardware else "") if parts else _UNKNOWN


def _accuracy(figures: Sequence[Accuracy]) -> Iterator[Row]:
    if figures:
        yield "metric", "on", "published", "reproduced", "cases"
    for each in figures:
        yield each.metric, each.dataset, _figure(each.reported), _figure(each.reproduced), _figure(each.cases)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def _notes(entry: Entry) -> Iterator[str]:
    quirks = entry.quirks
    if quirks.network:
        yield f"Needs the network to predict (--allow-network): {quirks.network}"
    if quirks.writable:
        yield f"Writes into {', '.join(quirks.writable)} of its container."
    if quirks.sample_data_written:
        yield "Its notebook writes into its sample_data folder."
    yield from quirks.notes


def _versions(found: Found, version: Version) -> Iterator[Row]:
    """A column for each, first the one that is spoken of, then the newest first."""
    others = [each for each in reversed(found.entry.versions) if each is not version]
    columns = [_version(found, each) for each in (version, *others)]
    for fact in columns[0]:
        yield (fact, *(column[fact] for column in columns))


def _version(found: Found, version: Version) -> dict[str, str]:
    source, image = found.source(version), version.image
    digest = image.digest and image.digest[: len("sha256:") + _DIGITS]
    return {
        "": version.version,
        "source": source.repository or "this registry",
        "folder": source.folder,
        "branch": source.branch or "-",
        "commit": source.commit[:_DIGITS] if source.commit else "not recorded",
        "image": image.name,
        "digest": digest or "not recorded",
        "based on": image.base or _UNKNOWN,
        "files": _files(version),
    }


def _files(version: Version) -> str:
    if not version.files:
        return "all in the source"
    known = sum(each.sha256 is not None for each in version.files)
    return f"{number(len(version.files), 'download')}, {known or 'none'} with a sha256"


def _reference(entry: Entry) -> Iterator[str]:
    reference = entry.reference
    if reference is None:
        return
    authors = f"{', '.join(reference.authors)}: " if reference.authors else ""
    yield f"{authors}{reference.title}. {', '.join(map(str, filter(None, (reference.source, reference.year))))}"
    yield from filter(None, (reference.url, reference.doi and f"doi:{reference.doi}"))
