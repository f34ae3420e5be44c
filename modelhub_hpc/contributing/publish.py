"""A contribution becomes a version in a registry: an entry made of its own files, and proven against its repository."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import config, contribution, git
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import configs, facts
from modelhub_hpc.contributing.scaffold import STAND_IN
from modelhub_hpc.contributing.validate import validate
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.models import entry as entries
from modelhub_hpc.models import shelves
from modelhub_hpc.models.entry import Entry, File, Source, Version
from modelhub_hpc.models.pulled import precedence
from modelhub_hpc.processes import private_folder, remove_tree
from modelhub_hpc.pulling import files, source
from modelhub_hpc.runfolder import read_json, replacing, storage

_EXAMPLES = 10


@dataclass(frozen=True)
class Given:
    """What the command line adds, "" for nothing. repository, commit: instead of what the folder is a clone of."""

    repository: str = ""
    commit: str = ""
    doi: str = ""
    version: str = ""


@dataclass(frozen=True)
class Published:
    """The entry, in its file. before: the versions that were there already; changed: whether anything was written."""

    path: Path
    entry: Entry
    version: Version
    before: tuple[str, ...]
    changed: bool


def publish(folder: Path, registry: Path, given: Given, site: SiteConfig) -> Published:
    """Write the contribution's entry into a registry's folder, or add a version to the entry that is there.

    Uses the network to see that the repository has these very files. Raises InvalidError (mistakes in the contribution,
    a version that is there and differs, files that the repository has not), UsageError, and what git.fetch raises.
    """
    folder, shelf = folder.resolve(), shelves.root(registry.resolve())
    _require_valid(folder, site)
    model = contribution.read(folder)
    settings = json.loads((folder / configs.CONFIG).read_bytes())
    _require_described(settings)
    path = shelf / "models" / f"{model.name}.json"
    known = _known(path, model)
    place = _source(folder, shelf, given)
    image, python = facts.image(model, site)
    external = tuple(_external(folder))
    version = Version(_number(settings, given), place, image, external)
    versions = _with(version, known, path)
    _require_same_files(folder, shelf, place, {each.path for each in external}, site)
    stated = {**facts.stated(model, settings, given.doi), **({"python": python} if python else {})}
    newest = versions[-1] == version
    data = {**facts.UNKNOWN, **(known.to_json() if known else {}), **(stated if newest else {}), "versions": versions}
    entry = _parsed(data, f"{path}, as made of what {folder} says,")
    changed = entry != known
    if changed:
        _write(path, entry)
    before = tuple(each.version for each in known.versions) if known else ()
    return Published(path, entry, version, before, changed)


def _require_valid(folder: Path, site: SiteConfig) -> None:
    errors = validate(folder, site).errors
    if errors:
        lines = "\n".join(f"  {shown(each.where)}: {shown(each.what)}" for each in errors[:_EXAMPLES])
        raise InvalidError(f"{shown(folder)} has mistakes:\n{lines}\nHow to mend them:  mh-hpc validate DIR")


def _require_described(settings: Mapping[str, Any]) -> None:
    if settings["model"]["description"] == STAND_IN:
        raise InvalidError(
            f"{configs.CONFIG} still describes the stand-in that mh-hpc init has made: {STAND_IN}\n"
            "Say there what the model is: meta, and description, provenance, architecture ... of model."
        )


def _known(path: Path, model: Contribution) -> Entry | None:
    """The entry that is there already; InvalidError if it is another model's, or another entry has this one's id."""
    for each in sorted(path.parent.glob("*.json")):
        if (entries.glance(each).id.lower() == model.id.lower()) != (each == path):
            whose = "another model, with another id" if each == path else f"a model with the id of this one, {model.id}"
            raise InvalidError(
                f"{shown(each)} is the entry of {whose}.\n"
                "Every model has a name and an id of its own: meta.name and id in config.json."
            )
    return entries.read(path) if path.exists() else None


def _number(settings: Mapping[str, Any], given: Given) -> str:
    own = str(settings["modelhub"].get("version", ""))
    if given.version and own and given.version != own:
        raise UsageError(f"config.json calls this version {shown(own)}, not {shown(given.version)}. Change it there.")
    if not given.version and not own:
        raise UsageError('Which version is it? Say "modelhub": {"version": "1.0.0"} in config.json, or --version 1.0.0')
    return given.version or own


def _with(version: Version, known: Entry | None, path: Path) -> list[Version]:
    """All versions, oldest first. InvalidError if there is another one of that number."""
    others = [each for each in known.versions if each.version != version.version] if known else []
    if known and len(others) < len(known.versions):
        there = known.version(version.version)
        differing = [name for name, value in vars(version).items() if vars(there)[name] != value]
        if differing:
            raise InvalidError(
                f"{shown(path)} has a version {version.version}, with other facts ({', '.join(differing)}).\n"
                "A version never changes: give this one a higher number, in config.json under modelhub.version."
            )
    return sorted([*others, version], key=lambda each: precedence(each.version))


def _source(folder: Path, shelf: Path, given: Given) -> Source:
    if bool(given.repository) != bool(given.commit):
        raise UsageError("--repository and --commit belong together: a version is a commit.")
    if not given.repository and folder.is_relative_to(shelf):
        return Source(None, None, None, folder.relative_to(shelf).as_posix())
    copy = git.checkout(folder)
    below = folder.relative_to(copy.top).as_posix() if copy else "."
    if given.repository:
        return Source(given.repository, None, given.commit, below)
    if copy and copy.url:
        return Source(copy.url, copy.branch or None, copy.commit, below)
    lies = "lies in a git repository without a remote" if copy else "lies in no git repository"
    raise UsageError(
        f"{shown(folder)} {lies}, so nobody else can have it.\n"
        "Push it somewhere, say --repository URL --commit SHA, or put it into the registry's own folder."
    )


def _require_same_files(
    folder: Path, shelf: Path, place: Source, external: set[str], site: SiteConfig
) -> None:
    """InvalidError if the repository does not have, at that commit, what lies in the folder."""
    if place.repository is None:
        return
    theirs, ours = _at_source(place, shelf, site), dict(_contents(folder))
    marks = {(False, True): "only here ", (True, False): "only there", (True, True): "differs   "}
    differing = [
        f"  {marks[name in theirs, name in ours]} {shown(name)}"
        for name in sorted({*theirs, *ours} - external)
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        more = [f"  ... and {len(differing) - _EXAMPLES} more"] if len(differing) > _EXAMPLES else []
        lines = "\n".join([*differing[:_EXAMPLES], *more])
        raise InvalidError(
            f"{shown(place.repository)} has other files, in commit {place.commit}, than {shown(folder)}:\n{lines}\n"
            "Commit and push what belongs to the model, remove the rest, then publish it again."
        )


def _at_source(place: Source, shelf: Path, site: SiteConfig) -> dict[str, str]:
    """Path -> sha256 of the files as `mh-hpc pull` will get them."""
    with storage(config.scratch_dir(site)):
        work = private_folder(config.scratch_dir(site), "publish")
    try:
        source.take(place, shelf, None, True, work, work / "tree")
        pointers = files.needed(work / "tree", {}, ())
        return {**dict(_contents(work / "tree")), **{each.path: str(each.sha256) for each in pointers}}
    except InvalidError as error:
        raise InvalidError(f"{error}\nOnly what is pushed can be published:  git push") from error
    finally:
        remove_tree(work)


def _contents(tree: Path) -> Iterator[tuple[str, str]]:
    """Path and sha256 of the files in init/ and contrib_src/, and where links lead."""
    for path in (path for top in source.FOLDERS for path in (tree / top).rglob("*")):
        if not path.is_dir() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts):
            yield str(path.relative_to(tree)), os.readlink(path) if path.is_symlink() else file_digest(path)


def _external(folder: Path) -> Iterator[File]:
    """The files that lie elsewhere, as they are here."""
    for each in files.needed(folder, read_json(folder / "init/init.json"), ()):
        here = folder / each.path
        if each.url and not here.is_file():
            raise InvalidError(
                f"{shown(each.path)} is not here, so nobody can say what belongs there. Fetch it, then publish again:\n"
                f"  {shown(each.url)}"
            )
        if each.url:
            yield File(each.url, each.path, file_digest(here), here.stat().st_size)


def _parsed(data: Mapping[str, Any], where: str) -> Entry:
    versions: Sequence[Version] = data["versions"]
    plain = {**data, "versions": [dataclasses.asdict(each) for each in versions]}
    return entries.parse(json.loads(json.dumps(plain)), where)


def _write(path: Path, entry: Entry) -> None:
    text = json.dumps(entry.to_json(), indent=2, ensure_ascii=False)
    with storage(path), replacing(path) as file:
        file.write(f"{text}\n")
