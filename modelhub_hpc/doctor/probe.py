"""The job that looks at a node from within:  python -m modelhub_hpc.doctor.probe FOLDER

It speaks to the doctor through files in the folder, which is what the doctor wants to know to work; what it prints is
read only if that fails.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from modelhub_hpc import __version__, apptainer, config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.doctor import exchange, machine, ports
from modelhub_hpc.doctor.exchange import Answer, Asked, Devices, Found, Knock, Met, Place, Talk, Tried
from modelhub_hpc.errors import ModelHubError, UnfitError

# NFS may show what is new in a folder a minute late
_ANSWER_S = 70.0
_TRIED_S = 30.0


def main(arguments: Sequence[str]) -> None:
    """Write Met, Talk and Found into the folder that is named."""
    folder = Path(arguments[0])
    asked = exchange.get(folder, Asked)
    if asked is None:
        raise UnfitError(f"{exchange.ASKED} is not seen on {config.caller().node}")
    troubles = {"modes": modes(folder, folder / exchange.ASKED), "links": _links(folder)}
    try:
        site = config.from_json(asked.site)
        places = ports.candidates(site, asked.controller)
    except ModelHubError as error:
        # another version, that is, or another kind of machine
        site, places, troubles["ports"] = SiteConfig(), [], str(error)
    with ports.answering(places, asked.token) as opened:
        _talk(folder, asked, opened, {name: words for name, words in troubles.items() if words})
    checks = [dataclasses.asdict(check) for check in machine.checks(site, asked.image)]
    exchange.put(folder, Found(_devices(), checks))


def modes(folder: Path, file: Path) -> str:
    """What is wrong with who may use what the other side has made; "" if it is as it was made."""
    found = []
    for what, mode, state in (
        ("folder", exchange.FOLDER_MODE, folder.stat()),
        ("file", exchange.FILE_MODE, file.stat()),
    ):
        # without the bits that a folder takes from the one it is made in
        shown, owner = stat.S_IMODE(state.st_mode) & 0o777, state.st_uid
        if (shown, owner) != (mode, os.getuid()):
            found.append(f"the {what} has mode {shown:04o} and owner {owner}, not {mode:04o} and {os.getuid()}")
    return "; ".join(found)


def _links(folder: Path) -> str:
    """What keeps a file from getting a name that nobody else has taken, which is how results are published."""
    first, second = folder / "first", folder / "second"
    first.touch()
    try:
        os.link(first, second)
        if not os.path.samefile(first, second):
            return "a hard link is a copy"
        os.link(first, second)
    except FileExistsError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return "a hard link replaces what was there"


def _talk(folder: Path, asked: Asked, places: list[Place], troubles: dict[str, str]) -> None:
    began, before = time.monotonic(), time.time()
    met = Met(
        node=config.caller().node,
        user=config.caller().user,
        python=platform.python_version(),
        executable=sys.executable,
        version=__version__,
        token=asked.token,
        places=places,
        troubles=troubles,
    )
    exchange.put(folder, met)
    answer = exchange.wait_for(folder, Answer, _ANSWER_S)
    round_trip_s, after = time.monotonic() - began, time.time()
    knocks: list[Knock] = ports.knock_at(asked.places, asked.token)
    if answer is None:
        exchange.put(folder, Talk(None, 0.0, knocks))
        return
    exchange.put(folder, Talk(round_trip_s, answer.time - (before + after) / 2, knocks))
    exchange.wait_for(folder, Tried, _TRIED_S)


def _devices() -> Devices:
    program = config.find_program("nvidia-smi")
    visible = config.caller().cuda_visible_devices
    if program is None:
        return Devices(visible, None)
    try:
        _, output = apptainer.try_command([program, "-L"], Path("/"))
    except ModelHubError:
        return Devices(visible, None)  # no Apptainer, which is said elsewhere
    return Devices(visible, [line for line in output.splitlines() if line.startswith("GPU ")])


if __name__ == "__main__":
    main(sys.argv[1:])
