"""How much memory this process has needed since a moment, such as the beginning of a case."""

import os
import resource

_CLEAR_REFS = "/proc/self/clear_refs"
_STATUS = "/proc/self/status"
_FORGET_PEAK = b"5"  # since Linux 4.0
_LITTLE = 1.25  # by which the kernel's two figures for the same thing differ at most, in times


class Peak(object):
    """The most resident memory of this process since begin(), in MiB, or None where the kernel does not tell.

    All of this process: the model with its weights, and inputs that are opened ahead; not the processes that a model
    starts. Takes a few microseconds, however large the process is.
    """

    def __init__(self):
        self._told = True
        self.begin()
        now, before = self._kib_of_status(), _kib_of_usage()
        # getrusage is quick, and remembers too what the program needed that has become this one
        self._before = before if before > _LITTLE * now else 0

    def begin(self):
        """Forget the peak so far."""
        if self._told:  # if it failed once, all that could be told is the peak of several cases
            try:
                clear_refs = os.open(_CLEAR_REFS, os.O_WRONLY)
                try:
                    os.write(clear_refs, _FORGET_PEAK)
                finally:
                    os.close(clear_refs)
            except OSError:
                self._told = False

    def mb(self):
        kib = _kib_of_usage() if self._told else 0
        if self._told and kib <= self._before:
            kib = self._kib_of_status()
        return round(kib / 1024.0, 1) or None

    def _kib_of_status(self):
        try:
            with open(_STATUS, "rb") as stream:
                return next(int(line.split()[1]) for line in stream if line.startswith(b"VmHWM:"))
        except (IOError, OSError, StopIteration):
            self._told = False
            return 0


def _kib_of_usage():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
