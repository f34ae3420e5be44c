"""Files that clients send: into a folder of the request's own, under names of ours, of kinds that are taken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from werkzeug.datastructures import FileStorage

from modelhub_hpc.contribution import InputSpec
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.rest import engine
from modelhub_hpc.service.served import ServedModel


@contextlib.contextmanager
def request_folder(model: ServedModel) -> Iterator[Path]:
    """A folder that the model's sessions can see, and no other user; it is gone afterwards."""
    with model.rest.request_folder() as folder:
        yield Path(folder)


def receive(upload: FileStorage, spec: InputSpec, folder: Path) -> Path:
    """Save what was sent for an input; its name tells its kind, as its content shows it. Refused (400) for others."""
    filetypes = engine("filetypes")
    number = sum(1 for _ in folder.iterdir())
    place = folder / f"upload-{number}"
    upload.save(place)
    kind = filetypes.kind_of(str(place), upload.filename or "")
    if not filetypes.is_accepted(kind, spec.formats):
        what = "The model" if spec.key == "single" else f"The input {spec.key}"
        raise Refused(400, f"{what} takes {', '.join(spec.formats)}; the file looks like {kind.mimes[0]}.")
    return place.rename(folder / f"input-{number}{kind.extension}")
