"""What a run has given, as one page to look at: failures first, then what is odd, then time, cost and origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.report.mosaic import tiles
from modelhub_hpc.report.page import render
from modelhub_hpc.report.survey import Survey, survey
from modelhub_hpc.runfolder import replacing
from modelhub_hpc.runs.reading import Reading

SAMPLE = 60
_PICTURES = 12_000_000  # bytes of all


@dataclass(frozen=True)
class Written:
    """A report that is there. shown: how many cases have pictures in it."""

    path: Path
    bytes: int
    shown: int
    survey: Survey


def write(
    run: Reading, target: Path, sample: int = SAMPLE, observe: Callable[[int], None] = lambda cases: None
) -> Written:
    """Write the report of a run, finished or not; target: replaced when the new one is whole.

    sample: how many cases have pictures, as far as there is room. observe: told of how many cases have been looked at.
    Raises TryAgainError where the run is damaged or the storage fails, UnfitError where target cannot be written.
    """
    found = survey(run, sample, observe)
    shown = list(tiles(run, found.chosen(sample), _PICTURES))
    text = render(run, found, shown)
    with replacing(target) as stream:
        stream.write(text)
    return Written(target, len(text.encode("utf-8")), len(shown), found)
