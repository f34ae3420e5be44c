"""Which files this Python can compile, and which modules it can find; runs and imports none of them.

Runs in every Python from 2.7 on, as text after -c: the folders to look in, files and modules come as JSON in argv[1].
"""

import sys

# before anything else is imported, lest it come from the folder that is looked at
sys.path[:] = [folder for folder in sys.path if folder not in ("", ".")]

import json  # noqa: E402
import pkgutil  # noqa: E402


def main():
    asked = json.loads(sys.argv[1])
    sys.path[:0] = asked["folders"]
    answer = {
        "python": "%d.%d.%d" % sys.version_info[:3],
        "wrong": [wrong for wrong in map(compile_file, asked["files"]) if wrong],
        "missing": [name for name in asked["modules"] if not can_find(name)],
    }
    print("\n" + json.dumps(answer))


def compile_file(path):
    """None, or [path, line, reason]."""
    try:
        with open(path, "rb") as stream:
            compile(stream.read(), path, "exec", 0, 1)
    except SyntaxError as error:
        return [path, error.lineno, error.msg]
    except (IOError, OSError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        return [path, None, str(error)]
    return None


def can_find(name):
    try:
        from importlib.util import find_spec
    except ImportError:
        return pkgutil.find_loader(name) is not None  # Python 2
    try:
        return find_spec(name) is not None
    except ValueError:
        return True  # __main__ and the like, which are there without a file


main()
