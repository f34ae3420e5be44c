"""What a registry knows of a model that lies here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from modelhub_hpc import resources
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.models import entry as entries
from modelhub_hpc.models import pulled
from modelhub_hpc.models.entry import Entry

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{,200}")  # of a model that a registry could have


def entry_of(model: Contribution) -> Entry | None:
    """The model's entry: the one that came with it, that of the registry it lies in, or ours of that name.

    None where there is none with its id, or none that can be read: a folder of one's own needs no entry.
    """
    for path in _places(model):
        if path.is_file():
            try:
                found = entries.glance(path)
            except InvalidError:
                continue
            if found.id == model.id:
                return found
    return None


def _places(model: Contribution) -> Iterator[Path]:
    yield model.path / pulled.ENTRY
    if _NAME.fullmatch(model.name):
        for registry in (model.path.parent.parent, resources.folder("registry")):
            yield registry / "models" / f"{model.name}.json"
