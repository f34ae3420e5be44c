"""Prove that an image runs: as another user, offline, read-only, with the engine serving a probe over the wire."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from modelhub_hpc import apptainer, config, resources
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import UnfitError
from modelhub_hpc.launch import SessionSpec, Stranger
from modelhub_hpc.session import Session, SessionError, StartError
from modelhub_hpc.wire import RawOutput, Ready, Request

PIXELS = ((0.0, 50.0, 100.0), (150.0, 200.0, 250.0))  # of the probe's picture, axes (y, x)
_PROBE = resources.folder("hpc") / "probe/contrib_src"
_PICTURE = "/contrib_src/sample_data/probe.png"
_REQUIRED = ("numpy", "PIL")
_USES = {
    "SimpleITK": "volumes and DICOM cannot be read",
    "h5py": "arrays cannot be kept over ModelHub's REST",
}
_START_S, _ANSWER_S = 300.0, 120.0
_APPTAINER_FAILED = 255
_WORDS = 500  # characters of what a container that did not start had to say
_AS_CALLER = "as the calling user in a new user namespace"
_NOBODY = 65534
_ANOTHER = 1000


@dataclass(frozen=True)
class Check:
    """One thing proven, or not. ok: None for what no run needs."""

    name: str
    ok: bool | None
    detail: str


def certify(image: Path, interpreter: str, site: SiteConfig) -> tuple[Check, ...]:
    """Run the probe in the image; what was seen. An image that does not work is a failed check, not an error.

    Raises UnfitError where no image could work.
    """
    if not interpreter:
        return (Check("starts", False, "the image holds no Python"),)
    stranger, who = find_stranger(image.parent)
    try:
        return _probe(image, interpreter, site, stranger, who)
    except StartError as error:
        if stranger is None or error.evidence.code != _APPTAINER_FAILED:
            return _not_started(error, who)
    # the image may be sound: some hosts let nobody make a user namespace within another
    who = f"{_AS_CALLER} (a container as another user does not start here)"
    try:
        return _probe(image, interpreter, site, None, who)
    except StartError as error:
        return _not_started(error, who)


def _probe(
    image: Path, interpreter: str, site: SiteConfig, stranger: Stranger | None, who: str
) -> tuple[Check, ...]:
    try:
        with Session(_spec(image, interpreter, site, stranger)) as session:
            assert session.ready is not None
            return tuple(_checks(session, session.ready, who))
    except SessionError as error:
        return (Check("serves", False, _first_line(error)),)


def _not_started(error: StartError, who: str) -> tuple[Check, ...]:
    if mend := apptainer.mend(error.evidence.tail):
        raise UnfitError(f"No container starts here, so no image can be certified.\n{mend}") from error
    return (Check("starts", False, f"{_first_line(error)} ({who}): {error.evidence.tail.strip()[-_WORDS:]}"),)


def is_certified(checks: tuple[Check, ...]) -> bool:
    return all(check.ok is not False for check in checks)


def _spec(image: Path, interpreter: str, site: SiteConfig, stranger: Stranger | None) -> SessionSpec:
    return SessionSpec(
        runtime="apptainer",
        image=image,
        interpreter=interpreter,
        contrib_src=_PROBE,
        roots=(),
        gpus=(),
        threads=1,
        scratch=config.scratch_dir(site),
        logs=None,
        start_timeout_s=_START_S,
        case_timeout_s=_ANSWER_S,
        mem_mb=0,
        max_log_mb=1,
        network=False,
        seccomp=site.seccomp,
        stranger=stranger,
    )


def find_stranger(folder: Path) -> tuple[Stranger | None, str]:
    """The best stranger to be had here, and words for it; folder: any that can be worked in.

    root becomes nobody; an ordinary user becomes one of its subordinate ids, which are strangers to the kernel too.
    """
    if os.getuid() == 0:
        stranger = Stranger(_NOBODY, ("unshare", "--mount", "--propagation", "private"))
        words = f"as uid {_NOBODY}, another user of this machine"
    else:
        ids = ("--map-auto", "--map-user=0", "--map-group=0")
        stranger = Stranger(_ANOTHER, ("unshare", "--user", "--mount", *ids))
        words = f"as uid {_ANOTHER} of this user's subordinate ids: another user to the kernel"
    become = ["setpriv", "--reuid", str(stranger.uid), "--regid", str(stranger.uid), "--clear-groups", "true"]
    code, reason = apptainer.try_command([*stranger.namespace, *become], folder)
    if code == 0:
        return stranger, words
    return None, f"{_AS_CALLER} (no other user to be had here: {_first_line(reason)})"


def _checks(session: Session, ready: Ready, who: str) -> Iterator[Check]:
    yield Check("starts", True, f"Python {ready.python}, {who}")
    for reply in session.predict([Request("probe", (("single", _PICTURE),))]):
        if reply.error:
            yield Check("serves", False, f"the probe failed: {reply.error}")
        else:
            pixels, facts = reply.outputs
            yield _served(pixels)
            yield from _facts(cast("Mapping[str, Any]", facts.prediction))


def _served(pixels: RawOutput) -> Check:
    if pixels.array is None:
        return Check("serves", False, f"the engine's loaders do not work: {pixels.prediction}")
    found = np.asarray(pixels.array.array)
    right = found.shape == (1, 1, 2, 3) and np.array_equal(found[0, 0], np.asarray(PIXELS))
    return Check(
        "serves", right, "a picture through the engine and back" if right else f"wrong pixels: {found}"
    )


def _facts(facts: Mapping[str, Any]) -> Iterator[Check]:
    shut = facts["open"]
    yield Check(
        "read-only",
        not shut,
        f"writable: {', '.join(shut)}" if shut else "nothing of the image can be written",
    )
    others = [name for name in facts["interfaces"] if name != "lo"]
    yield Check("offline", not others, f"interfaces: {', '.join(others)}" if others else "no network")
    closed = [f"{folder} ({why})" for folder, why in facts["writable"].items() if why is not True]
    yield Check("private folders", not closed, "; ".join(closed) or ", ".join(facts["writable"]))
    for name, version in facts["libraries"].items():
        yield _library(name, version)


def _library(name: str, version: str) -> Check:
    if not version.startswith("!"):
        return Check(name, True, version)
    if name in _REQUIRED:
        return Check(name, False, f"the engine needs it: {version[1:]}")
    return Check(name, None, f"{_USES[name]}: {version[1:]}")


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
