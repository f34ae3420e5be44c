"""`mh-hpc doctor`: look at this machine, its SLURM and a node."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import json_option, site_flags, site_options
from modelhub_hpc.cli.output import MARKS, Voice, one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, EXIT_UNFIT

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.doctor import Check

_FLAGS = (
    *("runtime", "scratch_dir", "gpu", "executor", "partition", "account", "qos", "time", "mem_mb", "threads"),
    *("gres", "gpus_per_node", "constraint", "interface", "controller"),
)


@click.command()
@click.option("--image", metavar="NAME|FILE", help="Try a container of this image.")
@click.option("--node", is_flag=True, help="Also run a job of a minute that looks at a node from within.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    metavar="FOLDER",
    help="Where runs will lie; for that minute the job has a folder below. Default: this one.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=300.0,
    metavar="SECONDS",
    help="Longest time that the job may wait to be started. Default 300.",
)
@json_option
@site_options(_FLAGS)
def doctor(image: str | None, node: bool, folder: Path, wait: float, as_json: bool, **given: Any) -> int:
    """Check that this machine, and its SLURM if there is one, can run models; say how to mend what is missing."""
    from modelhub_hpc.doctor import checks

    voice = voice_of(as_json)
    site, found = config.load(site_flags(given)), list[Any]()
    _show(checks(site, image, folder.absolute(), use_slurm=node), found, voice)
    if node:
        _show(_of_a_node(site, image, folder.absolute(), wait, tuple(found), voice), found, voice)
    fit = all(check.ok is not False for check in found)
    if voice.json:
        voice.answer({"fit": fit, "checks": [dataclasses.asdict(check) for check in found]})
    return EXIT_DONE if fit else EXIT_UNFIT


def _show(checks: Iterable[Check], found: list[Any], voice: Voice) -> None:
    for check in checks:
        found.append(check)
        if not voice.json:
            mend = f"\n    mend: {check.mend}" if check.mend and not check.ok else ""
            voice.say(f"{MARKS[check.ok]} {check.name}: {one_line(check.detail)}{mend}")


def _of_a_node(
    site: config.SiteConfig, image: str | None, folder: Path, wait_s: float, here: tuple[Check, ...], voice: Voice
) -> list[Check]:
    from modelhub_hpc.cli import progress
    from modelhub_hpc.doctor import node

    what = f"Looking at a node: a job of a minute, once it starts, for which it has {wait_s:.0f} s"
    with _ended_in_order(), progress.waiting(voice, what):
        return list(node.checks(site, image, folder, wait_s, here))


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP let go of what is held, as Ctrl-C does, before they end this process."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
