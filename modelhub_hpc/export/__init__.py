"""Results of a run as files of the kinds that researchers use: images, segmentations, polygons, tables."""

from __future__ import annotations

from modelhub_hpc.export.layouts import LAYOUTS
from modelhub_hpc.export.writing import FORMATS, Summary, Wanted, export

__all__ = ["FORMATS", "LAYOUTS", "Summary", "Wanted", "export"]
