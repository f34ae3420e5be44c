"""init/init.json: the image of a contribution, and its files that lie elsewhere."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelhub_hpc.contribution import file_place
from modelhub_hpc.contributing.findings import Finding, error, warning
from modelhub_hpc.errors import UsageError
from modelhub_hpc.images.image import parse
from modelhub_hpc.schemas import nearest

INIT = "init/init.json"
_KEYS = {
    "docker_id": '"docker_id": "modelhub-hpc/onnxruntime:1" (the image that the model runs in)',
    "external_contrib_files": '"external_contrib_files": [] (files that are too large for the repository)',
}
_FILE_KEYS = ("src_url", "dest_file_path")


def judge(folder: Path) -> Iterator[Finding]:
    """What is wrong with a contribution's init.json; one that is not there is not ours to miss."""
    try:
        given = json.loads((folder / INIT).read_bytes())
    except OSError:
        return
    except (ValueError, RecursionError) as reason:
        yield error("init", INIT, f"is not JSON: {reason}", "Mend the text at that place.")
        return
    if not isinstance(given, dict):
        yield error("init", INIT, "must hold an object {...}", f"Write {{{', '.join(_KEYS.values())}}}.")
        return
    yield from _keys(given)
    yield from _image(given.get("docker_id"))
    listed = given.get("external_contrib_files", [])
    if not isinstance(listed, list):
        yield error("init", INIT, "external_contrib_files must be a list [...]", "Put the object into brackets.")
        return
    for number, each in enumerate(listed):
        yield from _external(f"external_contrib_files[{number}]", each, folder)
    yield from _twice(listed)


def destinations(folder: Path) -> set[str]:
    """The paths, within the contribution, of its files that lie elsewhere; nothing of what is wrong."""
    try:
        listed = json.loads((folder / INIT).read_bytes())["external_contrib_files"]
        return {place for each in listed if (place := file_place(each["dest_file_path"]))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _keys(given: Mapping[str, Any]) -> Iterator[Finding]:
    unknown = set(given) - set(_KEYS)
    for key, text in _KEYS.items():
        if key not in given:
            near = nearest(key, unknown)
            mend = f"Is '{near}' meant to be it?" if near else f"Add it: {text}."
            yield error("init", INIT, f"{key} is missing", mend)


def _image(given: Any) -> Iterator[Finding]:
    if given is None:
        return
    try:
        name = parse(str(given))
    except UsageError as reason:
        yield error("init", INIT, f"docker_id is {given!r}: {reason}", "Name an image that exists.")
        return
    if not name.tag and not name.pin:
        what = f"docker_id is '{given}', without a tag: it means another image each time"
        yield warning("init", INIT, what, f"Name a version: {given}:1.0.")


def _external(path: str, given: Any, folder: Path) -> Iterator[Finding]:
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in _FILE_KEYS):
        yield error("external", INIT, f"{path} must hold the texts src_url and dest_file_path", "Give both.")
        return
    address = list(_address(f"{path}.src_url", given["src_url"]))
    yield from address
    place = file_place(given["dest_file_path"])
    if place is None:
        what = f"{path}.dest_file_path is {given['dest_file_path']!r}, which leads out of contrib_src"
        mend = "Name a file below contrib_src, without '..': contrib_src/model/FILE."
        yield error("external", INIT, what, mend)
    elif not (folder / place).is_file() and not any(each.level == "error" for each in address):
        what = f"{place} is not here: it is fetched when the model is pulled"
        yield warning("external", INIT, what, f"To test the model here, put it there: {given['src_url']}")


def _address(path: str, given: str) -> Iterator[Finding]:
    mend = "Make the file an asset of a release, and give its https:// address."
    try:
        parts = urllib.parse.urlsplit(given)
        host, login = parts.hostname, parts.username
    except ValueError as reason:
        yield error("external", INIT, f"{path} is {given!r}: {reason}", mend)
        return
    if parts.scheme not in ("http", "https") or not host or not given.isprintable() or " " in given:
        yield error("external", INIT, f"{path} is {given!r}: must be an https:// address", mend)
    elif login is not None:
        yield error("external", INIT, f"{path} holds a login, for all to read", "Remove what is before the '@'.")
    elif parts.scheme == "http":
        what = f"{path} is not https: anybody on the way can give out another file"
        yield warning("external", INIT, what, "Use https if that host has it.")


def _twice(listed: list[Any]) -> Iterator[Finding]:
    places = [str(each.get("dest_file_path")).strip("/") for each in listed if isinstance(each, dict)]
    for place in sorted({each for each in places if places.count(each) > 1}):
        yield error("external", INIT, f"two files are both to become {place}", "Give each a place of its own.")
