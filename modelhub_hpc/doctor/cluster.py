"""What SLURM says of itself, and whether it would take our jobs; asks only, and starts nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modelhub_hpc import config, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.config.kinds import Walltime
from modelhub_hpc.doctor.check import Check
from modelhub_hpc.errors import ModelHubError
from modelhub_hpc.slurm import Partition

# of the jobs that only look: enough for the slowest Python, and asked of SLURM where the site names none
SHORT_TIME = Walltime("2")
_SCRIPT = "#!/bin/sh\n"
_MOST_SHOWN = 12
_OPTIONS_MEND = "change what SLURM names (mh-hpc config shows all options), or ask the administrators"


def checks(site: SiteConfig, folder: Path, needed: bool) -> Iterator[Check]:
    """Every check, as it is made. folder: where jobs would run; needed: whether anything here has to be well."""
    if not slurm.available():
        mend = "go to a login node of the cluster, or: module load slurm"
        absent = Check("SLURM", None, "not on this machine")
        yield Check("SLURM", False, "there is no sbatch on PATH", mend) if needed else absent
        return
    for check in _checks(site, folder):
        yield check if needed or check.ok is not False else check.excused(f"--executor {site.executor}")


def _checks(site: SiteConfig, folder: Path) -> Iterator[Check]:
    try:
        cluster, kinds = slurm.cluster(), slurm.node_kinds()
    except ModelHubError as error:
        yield Check("SLURM", False, str(error), "if `scontrol ping` and `sinfo` fail too, ask the administrators")
        return
    yield Check("SLURM", True, f"{cluster.version}, cluster {cluster.name}, its slurmctld at {cluster.controller}")
    if cluster.accounting:
        yield Check("accounting", True, "what a run used will be shown")
    else:
        yield Check("accounting", None, "none: runs work without, but what they used will not be shown")
    yield Check("partitions", bool(kinds), _listed(kinds), "" if kinds else "ask the administrators")
    yield from _chosen(site, {each.name: each for each in kinds})
    yield from _submitting(site, folder)
    yield _numbers(site, cluster)


def _listed(kinds: Sequence[Partition]) -> str:
    """Every partition with its kinds of nodes.

    >>> cpu = Partition("all", True, True, "1:00:00", "2-00:00:00", 64, 32, 256000, "", "")
    >>> _listed([cpu, dataclasses.replace(cpu, nodes=2, gres="gpu:a100:4")])
    'all (default, at most 2-00:00:00): 64 nodes of 32 CPUs, 256000M, 2 nodes of 32 CPUs, 256000M, gpu:a100:4'
    """
    offers: dict[str, list[str]] = {}
    for each in kinds:
        notes = ["default"] * each.default + ["not up"] * (not each.up) + [_limit(each)]
        has = [f"{each.nodes} nodes of {each.cpus} CPUs", f"{each.memory_mb}M", *filter(None, [each.gres])]
        offers.setdefault(f"{each.name} ({', '.join(notes)})", []).append(", ".join(has))
    shown = [f"{name}: {', '.join(offer)}" for name, offer in offers.items()]
    more = [f"{len(shown) - _MOST_SHOWN} more (sinfo)"] if len(shown) > _MOST_SHOWN else []
    return "; ".join(shown[:_MOST_SHOWN] + more) or "none that this user may see"


def _limit(partition: Partition) -> str:
    longest_s = _longest_s(partition)
    return "no time limit" if longest_s == float("inf") else f"at most {partition.longest_time}"


def _chosen(site: SiteConfig, known: Mapping[str, Partition]) -> Iterator[Check]:
    """The partitions that jobs of workers would go to: those that are named, or SLURM's default."""
    if site.partition is None:
        chosen = [each for each in known.values() if each.default]
        if not chosen:
            mend = f"--partition: one of {', '.join(known)}"
            yield Check("partition", False, "none is named, and SLURM has no default", mend)
        yield from (_judged(site, each) for each in chosen)
        return
    for name in site.partition.split(","):
        if name in known:
            yield _judged(site, known[name])
        else:
            mend = f"--partition: one of {', '.join(known)}; one that is hidden may work all the same, see below"
            yield Check("partition", None, f"sinfo shows none that is called {name}", mend)


def _judged(site: SiteConfig, partition: Partition) -> Check:
    """Jobs that this speaks of are accepted at most sites, and then wait without end."""
    if not partition.up:
        mend = "choose another with --partition, or ask the administrators when it will be up (scontrol show partition)"
        return Check("partition", False, f"{partition.name} is not up: its jobs do not start", mend)
    if site.time and config.seconds_of(site.time) > _longest_s(partition):
        detail = f"a time of {site.time} is longer than {partition.name} allows: {partition.longest_time}"
        return Check("partition", False, detail, f"--time {partition.longest_time}, or another --partition")
    time = f"time {site.time}" if site.time else "time not set: submit will ask for it"
    return Check("partition", True, f"{partition.name} is up, {time}")


def _longest_s(partition: Partition) -> float:
    try:
        return config.seconds_of(partition.longest_time)
    except ValueError:
        return float("inf")


def _submitting(site: SiteConfig, folder: Path) -> Iterator[Check]:
    timed = site if site.time else dataclasses.replace(site, time=SHORT_TIME)
    yield _accepted("worker jobs", slurm.worker_options(timed), folder)
    if site.executor == "slurm" and site.controller == "job":
        yield _accepted("driver's job", slurm.driver_options(timed), folder)


def _accepted(name: str, options: list[str], folder: Path) -> Check:
    """Whether SLURM would take such a job now, in its own words."""
    try:
        slurm.submit(["--test-only", *options], _SCRIPT, folder)
    except ModelHubError as error:
        return Check(name, False, str(error), _OPTIONS_MEND)
    return Check(name, True, f"SLURM would accept: sbatch {' '.join(options)}")


def _numbers(site: SiteConfig, cluster: slurm.Cluster) -> Check:
    detail = f"{cluster.array_size} tasks in an array, {cluster.job_count} jobs in the queue"
    if site.executor == "slurm-array" and cluster.array_size < 2:
        return Check("numbers of jobs", False, f"{detail}: no arrays", "use --executor slurm")
    return Check("numbers of jobs", True, f"at most {detail}")
