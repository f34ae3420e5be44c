"""`mh-hpc images`: what is in the image store, whether it is whole, and how it gets elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from modelhub_hpc import apptainer, config, sif
from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import MARKS, Voice, many_lines, number, one_line, size
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import EXIT_DONE, EXIT_INVALID, InvalidError, ModelHubError
from modelhub_hpc.images import records, signatures, store, sweep, transfer
from modelhub_hpc.images.image import Image
from modelhub_hpc.images.integrity import verify as verify_file
from modelhub_hpc.images.records import Entry

_YES_NO = {True: "yes", False: "NO", None: "-"}
_STATES = {"mended": "mended", "harmless": "note", "open": "NOT mended"}
_DIGEST = 19  # characters of "sha256:..." that tell images apart for people


@click.group()
def images() -> None:
    """The images on this machine: show, check, remove, sign and move them.

    NAME is REPOSITORY/IMAGE[:TAG][@sha256:...] or the path of a SIF file.
    """


@images.command("list")
@json_option
@click.pass_obj
def list_images(voice: Voice, as_json: bool) -> int:
    """List all images, those of libraries first."""
    voice, site = dataclasses.replace(voice, json=as_json), config.load()
    found = records.entries(site)
    if as_json:
        voice.answer([_facts(entry) for entry in found])
        return EXIT_DONE
    if not found:
        voice.say(f"No images yet in {one_line(records.folder(site))}. To get one:  mh-hpc convert SOURCE")
        return EXIT_DONE
    heads = ("image", "size", "created", "python", "certified", "signed", "digest", "folder")
    voice.columns([heads, *(_row(entry) for entry in found)])
    return EXIT_DONE


@images.command()
@click.argument("name")
@json_option
@click.pass_obj
def show(voice: Voice, name: str, as_json: bool) -> int:
    """Show all that is known of one image, its certificate included."""
    voice = dataclasses.replace(voice, json=as_json)
    image = store.find(name, config.load())
    entry, certificate = store.recorded(image), store.certificate(image)
    if as_json:
        voice.answer({**_facts(entry), "certificate": certificate})
        return EXIT_DONE
    facts = {**_facts(entry), "certified": _YES_NO[entry.certified]}
    voice.columns((key, one_line(value)) for key, value in facts.items() if value not in ("", None, []))
    for line in certificate_lines(certificate):
        voice.say(line)
    return EXIT_DONE


@images.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@click.pass_obj
def verify(voice: Voice, names: tuple[str, ...], as_json: bool) -> int:
    """Read images in full and check them: sha256, certificate, signatures. Default: all."""
    voice, site = dataclasses.replace(voice, json=as_json), config.load()
    verdicts = [_verdict(image, site) for image in _chosen(names, site)]
    if as_json:
        voice.answer(verdicts)
    for each in verdicts:
        signed = f", signed by {' and '.join(each['signers'])}" if each["signers"] else ""
        voice.say(
            f"{one_line(each['name'])}: {'whole' + signed if each['ok'] else many_lines(each['error'])}"
        )
    return EXIT_DONE if all(each["ok"] for each in verdicts) else EXIT_INVALID


@images.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
@click.pass_obj
def remove(voice: Voice, names: tuple[str, ...], as_json: bool) -> int:
    """Remove images from this user's store. Models that run from them go on."""
    voice, site = dataclasses.replace(voice, json=as_json), config.load()
    gone = [path for name in names for path in store.remove(name, site)]
    if as_json:
        voice.answer([str(path) for path in gone])
    for path in gone:
        voice.say(f"removed {one_line(path)}")
    return EXIT_DONE


@images.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--unused-for",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Also images that no run used for so long.",
)
@json_option
@click.pass_obj
def gc(voice: Voice, dry_run: bool, unused_for: float | None, as_json: bool) -> int:
    """Remove what interrupted conversions left, and files that belong to no image.

    Libraries, and images with a name, stay; --unused-for takes those of this user's store, too.
    """
    voice = dataclasses.replace(voice, json=as_json)
    found = sweep.gc(config.load(), dry_run, unused_for)
    if as_json:
        voice.answer([{**dataclasses.asdict(each), "path": str(each.path)} for each in found])
    for each in found:
        voice.say(f"{one_line(each.path)} ({size(each.bytes)}): {each.why}")
    verb = "Would remove" if dry_run else "Removed"
    voice.say(f"{verb} {number(len(found), 'thing')}, {size(sum(each.bytes for each in found))}.")
    return EXIT_DONE


@images.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The new folder.")
@json_option
@click.pass_obj
def export(voice: Voice, names: tuple[str, ...], output: Path, as_json: bool) -> int:
    """Write images to a new folder that can be carried to a site without network."""
    voice, target = dataclasses.replace(voice, json=as_json), output.absolute()
    done = transfer.export(names, target, config.load())
    if as_json:
        voice.answer([_plain(image) for image in done])
    for image in done:
        voice.say(f"{one_line(image.name)} ({size(image.bytes)}) is in {one_line(target)}")
    voice.say("On the other side:  mh-hpc images import FOLDER")
    return EXIT_DONE


@images.command("import")
@click.argument("bundle", type=click.Path(path_type=Path), metavar="FOLDER")
@json_option
@click.pass_obj
def import_images(voice: Voice, bundle: Path, as_json: bool) -> int:
    """Take in all images of a folder that `export` wrote, or none."""
    voice = dataclasses.replace(voice, json=as_json)
    done = transfer.import_(bundle.absolute(), config.load())
    if as_json:
        voice.answer([{**_plain(each.image), "new": each.new} for each in done])
    for each in done:
        voice.say(f"{one_line(each.image.name)} {'is imported' if each.new else 'was here already'}")
    return EXIT_DONE


@images.command()
@click.argument("name")
@click.option("--key", required=True, metavar="FINGERPRINT", help="A secret key: apptainer key list --secret")
@json_option
@click.pass_obj
def sign(voice: Voice, name: str, key: str, as_json: bool) -> int:
    """Vouch for an image with a PGP key of your Apptainer keyring.

    The signed image is a new file, found from now on under its name. Apptainer asks for the key's passphrase.
    """
    voice, site = dataclasses.replace(voice, json=as_json), config.load()
    made = signatures.sign(store.find(name, site), key, site)
    if as_json:
        voice.answer(_plain(made))
    voice.say(f"{one_line(made.name)} is signed: {one_line(made.path)}")
    return EXIT_DONE


def _chosen(names: tuple[str, ...], site: SiteConfig) -> Iterable[Image]:
    return [store.find(name, site) for name in names] or [entry.image for entry in records.entries(site)]


def _verdict(image: Image, site: SiteConfig) -> dict[str, Any]:
    signers: tuple[str, ...] = ()
    try:
        verify_file(image)
        if sif.read(image.path).signers:
            signers = _verified_signers(image)
        if site.require_signature:
            signatures.require_signature(image, site)
    except ModelHubError as error:
        return {**_plain(image), "ok": False, "signers": list(signers), "error": str(error)}
    return {**_plain(image), "ok": True, "signers": list(signers), "error": None}


def _verified_signers(image: Image) -> tuple[str, ...]:
    found = apptainer.verify(image.path)
    if not found.valid:
        raise InvalidError(f"A signature is not valid here: {found.reason}")
    return found.signers


def _plain(image: Image) -> dict[str, Any]:
    return {**dataclasses.asdict(image), "path": str(image.path)}


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        **_plain(entry.image),
        "source": entry.source,
        "created": entry.created,
        "certified": entry.certified,
        "signers": _signers(entry.image),
    }


def _signers(image: Image) -> list[str] | None:
    """The keys that the file claims to be signed with; None where it cannot be read."""
    try:
        return list(sif.read(image.path).signers)
    except (ModelHubError, OSError):
        return None


def _row(entry: Entry) -> tuple[str, ...]:
    image, signers = entry.image, _signers(entry.image)
    return (
        one_line(image.name, 60),
        size(image.bytes),
        one_line(entry.created[:10]) or "-",
        one_line(image.python or "-", 12),
        _YES_NO[entry.certified],
        "DAMAGED" if signers is None else "yes" if signers else "-",
        one_line(image.digest[:_DIGEST]) or "-",
        one_line(entry.record.parent),
    )


def certificate_lines(certificate: Mapping[str, Any] | None) -> Iterator[str]:
    """What stood in an image's way, and what was proven; a certificate from elsewhere may have any form."""
    for finding in _told(certificate, ("audit", "findings")):
        state = finding.get("state")
        word = _STATES.get(state, "?") if isinstance(state, str) else "?"
        yield f"{word}: {one_line(finding.get('message', ''))}{_examples(finding)}"
    for check in _told(certificate, ("checks",)):
        ok = check.get("ok")
        mark = MARKS[ok] if ok in (True, False, None) else "?"
        yield f"{mark} {one_line(check.get('name', ''))}: {one_line(check.get('detail', ''))}"


def _examples(finding: Mapping[str, Any]) -> str:
    examples, count = finding.get("examples"), finding.get("count")
    if not isinstance(examples, list) or not examples:
        return ""
    many = f"{number(count, 'file')}, " if isinstance(count, int) and count > 1 else ""
    return f" ({many}e.g. {one_line(examples[0], 80)})"


def _told(certificate: Mapping[str, Any] | None, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects of a list in a certificate."""
    found: Any = certificate
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    yield from (each for each in (found if isinstance(found, list) else ()) if isinstance(each, dict))
