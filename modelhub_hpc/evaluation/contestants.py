"""The models of a benchmark: each with its run, the output that is judged, and its card in a registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.contribution import Contribution, OutputSpec
from modelhub_hpc.errors import UsageError, shown
from modelhub_hpc.models.entry import Accuracy, Entry
from modelhub_hpc.record import CaseResult, Output
from modelhub_hpc.runs.reading import Reading


@dataclass(frozen=True)
class Contestant:
    """name: as tables and figures show it. place: of the output that is judged, among the model's outputs."""

    name: str
    reading: Reading
    place: int
    entry: Entry | None

    @property
    def output(self) -> OutputSpec:
        return self.reading.request.model.outputs[self.place]

    @property
    def labels(self) -> Mapping[str, str]:
        return labels_of(self.output, self.entry)

    def given(self, result: CaseResult) -> Output | None:
        """The output that is judged; None where the model gave fewer than it declares."""
        return result.outputs[self.place] if self.place < len(result.outputs) else None


def labels_of(output: OutputSpec, entry: Entry | None) -> Mapping[str, str]:
    """What the numbers of an output mean, as the model or its card declares it; {} where neither does."""
    if output.labels or entry is None:
        return output.labels
    return next((each.labels for each in entry.io.outputs if each.name == output.name), None) or {}


def is_mask(output: OutputSpec) -> bool:
    """Of some published models the masks are called images; then they declare labels."""
    return output.type == "mask_image" or (output.type == "image" and bool(output.labels))


def place_of(model: Contribution, wanted: Sequence[str], suits: Callable[[OutputSpec], bool], kind: str) -> int:
    """Of the output to judge: the one that is named, else the only one that suits. UsageError with those there are.

    kind: what suits, in words.
    """
    named = [place for place, each in enumerate(model.outputs) if each.name in wanted]
    fitting = [place for place, each in enumerate(model.outputs) if suits(each)]
    found = named or fitting
    if len(found) != 1 or found[0] not in fitting:
        there = ", ".join(f"{shown(each.name)!r} ({each.type})" for each in model.outputs)
        which = "Say which one with --output NAME." if len(fitting) > 1 else f"The one to judge must be {kind}."
        raise UsageError(f"{shown(model.name)} has the outputs {there}. {which}")
    return found[0]


def reported(entry: Entry | None, *metrics: str) -> Accuracy | None:
    """The figure of one of these metrics that the card of a model reports."""
    figures = entry.accuracy if entry else ()
    return next((each for each in figures if each.metric in metrics and each.reported is not None), None)


def folder_of(outdir: Path, name: str) -> Path:
    """Where the run of a contestant lies."""
    return outdir / "runs" / name
