"""The report as one HTML file that needs nothing else, reaches nothing, and runs nothing that it was not made with."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.record import Maker, makers
from modelhub_hpc.report import charts, outliers
from modelhub_hpc.report.charts import Chart
from modelhub_hpc.report.failures import cut
from modelhub_hpc.report.measures import SCORES
from modelhub_hpc.report.mosaic import Tile, legend
from modelhub_hpc.report.survey import FLAGS, LISTED, Given, Structure, Survey, named
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.runs.reading import Reading
from modelhub_hpc.viewing.layers import label_colour
from modelhub_hpc.viewing.words import FILTERS

_TEMPLATES = Path(__file__).parent / "templates"
_LABELS = 20  # bars of first labels
_NOTES = 20
_ROWS = 200  # of tables of workers and jobs
_TEXT_CHARS = 50_000
_UNRECORDED: Mapping[str, Any] = {"stopped": None, "ended": None, "usage": None, "jobs": [], "versions": {}}
# what a page calls the stages of a worker's time
_STAGES = {
    "start": ("load", "until the model was loaded"),
    "model": ("infer", "in the model, which opens its inputs itself"),
    "write": ("write", "arrays and results, until they were on the disk"),
    "rest": ("else", "judging inputs where that was not done meanwhile, checking answers, waiting"),
    "read": ("read", "judging inputs, most of it while the model computed another case: in no bar"),
}
_UNUSED = {"state": None, "node": None, "cpu_hours": None, "gpu_hours": None, "peak_mb": None}  # no accounts


@dataclass(frozen=True)
class Volumes:
    """A structure over all cases. absent: cases without it; lost: those where it is, and nobody knows how large.

    figures: in its unit, None where there are none.
    """

    name: str
    colour: str
    present: int
    absent: int
    lost: int
    unit: str
    figures: Mapping[str, float] | None
    chart: Chart | None
    odd: int


@dataclass(frozen=True)
class Bar:
    """share: of the longest, 0 to 1."""

    name: str
    count: int
    share: float


@dataclass(frozen=True)
class Section:
    """One output. score: what the histogram is of."""

    given: Given
    volumes: tuple[Volumes, ...]
    labels: tuple[Bar, ...]
    others: int
    score: str
    chart: Chart | None


@dataclass(frozen=True)
class Worker:
    """A worker with its seconds by stage, as far as they were measured, and the rest, which was in none."""

    maker: Maker
    seconds: Mapping[str, float]


def render(run: Reading, found: Survey, tiles: Sequence[Tile]) -> str:
    """The whole page. Raises TryAgainError or UnfitError where the run cannot be read."""
    record = {**_UNRECORDED, **read_json(run.paths.record_json)}
    return _environment().get_template("report.html").render(
        run=run.request,
        record=record,
        found=found,
        tally=found.tally,
        settled=charts.strip(_settled(found), found.tally.cases),
        made=time.time(),
        chart_width=charts.WIDTH,
        chart_height=charts.HEIGHT,
        **_parts(),
        **_quality(run, found, tiles),
        **_time(run, found),
        **_origin(run, record),
    )


def _parts() -> dict[str, Any]:
    """What makes the page a page, and the policy that lets it be nothing else."""
    css, script = ((_TEMPLATES / name).read_text("utf-8") for name in ("report.css", "report.js"))
    allowed = f"style-src {_hash(css)}; script-src {_hash(script)}"
    policy = f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"
    return {"css": Markup(css), "script": Markup(script), "policy": policy}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _quality(run: Reading, found: Survey, tiles: Sequence[Tile]) -> dict[str, Any]:
    marked = any(pane.over or pane.paths for tile in tiles for pane in tile.panes)
    return {
        "flags": FLAGS,
        "listed": LISTED,
        "sections": [_section(given) for given in found.outputs],
        "rule": outliers.RULE,
        "notes": found.notes.most_common(_NOTES),
        "tiles": tiles,
        "flagged": _kinds(found),
        "marked": marked,
        "legend": legend(run.request.model.outputs) if marked else (),
    }


def _time(run: Reading, found: Survey) -> dict[str, Any]:
    workers = [_worker(each) for each in makers(run.paths)]
    stages = _stages(workers)
    return {
        "stages": stages,
        "spent": charts.strip(stages, sum(stages.values())),
        "told": _STAGES,
        "known": {stage for each in workers for stage in each.seconds},
        "seconds": charts.histogram(found.seconds, "s"),
        "throughput": charts.timeline(found.ended),
        "nodes": list(_nodes(found, workers)),
        "gpus": list(_gpus(workers)),
        "workers": workers[:_ROWS],
        "all_workers": len(workers),
        "unmeasured": _unmeasured(workers),
    }


def _origin(run: Reading, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "folder": run.paths.root,
        "jobs": record["jobs"][:_ROWS],
        "unused": _UNUSED,
        "site": list(_site(run.request.site)),
        "methods": _text(run.paths.methods_md),
        "citation": _text(run.paths.citation_bib),
    }


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS, cut=cut)
    return made


def _visible(value: Any) -> str:
    """Whatever the page is given: what cannot be seen, or has no place in a file, is spelt out."""
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    kind: Callable[[str], str] = Markup if isinstance(text, Markup) else str
    return kind("".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text))


def _kinds(found: Survey) -> dict[int, list[str]]:
    """What rows are flagged for."""
    of_row: dict[int, list[str]] = {}
    for kind, flags in found.flags.items():
        for row in dict.fromkeys(flag.row for flag in flags):
            of_row.setdefault(row, []).append(kind)
    return of_row


def _section(given: Given) -> Section:
    volumes = tuple(_volumes(given, each) for each in _structures(given))
    common = given.tops.most_common(_LABELS)
    longest = common[0][1] if common else 1
    bars = tuple(Bar(name, count, count / longest) for name, count in common)
    others = given.tops.total() - sum(count for _, count in common)
    chart = charts.histogram(given.scores)
    return Section(given, volumes, bars, others, SCORES.get(given.spec.type, "value"), chart)


def _structures(given: Given) -> list[Structure]:
    """Those that the model declares, whether they were found or not, then others that were found."""
    declared = [label for label in given.spec.labels if label != "0"] if given.masks else []
    several = any("/" in key for key in given.structures)
    keys = dict.fromkeys([*(() if several else declared), *sorted(given.structures, key=_in_order)])
    return [given.structures.get(key) or Structure(key) for key in keys]


def _in_order(key: str) -> tuple[int, ...]:
    return tuple(int(part) for part in key.split("/"))


def _volumes(given: Given, structure: Structure) -> Volumes:
    _, volumes, unit = structure.measure()
    odd = volumes[np.abs(outliers.robust_z(volumes)) > outliers.LIMIT]
    label = int(structure.key.rpartition("/")[2])
    colour = "#{:02x}{:02x}{:02x}".format(*label_colour(label))
    figures = None
    if len(volumes):
        low, middle, high = np.percentile(volumes, (25, 50, 75))
        figures = {"smallest": volumes.min(), "low": low, "median": middle, "high": high, "largest": volumes.max()}
        figures = {name: float(value) for name, value in figures.items()}
    present = len(structure.rows)
    chart = charts.histogram(volumes.tolist(), unit, odd)
    name = named(given.spec, structure.key)
    lost = present - len(volumes)
    return Volumes(name, colour, present, given.masks - present, lost, unit, figures, chart, len(odd))


def _settled(found: Survey) -> dict[str, float]:
    lost = found.quarantined
    return {"done": found.tally.done, "failed": found.tally.failed - lost, "quarantined": lost}


def _worker(maker: Maker) -> Worker:
    known = maker.seconds
    rest = known.get("chunk", 0.0) - sum(known.get(stage, 0.0) for stage in ("start", "model", "write"))
    seconds = {**known, "rest": max(0.0, rest)} if "chunk" in known else known
    return Worker(maker, {stage: seconds[stage] for stage in _STAGES if stage in seconds})


def _stages(workers: Sequence[Worker]) -> dict[str, float]:
    """Seconds by stage, of all workers; what they did at the same time is left out."""
    known = [stage for stage in _STAGES if any(stage in each.seconds for each in workers) and stage != "read"]
    return {stage: sum(each.seconds.get(stage, 0.0) for each in workers) for stage in known}


def _nodes(found: Survey, workers: Sequence[Worker]) -> Iterator[tuple[str, int, float, Mapping[str, float]]]:
    """(node, cases, seconds in the model per case, seconds by stage)"""
    for node, (cases, seconds) in sorted(found.nodes.items()):
        own = [each.seconds for each in workers if each.maker.node == node]
        known = {stage for each in own for stage in each}
        yield node, cases, seconds / cases, {stage: sum(each.get(stage, 0.0) for each in own) for stage in known}


def _gpus(workers: Sequence[Worker]) -> Iterator[tuple[str, str, int, float]]:
    """(node, GPU with its model, chunks, seconds in the model); workers of one GPU together."""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for each in workers:
        for gpu, model in zip(each.maker.gpus, (*each.maker.gpu_models, *[""] * len(each.maker.gpus))):
            key = (each.maker.node or "", f"{gpu} {model}".strip())
            chunks, seconds = found.get(key, (0, 0.0))
            found[key] = chunks + each.maker.chunks, seconds + each.seconds.get("model", 0.0) / len(each.maker.gpus)
    for (node, gpu), (chunks, seconds) in sorted(found.items()):
        yield node, gpu, chunks, seconds


def _unmeasured(workers: Sequence[Worker]) -> dict[str, str]:
    """Why figures of what cases cost are missing, by their names there."""
    return {name: why for each in workers for name, why in each.maker.unmeasured.items()}


def _site(site: SiteConfig) -> Iterator[tuple[str, Any, bool]]:
    """(option, value, whether it is not the built-in one)"""
    values = config.to_json(site)
    for option in dataclasses.fields(SiteConfig):
        yield option.name, values[option.name], getattr(site, option.name) != option.default


def _text(path: Path) -> str:
    """What a file of the run folder says; "" where it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(_TEXT_CHARS).strip()
    except OSError:
        return ""
