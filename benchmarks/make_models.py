"""Make the models that are measured, for trying them by hand: `python benchmarks/make_models.py FOLDER`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import models
from bench.words import say


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the contributions that are measured, networks included.")
    parser.add_argument("folder", type=Path, help="where to; each becomes a folder of its name in it")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(models.NAMES)} [all]")
    options = parser.parse_args()
    if unknown := set(options.names) - set(models.NAMES):
        parser.error(f"there is no model {', '.join(sorted(unknown))}")
    for name in options.names or models.NAMES:
        say(str(models.make(name, options.folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
