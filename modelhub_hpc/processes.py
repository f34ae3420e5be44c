"""Tell one process from another that later got its number, and the folders of one from those of the dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_PROC = Path("/proc")


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none or it is only a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(b")")[2].split()  # the name in parentheses may hold anything
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def pid_namespace() -> str:
    """What process numbers mean here, e.g. "pid:[4026531836]"."""
    return os.readlink(_PROC / "self/ns/pid")


def detach(command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> int:
    """Start a process that goes on when its terminal and this process are gone; its number. Raises OSError."""
    with open(log, "ab") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    process.returncode = 0  # nobody here waits for it
    return process.pid


def start_python(code: str, channel: int) -> subprocess.Popen[bytes]:
    """Run code in a new Python that finds the same modules, has this file descriptor, and prints to our stderr.

    It is out of reach of the signals that a terminal sends.
    """
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        pass_fds=(channel,),
        stdin=subprocess.DEVNULL,
        stdout=2,
        start_new_session=True,
    )


def wait_or_kill(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Wait until it has ended by itself, or kill it."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def share_job(name: str, processes: int) -> tuple[str | None, int]:
    """Make the workers of a job; in each its name and number, in their parent None and the exit code, once all end."""
    if processes == 1:
        return name, 0
    children: dict[int, int] = {}
    for slot in range(processes):
        pid = os.fork()
        if not pid:
            return f"{name}-{slot}", slot
        children[pid] = 0
    # SLURM signals the first process of a job alone

    def pass_on(number: int, _: object) -> None:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, pass_on)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return None, max(abs(code) for code in codes)


def own_folder(folder: Path) -> Path | None:
    """The folder, made if need be, if it is this user's and nobody else may enter it; else None."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = os.lstat(folder)
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time: the others wait, and need not fear that one dies meanwhile.

    lock: a file, made if need be, on a file system that can lock. Raises OSError where it cannot.
    """
    with open(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), "rb", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def private_folder(base: Path, kind: str) -> Path:
    """A new folder below `base` for this process alone, of which `ended_folders` knows whose it is.

    Raises OSError.
    """
    pid = os.getpid()
    return Path(tempfile.mkdtemp(prefix=f"{_prefix(kind)}{pid}-{start_ticks(pid)}-", dir=base))


def ended_folders(base: Path, kind: str) -> Iterator[Path]:
    """The private folders that processes of this user on this host left behind when they died."""
    prefix = _prefix(kind)
    for folder in base.glob(f"{prefix}*-*-*"):
        pid, ticks, _ = folder.name.removeprefix(prefix).split("-", 2)
        try:
            mine = folder.lstat().st_uid == os.getuid()
        except FileNotFoundError:
            continue  # its process has just ended, or another sweeps too
        if mine and str(start_ticks(int(pid))) != ticks:
            yield folder


def remove_tree(folder: Path) -> None:
    """Remove a folder of this user with all that is in it, folders included that nobody may enter."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return
    _open_up(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _open_up(top: Path) -> None:
    waiting = [os.fspath(top)]
    while waiting:
        folder = waiting.pop()
        try:
            os.chmod(folder, 0o700)
            with os.scandir(folder) as entries:
                waiting += [each.path for each in entries if each.is_dir(follow_symlinks=False)]
        except OSError:
            pass  # another user's, or gone meanwhile: what can be removed is


def _prefix(kind: str) -> str:
    # host and namespace, since nodes may share the folder and process numbers only mean something within
    return f"{kind}-{os.getuid()}-{socket.gethostname()}-{pid_namespace().strip('pid:[]')}-"


def ask(command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    """Run a program to its end; its exit code and stdout. 127: it is not there; 124: it took too long and was ended."""
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    except OSError:
        return 127, ""
    return done.returncode, done.stdout.decode(errors="replace")
