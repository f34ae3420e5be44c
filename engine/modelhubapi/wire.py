"""The pipe to the host: one JSON message per line, out of reach of whatever the model does with its stdio."""

import collections
import errno
import fcntl
import json
import os
import select
import sys

_HIGH_FD = 64  # away from the numbers that careless code closes or reuses


class HostGone(Exception):
    """The host has closed its end: there is nobody left to answer."""


class Wire(object):
    """Both ends of the line to the host. Make it before any of the model's code is imported."""

    def __init__(self):
        """Take over fd 0 and 1: from here on the model's stdout is stderr, and its stdin is empty."""
        sys.stdout.flush()
        self._in = private_copy(0)
        self._out = private_copy(1)
        self._pid = os.getpid()
        self._rest = b""
        self._lines = collections.deque()
        mute_stdio()
        if hasattr(os, "register_at_fork"):
            # A child that lives on must neither speak for us nor keep the host waiting for our end.
            os.register_at_fork(after_in_child=self._close)

    def send(self, message):
        """Write one message (a dict of JSON's own types); it is sent when this returns. Raises HostGone."""
        self.send_text(json.dumps(message, allow_nan=False))

    def send_text(self, text):
        """Write one message that is JSON already: ASCII, one line. Raises HostGone."""
        self.leave_if_forked()
        try:
            write_all(self._out, text.encode("ascii") + b"\n")
        except OSError as error:
            raise HostGone(str(error))

    def line(self):
        """Return the host's next line without its end; None once it has closed the pipe."""
        while not self._lines:
            if not self._read():
                return None
        return self._lines.popleft()

    def lines_here(self):
        """Return the lines that have come already, without waiting for more."""
        while _can_be_read(self._in) and self._read():
            pass
        lines = list(self._lines)
        self._lines.clear()
        return lines

    def _read(self):
        """Take in what has come, waiting for something; False at the end of input."""
        data = _retried(os.read, self._in, 65536)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        self._lines.extend(lines)
        return bool(data)

    def leave_if_forked(self):
        """End this process at once if it is a child that the model forked and let come back."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _close(self):
        if self._in is not None:  # a child of a child has nothing left to close
            os.close(self._in)
            os.close(self._out)
            self._in = self._out = None


def mute_stdio():
    """From here on what anybody here prints, on any level, goes to stderr, and stdin is empty."""
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def private_copy(fd):
    """Return a copy of fd that no child inherits, out of reach of code that closes or reuses low numbers."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH_FD)
    fcntl.fcntl(copy, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    return copy


def write_all(fd, data):
    """Write all of data (bytes) to fd, however much the system takes at once. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[_retried(os.write, fd, rest):]


def _can_be_read(fd):
    try:
        return bool(select.select([fd], [], [], 0)[0])
    except (OSError, select.error):  # a signal: what is here is still here later
        return False


def _retried(call, fd, argument):
    """Return call(fd, argument); Python 2 does not go on by itself after a signal."""
    while True:
        try:
            return call(fd, argument)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
