"""A process under a keeper: it ends with all that it started, and nothing of it stays, whatever happens here."""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelhub_hpc import config, resources

log = logging.getLogger(__name__)

DEATH_S = 30.0


class Kept:
    """A command that runs until `end`, or until this process is gone; then keeper.py kills it and removes `scratch`.

    process: the keeper, through whose streams the command speaks; link: readable once the command has ended.
    """

    def __init__(
        self, command: Sequence[str], scratch: Path, env: Mapping[str, str], mem_mb: int = 0, **how: Any
    ) -> None:
        """Start it. mem_mb: what it may use, 0 for any; how: of subprocess.Popen. Raises OSError."""
        self.scratch = scratch
        self._report: dict[str, Any] | None = None
        self.link, theirs = socket.socketpair()
        keeper = [sys.executable, "-I", "-S", str(resources.KEEPER)]
        with theirs:
            self.process = subprocess.Popen(
                [*keeper, str(theirs.fileno()), str(scratch), str(mem_mb), "--", *command],
                env=env,
                pass_fds=(theirs.fileno(),),
                **how,
            )

    def ended(self, within_s: float | None = None) -> bool:
        """Wait for the command to end by itself, so long or for ever; whether it has."""
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        return bool(poll.poll(None if within_s is None else within_s * 1000))

    def end(self) -> dict[str, Any]:
        """Have the keeper kill what is left, and free everything; its report ({} if it was killed itself)."""
        if self._report is None:
            self._report = self._end()
        return self._report

    def _end(self) -> dict[str, Any]:
        try:
            self.link.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the keeper is gone already
        report = _read_report(self.link)
        self.process.wait()
        if not report:
            _kill_session(self.process.pid)
        elif not report["clean"]:
            node, pid = config.node(), self.process.pid
            log.warning("a process of a session on %s cannot be killed; see `ps -s %d`", node, pid)
        self.link.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        return report


def _read_report(link: socket.socket) -> dict[str, Any]:
    link.settimeout(DEATH_S)
    data = b""
    try:
        while piece := link.recv(4096):
            data += piece
    except OSError:
        log.warning("a session's keeper did not answer within %.0f s", DEATH_S)
    report: dict[str, Any] = json.loads(data) if data.endswith(b"\n") else {}
    return report


def _kill_session(sid: int) -> None:
    """Kill what a killed keeper left: its session's processes, of which only squashfuse survives the runtime."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == sid:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # ended meanwhile, or somebody else's
