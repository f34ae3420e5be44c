"""A run as one file that can be published: its crate without logs and without what only a driver needs."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelhub_hpc.errors import UsageError, shown
from modelhub_hpc.publication import crate
from modelhub_hpc.runfolder import arriving, dumps

_PACKED = (".h5",)  # which holds compressed data where that pays


def write_zip(facts: crate.Facts, target: Path) -> int:
    """Write the crate as a ZIP file that is whole or not there; its size in bytes.

    Raises UsageError for a target that is no file, TryAgainError or UnfitError if the storage fails.
    """
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{shown(target)} is not a file in a folder that exists.")
    metadata = crate.metadata(facts)
    with arriving(target) as part:
        with zipfile.ZipFile(part, "x", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            archive.writestr("ro-crate-metadata.json", dumps(metadata, indent=2) + "\n")
            for name, path in _files(facts, metadata):
                archive.write(path, name, zipfile.ZIP_STORED if path.suffix in _PACKED else zipfile.ZIP_DEFLATED)
    return target.stat().st_size


def _files(facts: crate.Facts, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The files that belong to the crate: those that it names, and those in folders that it names."""
    (root,) = (each for each in metadata["@graph"] if each["@id"] == "./")
    for name in (part["@id"] for part in root["hasPart"]):
        path = facts.paths.root / name
        if not name.endswith("/"):
            yield name, path
            continue
        for each in sorted(path.iterdir()):
            if each.suffix == ".jsonl" or (facts.arrays and each.suffix == ".h5"):
                yield f"{name}{each.name}", each
