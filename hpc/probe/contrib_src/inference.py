"""A model that says what its container is like: what `mh-hpc convert` runs to prove that an image works.

Runs in every Python from 2.7 on and needs nothing but the image's own libraries.
"""

import json
import os
import platform
import sys
import tempfile

LIBRARIES = ("numpy", "PIL", "SimpleITK", "h5py")
PRIVATE = ("/output", "/working", "/temp", "/tmp", os.path.expanduser("~"))
SHUT = ("/", "/usr", "/contrib_src", "/framework")


class Model(object):

    def __init__(self):
        with open("model/config.json") as stream:
            self._config = json.load(stream)

    def infer(self, input):
        """Return [the pixels of the picture as (1, 1, y, x), facts about this container]."""
        facts = {
            "python": platform.python_version(),
            "executable": sys.executable,
            "uid": os.getuid(),
            "libraries": dict((name, version(name)) for name in LIBRARIES),
            "writable": dict((folder, can_write(folder)) for folder in PRIVATE),
            "open": [folder for folder in SHUT if can_write(folder) is True],
            "interfaces": interfaces(),
        }
        return [self._pixels(input), facts]

    def _pixels(self, path):
        """Through the engine's own chain of loaders and converters, as contributions do it."""
        try:
            from modelhublib.processor import ImageProcessorBase
        except ImportError as error:
            return [str(error)]
        return ImageProcessorBase(self._config).loadAndPreprocess(path)


def version(name):
    """The version of a library; the reason why it can't be imported, after "!"."""
    try:
        module = __import__(name)
    except Exception as error:  # an old library on a new machine fails in many ways, all of them worth telling
        return "!%s: %s" % (type(error).__name__, error)
    if name == "SimpleITK":
        return str(module.Version.VersionString())
    return str(module.__version__)


def can_write(folder):
    """True, or the reason why not."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as stream:
            stream.write(b"x")
        return True
    except (IOError, OSError) as error:
        return str(error)


def interfaces():
    """The names of the network interfaces: "lo" alone where the network is closed."""
    with open("/proc/net/dev") as stream:
        lines = stream.read().splitlines()[2:]
    return sorted(line.split(":")[0].strip() for line in lines)
