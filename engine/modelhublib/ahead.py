"""Inputs that are read and decoded by threads while the model still computes the case before, on cores it leaves idle.

A loader that could open one file is taken to be the one for the next file with that extension. When the model
comes to that file, the loader hands out what was prepared. A file that can't be prepared is opened when its turn comes,
so that what is wrong with it is said then.
"""

import collections
import os
import threading

from .paths import is_path, native_path

_SMALL = 16 * 1024  # bytes; a smaller file is opened sooner than handed over
_LARGE = 256 * 1024 * 1024  # bytes; a larger one may not fit beside the one that the model works on
_MOST_HELD = 512 * 1024 * 1024  # bytes that are prepared and not asked for yet, above which nothing more is begun
_MOST_THREADS = 4
_MOST_IN_VAIN = 3
_END_S = 1.0

_Prepared = collections.namedtuple("_Prepared", "loader image size")


class Inputs(object):
    """What is wanted next, what is being opened, and what is ready; loaders are classes with `_prepare(path)`."""

    def __init__(self, most_threads):
        """most_threads: 0 for a process with one core, where the model would only be held up."""
        self._pid = os.getpid()
        self._most_threads = most_threads
        self._changed = threading.Condition()
        self._loaders = {}  # by extension
        self._in_vain = collections.Counter()  # by extension: inputs that nobody asked for
        self._wanted = collections.OrderedDict()  # path -> loader, in the order in which they will be asked for
        self._opening = {}  # path -> loader
        self._ready = {}  # path -> _Prepared
        self._worthwhile = {}  # path -> whether its size is one for us
        self._threads = []
        self._ended = False

    def expect(self, now, later):
        """Prepare the files `later`, in that order; drop what belongs neither to them nor to `now`."""
        if not self._most_threads:
            return
        with self._changed:
            kept = set(now).union(later)
            for path in [path for path in self._ready if path not in kept]:
                self._in_vain[_extension(path)] += 1
                del self._ready[path]
            self._wanted.clear()
            for path in later:
                loader = self._loaders.get(_extension(path))
                if loader and path not in self._ready and path not in self._opening and self._is_worthwhile(path):
                    self._wanted[path] = loader
            self._worthwhile = dict((path, known) for path, known in self._worthwhile.items() if path in kept)
            if self._wanted:
                self._start()
                self._changed.notify_all()

    def take(self, loader, input):
        """Return what this loader has prepared of a file; None if it has to open it now."""
        if not self._threads or os.getpid() != self._pid or not is_path(input):  # threads don't survive a fork
            return None
        path = native_path(input)
        with self._changed:
            if self._wanted.get(path) is loader:
                del self._wanted[path]
            while self._opening.get(path) is loader:
                self._changed.wait()
            if path not in self._ready or self._ready[path].loader is not loader:
                return None
            self._changed.notify_all()
            self._in_vain[_extension(path)] = 0
            return self._ready.pop(path).image

    def learn(self, loader, input):
        """Take note that this loader could open a file."""
        if is_path(input):
            self._loaders[_extension(native_path(input))] = loader

    def end(self):
        """Let the threads end: an interpreter that ends under them may crash."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_END_S)

    def _is_worthwhile(self, path):
        if self._in_vain[_extension(path)] > _MOST_IN_VAIN:
            return False
        if path not in self._worthwhile:
            self._worthwhile[path] = _SMALL <= _size(path) <= _LARGE
        return self._worthwhile[path]

    def _start(self):
        if not self._threads and not self._ended:
            self._threads = [threading.Thread(target=self._work) for _ in range(self._most_threads)]
            for thread in self._threads:
                thread.daemon = True
                thread.start()

    def _work(self):
        while True:
            with self._changed:
                while not self._ended and (not self._wanted or self._held() > _MOST_HELD):
                    self._changed.wait()
                if self._ended:
                    return
                path, loader = self._wanted.popitem(last=False)
                self._opening[path] = loader
            prepared = _prepare(loader, path)
            with self._changed:
                del self._opening[path]
                if prepared is not None:
                    self._ready[path] = prepared
                self._changed.notify_all()

    def _held(self):
        return sum(prepared.size for prepared in self._ready.values())


def _prepare(loader, path):
    try:
        found = loader._prepare(path)
    except Exception:  # whatever it is, the model will meet it, and say it, when it opens the file itself
        return None
    return _Prepared(loader, *found) if found is not None else None


def _size(path):
    """Return the bytes of a file; 0 of anything else."""
    try:
        return os.path.getsize(path) if os.path.isfile(path) else 0
    except OSError:
        return 0


def _extension(path):
    return os.path.splitext(path)[1].lower()


def _idle_cores():
    given = os.environ.get("OMP_NUM_THREADS", "")  # the cores that this process was given
    return min(_MOST_THREADS, int(given) - 1) if given.isdigit() and int(given) else 1


INPUTS = Inputs(_idle_cores())
