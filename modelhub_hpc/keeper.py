"""Keep one model process and leave nothing behind; run as a script, standard library only.

    python -I -S keeper.py LINK_FD SCRATCH MEMORY_MB -- COMMAND...

The worker that starts a session holds the other end of the socket LINK_FD. When that end closes, by intent or
because the worker was killed, everything below this process is killed: the container runtime, the model, its
children, and the squashfuse helpers that a killed runtime leaves running in process groups of their own (this
process is their subreaper, so none escapes). SCRATCH is removed last, once the other end is closed.

When the command has ended it writes one JSON line to the link: {"code", "killed_by", "peak_mb", "clean"}; code is
the command's exit code or 128 + signal, killed_by is null, "link" (the worker closed it) or "memory" (the tree
grew above MEMORY_MB, 0 for no limit), clean is false if something would not die. A process of its own is needed
because a parent-death signal fires when the *thread* that forked ends, and because native code in the model can
hold its interpreter lock for ever.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FIRST_POLL_S = 0.25
LAST_POLL_S = 2.0  # only for the peak: looking through /proc is not free on a node with many processes
GIVE_UP_S = 20.0
MB = 2**20

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def start(command: list[str], link: int) -> int:
    """Fork and exec the command so that it dies with this process; return its pid."""
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(137)
        os.close(link)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.set_wakeup_fd(-1)
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, ("%s: %s\n" % (command[0], error.strerror)).encode())
        os._exit(127)


def release_stdio() -> None:
    """Let go of the pipes, so that their end is seen when the model closes them."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def descendants(root: int) -> dict[int, int]:
    """All live processes below root as {pid: resident pages}."""
    parents, pages = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as stream:
                    # the command name may hold anything, so fields are counted from its closing bracket
                    fields = stream.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                parents[int(name)] = int(fields[1])
                pages[int(name)] = int(fields[21])
    below: dict[int, int] = {}
    frontier = {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        below.update((pid, pages[pid]) for pid in frontier)
    return below


def reap(exits: dict[int, int]) -> bool:
    """Collect every exited child into exits; False once there is no child left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        exits[pid] = os.waitstatus_to_exitcode(status)


def kill_all(exits: dict[int, int], wakeup: int) -> bool:
    """Kill everything below this process until nothing is left; False if something would not die."""
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    deadline = time.monotonic() + GIVE_UP_S
    while reap(exits):
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > deadline:
            return False
        if poll.poll(10):  # until one of them has ended
            os.read(wakeup, 512)
    return True


def watch(child: int, link: int, wakeup: int, limit_mb: int, exits: dict[int, int]) -> tuple[str | None, int]:
    """Wait for the child to exit, the link to close or the memory limit; return (killed_by, peak_mb)."""
    page = resource.getpagesize()
    peak, interval, poll = 0, FIRST_POLL_S, select.poll()
    poll.register(link, select.POLLIN | select.POLLHUP)
    poll.register(wakeup, select.POLLIN)
    while True:
        for fd, _ in poll.poll(interval * 1000):
            if fd == wakeup:
                os.read(wakeup, 512)
            elif not os.read(link, 512):
                return "link", peak
        reap(exits)
        if child in exits:
            return None, peak
        used = sum(descendants(os.getpid()).values()) * page // MB
        peak = max(peak, used)
        if limit_mb and used > limit_mb:
            return "memory", peak
        interval = FIRST_POLL_S if limit_mb else min(2 * interval, LAST_POLL_S)


def main(argv: list[str]) -> int:
    link, scratch, limit_mb = int(argv[1]), argv[2], int(argv[3])
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # a job's signals reach every process of it; only the link decides when this one ends
        signal.signal(name, signal.SIG_IGN)
    wakeup, wakeup_in = os.pipe()
    os.set_blocking(wakeup_in, False)
    signal.set_wakeup_fd(wakeup_in, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = start(argv[5:], link)
    release_stdio()
    import json  # now that the command is on its way, since somebody waits for it
    import shutil

    exits: dict[int, int] = {}
    killed_by, peak = watch(child, link, wakeup, limit_mb, exits)
    clean = kill_all(exits, wakeup)
    code = exits.get(child, -signal.SIGKILL)
    report = {
        "code": 128 - code if code < 0 else code,
        "killed_by": killed_by,
        "peak_mb": peak,
        "clean": clean,
    }
    try:
        os.write(link, (json.dumps(report) + "\n").encode())
    except OSError:
        pass  # the worker is gone, and with it the reader of this line
    # answers given before the end may name files in scratch: they stay until the worker closes the link
    while killed_by != "link" and os.read(link, 512):
        pass
    shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv))  # somebody waits, and there is nothing to take apart
