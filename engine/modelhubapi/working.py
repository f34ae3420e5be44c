"""What /working holds while a model predicts: the input of the case, and no file of an earlier one.

The HTTP interface of ModelHub has always put its inputs there and removed all files afterwards. There are models that
predict whatever lies there and give the first result; with a file left over it would be the result of another case.
"""

import contextlib
import os

from modelhublib.paths import is_path, native_path


class WorkingFolder(object):
    """A folder that belongs to this process alone; None for no such folder, where nothing is done."""

    def __init__(self, folder):
        """Make it when the model is loaded: the files that it has put there by then stay."""
        self._folder = folder
        self._stays = set(self._names())

    @contextlib.contextmanager
    def holding(self, input):
        """Show the file `input` in the folder, and leave none there; of several named inputs none is shown."""
        if self._folder and is_path(input):
            self._show(native_path(input))
        try:
            yield
        finally:
            for name in self._names():
                if name not in self._stays:
                    self._remove(os.path.join(self._folder, name))

    def _names(self):
        return os.listdir(self._folder) if self._folder else []

    def _show(self, path):
        # not under its own name, under which a model might want to put a copy
        link = os.path.join(self._folder, "input-" + os.path.basename(path))
        try:
            os.symlink(os.path.abspath(path), link)
        except (IOError, OSError):
            pass  # a name that gets too long: few models look here

    def _remove(self, path):
        try:
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)
        except (IOError, OSError):
            pass  # somebody else has removed it
