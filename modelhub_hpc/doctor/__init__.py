"""Look at this machine, its SLURM and a node, and say of each thing that a run needs whether it is there.

    machine   what a machine has and lacks, from within it
    cluster   what SLURM says, without starting anything
    node      a job that looks at a node and at what lies between; probe is what runs there
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.doctor import cluster, machine
from modelhub_hpc.doctor.check import Check

__all__ = ["Check", "checks"]


def checks(
    site: SiteConfig, image: str | None = None, folder: Path = Path("/"), use_slurm: bool = False
) -> Iterator[Check]:
    """Every check that starts no job, as it is made.

    image: name or file of an image to try a container with; default one of the store. folder: where jobs would run.
    use_slurm: what SLURM lacks counts, even though the executor is another.
    """
    yield from machine.checks(site, image)
    yield from cluster.checks(site, folder, needed=use_slurm or config.on_slurm(site))
