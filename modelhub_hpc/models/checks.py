"""Judge a whole registry: each of its files, and what they must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelhub_hpc import schemas
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.models import entry
from modelhub_hpc.models.shelves import Shelf
from modelhub_hpc.schemas import Problem


def problems(shelf: Shelf) -> Iterator[tuple[Path, Problem]]:
    """Everything that is wrong, with the file that it is in."""
    owners = dict[str, Path]()
    for path in shelf.files():
        for problem in _of_file(path, shelf.folder, owners):
            yield path, problem


def _of_file(path: Path, folder: Path, owners: dict[str, Path]) -> Iterator[Problem]:
    try:
        data = schemas.load(path)
    except InvalidError as error:
        yield Problem("", str(error).rstrip("."), "Write it as strict JSON in UTF-8.")
        return
    found = entry.problems(data)
    yield from found
    if found:
        return
    if data["name"] != path.stem:
        yield Problem("name", f"is not the file's name, {path.stem}", f"Call the file {data['name']}.json.")
    first = owners.setdefault(data["id"].lower(), path)
    if first != path:
        yield Problem("id", f"is that of {first.name} too", "Give each model a UUID of its own:  uuidgen")
    for i, version in enumerate(data["versions"]):
        source = version["source"]
        if source["repository"] is None and not (folder / source["folder"] / "contrib_src").is_dir():
            what = f"there is no contribution in {source['folder']} of this registry"
            yield Problem(f"versions[{i}].source.folder", what, "Put it there, or name the repository that has it.")
