"""A SLURM of one's own to measure on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testcluster import Cluster, ClusterError

from bench import REPO

_TOOLS = REPO / "build/tools/slurm/usr"  # by `make tools`, where the system has no SLURM


@contextlib.contextmanager
def own_cluster(**shape: Any) -> Iterator[Cluster]:
    """A SLURM in a temporary folder, which ends with the block. SystemExit with code 5 where there is none."""
    if _TOOLS.exists():
        os.environ["PATH"] = os.pathsep.join([f"{_TOOLS}/bin", f"{_TOOLS}/sbin", os.environ["PATH"]])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that what follows is carried out
    folder = Path(tempfile.mkdtemp(prefix="mh-slurm-"))  # a short name: sockets lie there
    cluster = Cluster(folder / "c", **shape)
    try:
        try:
            cluster.start()
        except ClusterError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(error.code) from None
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
