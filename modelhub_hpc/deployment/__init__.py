"""Deployment images: environment, engine and contribution in one SIF that needs nothing else.

The environment is unpacked, the rest is put into its tree, and the tree is packed again. There is no definition
file: its format would give meaning to what a contribution's names and texts may hold, and cannot replace folders.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc import apptainer, images, models, resources
from modelhub_hpc.apptainer import Bind, Containment
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.deployment import card, layout, staging
from modelhub_hpc.deployment.card import Card
from modelhub_hpc.deployment.staging import Item
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, TryAgainError, UsageError, shown
from modelhub_hpc.images import Image, store
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.runfolder import PART, drop, link_first, storage, sync_folder, token
from modelhub_hpc.unpacked.unpack import unpack

__all__ = ["Built", "Plan", "build", "plan"]

_log = logging.getLogger(__name__)
# bytes that an environment takes unpacked, for each of its SIF
_UNPACKED = 5


@dataclass(frozen=True)
class Plan:
    """What would be built, all of it checked. items: what goes into /contrib_src; replace: target may be there."""

    model: Contribution
    image: Image
    target: Path
    replace: bool
    items: tuple[Item, ...]
    card: Card

    @property
    def bytes(self) -> int:
        """The size of the contribution."""
        return sum(item.bytes for item in self.items)

    @property
    def labels(self) -> Mapping[str, str]:
        return card.labels(self.card)


@dataclass(frozen=True)
class Built:
    """A finished deployment image. sha256 in hex."""

    path: Path
    bytes: int
    sha256: str


def plan(model: str, image: str | None, target: Path | None, replace: bool, site: SiteConfig) -> Plan:
    """Find everything that building takes, and refuse what could not be built, before anything is written.

    image: name or file of another environment than the model's own; target: default <model>.sif here.
    Raises UsageError (target), InvalidError (model, image, files of the contribution).
    """
    entry = models.find(model, site)
    path = (target or Path(_file_name(entry.name))).absolute()
    _check_target(path, replace)
    items = staging.listing(entry.contrib_src)
    _check_external_files(entry)
    environment = images.find(image or entry.image, site)
    facts = card.read(entry, environment, resources.folder("engine"))
    return Plan(entry, environment, path, replace, items, facts)


def build(planned: Plan, site: SiteConfig) -> Built:
    """Build the planned image: it appears whole under its name, or not at all.

    Raises TryAgainError (no room, storage), UnfitError, InvalidError (what Apptainer says), UsageError if somebody
    else made the target meanwhile.
    """
    _check_room(planned)
    need = planned.image.bytes * _UNPACKED + 2 * planned.bytes
    with store.workspace(site, need) as folder:
        tree = folder / "tree"
        unpack(tree, str(planned.image.path), folder)
        with storage(folder, planned.bytes):
            _fill(tree, planned)
        _compile(tree, planned.image, folder)
        for name in (layout.FRAMEWORK, layout.CONTRIB_SRC, "scif"):
            staging.open_to_all(tree / name)
        return _packed(tree, planned, folder)


def _file_name(name: str) -> str:
    return (re.sub("[^A-Za-z0-9._-]", "-", name).strip(".-")[:100] or "model") + ".sif"


def _check_target(path: Path, replace: bool) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{shown(path)} is no file in a folder that exists. Name one with -o FILE.sif.")
    if os.path.lexists(path) and not replace:
        raise _exists(path)


def _exists(path: Path) -> UsageError:
    return UsageError(f"{shown(path)} exists already. Replace it with --force, or name another with -o.")


def _check_external_files(entry: Contribution) -> None:
    """Large files that the template keeps elsewhere: an image without them would not start."""
    init = json.loads((entry.path / "init/init.json").read_bytes())
    named = [each for each in init.get("external_contrib_files") or () if isinstance(each, dict)]
    lacking = [each for each in named if not _is_there(entry.path, str(each.get("dest_file_path", "")))]
    if lacking:
        lines = "\n".join(
            f"  {shown(each.get('dest_file_path'))}  from  {shown(each.get('src_url'))}" for each in lacking
        )
        raise InvalidError(
            f"{shown(entry.path)} lacks files that its init.json names:\n{lines}\n"
            "Download them to these places, or bring the model by its name (mh-hpc pull), then build again."
        )


def _is_there(contribution: Path, name: str) -> bool:
    return (contribution / name.strip("/")).is_file()


def _check_room(planned: Plan) -> None:
    folder, need = planned.target.parent, planned.image.bytes + planned.bytes
    with storage(planned.target):
        free = shutil.disk_usage(folder).free
    if free < need:
        raise TryAgainError(
            f"The image takes up to {need / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free in {shown(folder)}.\n"
            "Make room there, or choose another place with -o."
        )


def _fill(tree: Path, planned: Plan) -> None:
    """Put engine, contribution and scripts into the environment's tree."""
    layout.clear(tree)
    engine = resources.folder("engine")
    staging.copy(staging.listing(engine), engine, tree / layout.FRAMEWORK)
    staging.copy(planned.items, planned.model.contrib_src, tree / layout.CONTRIB_SRC)
    labels = {**apptainer.labels(planned.image.path), **planned.labels}
    text = card.help_text(planned.card, planned.target.name)
    layout.write(tree, layout.texts(planned.image.interpreter, text, labels))


def _compile(tree: Path, image: Image, folder: Path) -> None:
    """Let the image's own Python compile what was added: it could not keep byte code in a read-only image."""
    for name in ("home", "work"):
        (folder / name).mkdir()
    places = (layout.FRAMEWORK, layout.CONTRIB_SRC)
    binds = tuple(Bind(tree / name, f"/{name}", writable=True) for name in places)
    inside = Containment(folder / "home", folder / "work", cwd="/", binds=binds, seccomp=apptainer.SECCOMP)
    argv = [image.interpreter, "-m", "compileall", "-q", *(f"/{name}" for name in places)]
    code, said = apptainer.try_command(apptainer.exec_command(image.path, argv, inside), folder)
    if code:  # files for another Python than the image's, such as examples, need not compile
        _log.info("not all of it could be compiled (exit code %d): %s", code, said[-2000:])


def _packed(tree: Path, planned: Plan, folder: Path) -> Built:
    part = planned.target.with_name(f".mh-hpc-{token()}{PART}")
    try:
        apptainer.build(part, str(tree), folder)
        with storage(planned.target, planned.image.bytes + planned.bytes):
            return _published(part, planned)
    finally:
        drop(part)


def _published(part: Path, planned: Plan) -> Built:
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    built = Built(planned.target, part.stat().st_size, file_digest(part))
    if planned.replace:
        os.replace(part, planned.target)  # containers that run from the old file keep it
    elif not link_first(part, planned.target):
        raise _exists(planned.target)
    sync_folder(planned.target.parent)
    return built
