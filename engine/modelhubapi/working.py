"""What /working holds while a model predicts: the input of the case, and no file of an earlier one.

The HTTP interface of ModelHub has always put its inputs there and removed all files afterwards. There are models that
predict whatever lies there and give the first result; with a file left over it would be the result of another case.
"""

import contextlib
import os

from modelhublib.paths import is_path, native_path

WORKING = "/working"


@contextlib.contextmanager
def holding(folder, input):
    """Show the file `input` in a folder, and remove the files that come there meanwhile.

    folder: None for none, where nothing is done; input: of several named inputs none is shown.
    """
    before = set(_names(folder))
    if folder and is_path(input):
        _show(native_path(input), folder)
    try:
        yield
    finally:
        for name in _names(folder):
            if name not in before:
                _remove(os.path.join(folder, name))


def _names(folder):
    return os.listdir(folder) if folder else []


def _show(path, folder):
    # not under its own name, under which a model might want to put a copy
    link = os.path.join(folder, "input-" + os.path.basename(path))
    try:
        os.symlink(os.path.abspath(path), link)
    except (IOError, OSError):
        pass  # a name that gets too long: few models look here


def _remove(path):
    try:
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
    except (IOError, OSError):
        pass  # somebody else has removed it
