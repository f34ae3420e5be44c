"""`mh-hpc pull`: bring a model that a registry knows, so that it can be run by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import FOR_REGISTRIES, json_option, site_flags, site_options
from modelhub_hpc.cli.output import Voice, number, one_line, size, voice_of
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.pulling import Lock, Pulled, Terms

_COMMIT_DIGITS = 12
_folder = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("model", required=False, metavar="MODEL[@VERSION]")
@click.option("--from", "folder", type=_folder, metavar="FOLDER", help="Take it from a clone, or a copy, that is here.")
@click.option("--image", metavar="SOURCE", help="Convert its image from here, such as docker-archive:FILE.")
@click.option("--no-image", is_flag=True, help="Leave its image.")
@click.option("--again", is_flag=True, help="Also a model that is here: fetch it, and compare it with what was here.")
@click.option("--accept-changes", is_flag=True, help="Take a version that has changed since it was pulled.")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--no-https", is_flag=True, help="Allow servers without TLS.")
@click.option("--refresh", is_flag=True, help="First bring copies of git registries up to date.")
@click.option("--list", "listing", is_flag=True, help="List the models that were pulled.")
@json_option
@site_options(FOR_REGISTRIES)
def pull(model: str | None, listing: bool, refresh: bool, as_json: bool, **given: Any) -> int:
    """Bring MODEL, by default its newest version, with its files and its image; then it runs by its name.

    What was seen is kept in its lock.json: commit, sha256 of each file, image. A later pull of the same version must
    see the same. An interrupted pull counts for nothing, and the same command goes on where it ended.
    """
    from modelhub_hpc.pulling import Terms

    voice = voice_of(as_json)
    site = config.load(site_flags(given))
    if listing:
        return _list(site, voice)
    if not model:
        raise UsageError("Name a model:  mh-hpc pull MODEL\nAll that there are:  mh-hpc models")
    if given["image"] and given["no_image"]:
        raise UsageError("--image and --no-image exclude each other.")
    terms = Terms(
        folder=given["folder"].absolute() if given["folder"] else None,
        image=given["image"],
        with_image=not given["no_image"],
        again=given["again"],
        accept=given["accept_changes"],
        offline=given["offline"],
        https=not given["no_https"],
    )
    return bring(model, site, terms, refresh, voice)


def bring(model: str, site: SiteConfig, terms: Terms, refresh: bool, voice: Voice) -> int:
    """Pull NAME or NAME@VERSION, and say how it ended; the exit code."""
    from modelhub_hpc import pulling
    from modelhub_hpc.cli.convert import observer
    from modelhub_hpc.models import pulled, shelves

    name, version = pulled.parse(model)
    found = shelves.find(name, shelves.shelves(site, refresh and not terms.offline))
    with observer(voice) as observe:
        done = pulling.pull(found, version or None, site, terms, observe)
    if voice.json:
        voice.answer(_facts(name, done))
    else:
        _show(name, done, voice)
    if done.differs:
        voice.warn(
            f"The registry says other things of {one_line(name)} {done.version} now than when it was pulled. "
            f"To compare:  mh-hpc pull {one_line(name)}@{done.version} --again"
        )
    return EXIT_DONE


def _show(name: str, done: Pulled, voice: Voice) -> None:
    title, place = f"{one_line(name)} {done.version}", one_line(done.model.path)
    if done.lock is None:
        voice.say(f"{title} ships with mh-hpc, there is nothing to fetch: {place}")
    elif done.new or done.compared:
        for change in done.changes:
            voice.say(f"  changed: {one_line(change)}")
        state = "is here" if done.new else "is here as it is now" if done.changes else "is as it was"
        voice.say(f"{title} {state}: {place}")
        voice.say(f"  {_origin(done.lock)}")
    else:
        voice.say(f"{title} is here already, since {done.lock.pulled}: {place}")
    if done.image:
        voice.say(f"  image {one_line(done.image.name)}: {one_line(done.image.path)}")
    else:
        voice.say(f"  its image is left: {one_line(done.model.image)}")


def _origin(seen: Lock) -> str:
    """Where a model came from, and what was fetched beside it."""
    commit = f", commit {seen.commit[:_COMMIT_DIGITS]}" if seen.commit else ", as it is there: no commit is known"
    total = size(sum(each.bytes for each in seen.files))
    beside = f"; {number(len(seen.files), 'external file')}, {total}" if seen.files else ""
    return f"from {one_line(seen.origin)}{commit}{beside}"


def _facts(name: str, done: Pulled) -> dict[str, Any]:
    image = done.image
    return {
        "name": name,
        "version": done.version,
        "path": str(done.model.path),
        "shipped": done.lock is None,
        "new": done.new,
        "compared": done.compared,
        "changes": list(done.changes),
        "registry_differs": done.differs,
        "lock": done.lock.to_json() if done.lock else None,
        "image": {"name": image.name, "path": str(image.path), "digest": image.digest} if image else None,
    }


def _list(site: SiteConfig, voice: Voice) -> int:
    from modelhub_hpc.models import pulled
    from modelhub_hpc.pulling import lock

    here = [(each, lock.read(each.path)) for each in pulled.everything(site)]
    if voice.json:
        voice.answer([{**vars(each), "path": str(each.path), "lock": seen.to_json()} for each, seen in here])
        return EXIT_DONE
    if not here:
        voice.say(f"No model was pulled into {one_line(pulled.folder(site))}. To bring one:  mh-hpc pull MODEL")
    head = [("model", "version", "pulled", "from")] if here else []
    voice.columns([*head, *((m.name, m.version, s.pulled, one_line(s.origin)) for m, s in here)])
    return EXIT_DONE
