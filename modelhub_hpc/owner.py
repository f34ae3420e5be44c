"""One owner per folder: who it is, whether it lives, and how another takes over.

A run is owned by its driver, a conversion by the process that makes it. Owner records are numbered files that are
published once and never change; the highest number owns. Taking over is publishing the next number, which only
one process can do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import config
from modelhub_hpc.errors import ModelHubError, TryAgainError, UnfitError, shown
from modelhub_hpc.processes import pid_namespace, start_ticks
from modelhub_hpc.runfolder import drop, publish_json, storage, token

_NAME = re.compile(r"owner\.(\d{6,})")
_BEATS = 3
_ATTEMPTS = 20
_PROC = Path("/proc")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnerRecord:
    """Who owns a folder.

    pid, start_ticks and pid_namespace name a process of one boot of one host; started: local time with zone.
    """

    token: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int
    job_id: str | None
    uid: int
    user: str
    started: str

    def describe(self) -> str:
        job = f", SLURM job {self.job_id}" if self.job_id else ""
        return f"pid {self.pid} on {self.host} (user {self.user}{job}, since {self.started})"


class Owner:
    """The right to what a folder stands for, from acquire() until release() or the end of this process."""

    def __init__(self, folder: Path, number: int, record: OwnerRecord, interval_s: float) -> None:
        self.record = record
        self._next = _record_path(folder, number + 1)
        self._released = _released_path(folder, number)
        self._beat_path = _beat_path(folder, record)
        self._interval_s = interval_s
        self._counter = 0
        self._last_beat_s = -interval_s

    def beat(self) -> None:
        """Show other hosts that this owner lives; call it often, it writes once per interval.

        Raises TryAgainError or UnfitError if the storage fails.
        """
        now_s = time.monotonic()
        if now_s - self._last_beat_s < self._interval_s:
            return
        self._last_beat_s = now_s
        self._counter += 1
        with storage(self._beat_path):
            descriptor = os.open(self._beat_path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                # Always the same length and in place: no reader sees half, and a full disk has room for it.
                os.pwrite(descriptor, b"%020d\n" % self._counter, 0)
            finally:
                os.close(descriptor)

    def is_current(self) -> bool:
        """Whether nobody has taken over, which can happen if this owner seemed dead to another host."""
        return not self._next.exists() and not self._released.exists()

    def release(self) -> None:
        """Let the next owner start at once.

        Storage that fails is only logged: the end of this process lets it start, too.
        """
        try:
            publish_json(self._released, {"token": self.record.token})
        except (TryAgainError, UnfitError) as error:
            _log.warning("%s", error)
        drop(self._beat_path)


def acquire(folder: Path, what: str, interval_s: float = 10.0, job_id: str | None = None) -> Owner:
    """Become the driver of what the folder stands for; `what` names it in messages ("Run /path").

    interval_s: how often an owner shows that it lives; one on another host that shows nothing for three
    intervals counts as dead.  Raises TryAgainError if another owner lives or the storage fails.
    """
    found = contend(folder, interval_s, job_id)
    if isinstance(found, Owner):
        return found
    raise TryAgainError(f"""
        {what} is driven by {found.describe()}.
        Wait for it, or end that driver; then the same command continues the run.""")


def contend(folder: Path, interval_s: float = 10.0, job_id: str | None = None) -> Owner | OwnerRecord:
    """Become the owner, or tell who is, after three intervals at most.

    Raises TryAgainError or UnfitError if the storage fails.
    """
    record = _own_record(job_id)
    for _ in range(_ATTEMPTS):
        number = _highest(folder)
        if number and (living := _living(folder, number, interval_s)):
            return living
        owner = Owner(folder, number + 1, record, interval_s)
        owner.beat()
        if publish_json(_record_path(folder, number + 1), asdict(record)):
            return owner
        drop(_beat_path(folder, record))
        time.sleep(0.05)  # somebody else was first; a network file system may show the name a little later
    latest = _read_record(_record_path(folder, _highest(folder)))
    if latest is not None:
        return latest  # of a crowd that takes turns quickly
    raise TryAgainError(f"{shown(folder)} changes its owner again and again; try again later.")


@contextlib.contextmanager
def beating(owner: Owner, interval_s: float) -> Iterator[None]:
    """Show that this owner lives, from a thread, since its work may keep this one for hours; then release."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(interval_s):
            try:
                owner.beat()
            except ModelHubError as error:
                _log.warning("%s", error)  # the work meets the same storage, and decides

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        owner.release()


@dataclass(frozen=True)
class Holder:
    """Who owns a folder. alive: None where that cannot be seen from this host at a glance."""

    record: OwnerRecord
    alive: bool | None


def holder(folder: Path) -> Holder | None:
    """Who owns a folder, without waiting for a heartbeat; None if it was released or has never been owned.

    Raises UnfitError where the folder is not this user's to read.
    """
    number = _highest(folder)
    if not number or _released_path(folder, number).exists():
        return None
    record = _read_record(_record_path(folder, number))
    return Holder(record, _seen_alive(record)) if record else None


def _living(folder: Path, number: int, interval_s: float) -> OwnerRecord | None:
    """The owner of that number, if it lives and has not released."""
    released = _released_path(folder, number)
    record = None if released.exists() else _read_record(_record_path(folder, number))
    if record is None:
        return None
    alive = _seen_alive(record)
    if alive is None:
        alive = _beats(_beat_path(folder, record), released, interval_s)
    return record if alive else None


def _seen_alive(record: OwnerRecord) -> bool | None:
    """Whether the process lives; None where it cannot be seen from here."""
    if record.host != _host():
        return None
    if record.boot_id != _boot_id():
        return False
    if start_ticks(record.pid) == record.start_ticks and record.pid_namespace == pid_namespace():
        return True
    if (record.pid_namespace, record.uid) == (pid_namespace(), os.getuid()):
        return False
    # Its process may be there and only hidden from us: in another container, or another user's.
    return None


def _beats(path: Path, released: Path, interval_s: float) -> bool:
    """Watch a heartbeat until it changes or its owner releases, for three intervals at most.

    Its content counts, not its time: the clocks of two hosts differ.
    """
    first = _content(path)
    end_s = time.monotonic() + _BEATS * interval_s
    while time.monotonic() < end_s and not released.exists():
        time.sleep(min(interval_s / 5, 1.0))
        if _content(path) != first:
            return True
    return False


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _highest(folder: Path) -> int:
    with storage(folder):
        matches = [_NAME.fullmatch(name) for name in os.listdir(folder)]
    return max((int(match[1]) for match in matches if match), default=0)


def _read_record(path: Path) -> OwnerRecord | None:
    """None for a damaged record: whoever wrote it cannot be asked."""
    with storage(path):
        text = path.read_bytes()
    try:
        fields: dict[str, Any] = json.loads(text)
        return OwnerRecord(**fields)
    except (ValueError, TypeError) as error:
        _log.warning("%s is damaged and not counted: %s", shown(path), error)
        return None


def _record_path(folder: Path, number: int) -> Path:
    return folder / f"owner.{number:06d}"


def _released_path(folder: Path, number: int) -> Path:
    return folder / f"owner.{number:06d}.released"


def _beat_path(folder: Path, record: OwnerRecord) -> Path:
    return folder / f"beat.{record.token}"


def _own_record(job_id: str | None) -> OwnerRecord:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    return OwnerRecord(
        token(),
        _host(),
        _boot_id(),
        pid_namespace(),
        os.getpid(),
        ticks,
        job_id,
        os.getuid(),
        config.caller().user,
        time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )


def _host() -> str:
    return os.uname().nodename


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
