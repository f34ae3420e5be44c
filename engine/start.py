"""What a deployment image starts: `python /framework/start.py run|test|serve|sandbox|shell ARGUMENT...`.

A script, and not `python -m`, because that would let a file of the caller's folder stand in for a module.
"""

import importlib
import sys

_PROGRAMS = {"run": "modelhubapi.standalone", "test": "modelhubapi.selftest", "serve": "modelhubapi.served",
             "sandbox": "modelhubapi.workplaces", "shell": "modelhubapi.workplaces"}


def main(argv):
    """Run the program that argv[0] names with the rest of argv; return its exit code."""
    if not argv or argv[0] not in _PROGRAMS:
        sys.stderr.write("usage: start.py %s ...\n" % "|".join(sorted(_PROGRAMS)))
        return 2
    return getattr(importlib.import_module(_PROGRAMS[argv[0]]), argv[0])(argv[1:])


if __name__ == "__main__":
    from modelhubapi.hosting import exit_soon
    exit_soon(main(sys.argv[1:]))
