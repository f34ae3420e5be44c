"""What a model needs beyond what all have, and would lack here: said before it starts, or every case fails for it."""

from __future__ import annotations

import logging

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError, UnfitError, shown

log = logging.getLogger(__name__)


def check(model: Contribution, site: SiteConfig) -> None:
    """InvalidError where a run may not have the network that the model needs, UnfitError where there is no GPU."""
    if config.shares_no_gpu(site):
        jobs = "jobs ask for no GPU with --gres or --gpus-per-node"
        why = jobs if config.on_slurm(site) else "there is no GPU here"
        log.warning("--sessions-per-gpu %d has no effect: %s", site.sessions_per_gpu, why)
    _check_network(model, site)
    if model.needs.gpu:
        _check_gpu(shown(model.name), site)


def _check_network(model: Contribution, site: SiteConfig) -> None:
    if model.needs.network and not site.allow_network and site.runtime != "host":
        raise InvalidError(
            f"{shown(model.name)} cannot predict without the network:\n  {shown(model.needs.network)}\n"
            "A run has none unless it is allowed, on machines that have one:  --allow-network"
        )


def _check_gpu(model: str, site: SiteConfig) -> None:
    if config.on_slurm(site):
        if site.gpu == "off" or not (site.gres or site.gpus_per_node or site.sbatch_args):
            log.warning("%s runs on a GPU only, and its jobs ask for none. Ask:  --gres gpu:1", model)
    elif not config.gpus(site):
        why = "--gpu off hides them" if site.gpu == "off" else "this machine shows none to this process"
        raise UnfitError(
            f"{model} runs on a GPU only, and {why}.\n"
            "Run it where there is one:  --executor slurm --gres gpu:1\nor try all the same:  --gpu on"
        )
