"""A configuration file for the cluster at hand, out of what SLURM says of itself: a start for people, with reasons."""

from __future__ import annotations

import json
import re
import socket
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, config
from modelhub_hpc.errors import UnfitError, UsageError, shown
from modelhub_hpc.slurm import Cluster, Partition

_WIDTH = 110
_INFINITE = float("inf")
_CPUS_PER_WORKER = 4  # where no GPU says how nodes are shared
_LEAST_MB = 256  # SLURM says 1 where nobody told it how much memory nodes have
# what clusters call folders that each node has for itself
_SCRATCH = ("/local", "/localscratch", "/local_scratch", "/lscratch", "/scratch", "/mnt/scratch")
_MODULES = {"LMOD_CMD", "MODULESHOME", "MODULES_CMD", "BASH_FUNC_module%%", "BASH_FUNC_module()"}
_GPU = re.compile(r"(?:^|,)gpu(?::([^,:()]+))??(?::no_consume)?(?::(\d+))?(?=[,(]|$)")


@dataclass(frozen=True)
class Machine:
    """What the machine shows on which a profile is made, a login node mostly. modules: it has `module load`."""

    apptainer: bool
    modules: bool
    interfaces: tuple[str, ...]
    tmpdir: str
    scratch: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """A configuration file: the partition it is for, why that one, the options it sets, and its text."""

    partition: str
    why: str
    options: dict[str, Any]
    text: str


@dataclass(frozen=True)
class _Offer:
    """A partition with all its kinds of nodes."""

    name: str
    kinds: tuple[Partition, ...]

    @property
    def first(self) -> Partition:
        return self.kinds[0]  # what is the same for all of them

    @property
    def nodes(self) -> int:
        return sum(kind.nodes for kind in self.kinds)

    @property
    def gpus(self) -> int:
        return sum(kind.nodes * gpu_count(kind) for kind in self.kinds)

    @property
    def longest_s(self) -> float:
        return _seconds(self.first.longest_time)


@dataclass(frozen=True)
class _Entry:
    """An option of the profile with the text above it; one that is not `given` stays behind a '#'."""

    name: str
    value: Any
    text: str
    given: bool = True


def machine() -> Machine:
    """Look at this machine."""
    return Machine(
        apptainer=config.find_program("apptainer") is not None,
        modules=bool(_MODULES & set(config.job_environment())),
        interfaces=tuple(name for _, name in socket.if_nameindex() if name != "lo"),
        tmpdir=str(config.caller().tmpdir),
        scratch=tuple(folder for folder in _SCRATCH if Path(folder).is_dir()),
    )


def gpus(gres: str) -> list[tuple[str, int]]:
    """The kinds of GPUs in a node's generic resources, and how many there are of each.

    >>> [gpus(text) for text in ("gpu:2", "gpu:a100:4(S:0,2),gpu:1080:1,nvme:9", "gpu", "shard:8", "")]
    [[('', 2)], [('a100', 4), ('1080', 1)], [('', 1)], [], []]
    """
    return [(kind, int(count or 1)) for kind, count in _GPU.findall(gres)]


def gpu_count(node: Partition) -> int:
    return sum(count for _, count in gpus(node.gres))


def make(kinds: Sequence[Partition], cluster: Cluster, here: Machine, wanted: str | None = None) -> Profile:
    """The profile for the partition `wanted`, or for the one that suits best.

    kinds: the partitions, with an entry for each kind of nodes. Raises UsageError or UnfitError where none will do.
    """
    offers = _offers(kinds)
    chosen, why = _choose(offers, wanted)
    entries = [
        _Entry("executor", "slurm", "Workers are jobs of this cluster. `--executor local` uses the machine at hand."),
        _partition(chosen, why, offers),
        _time(chosen),
        *_shares(chosen),
        *_controller(chosen, offers),
        _account(cluster),
        _prologue(here),
        _interface(cluster, here),
        _scratch(here),
    ]
    given = {entry.name: entry.value for entry in entries if entry.given}
    return Profile(chosen.name, why, given, "\n".join([_head(cluster), *map(_written, entries)]))


def _offers(kinds: Iterable[Partition]) -> list[_Offer]:
    """Partitions that have nodes, and names that a configuration file can hold."""
    grouped: dict[str, list[Partition]] = {}
    for kind in kinds:
        if kind.nodes and _can_be_named(kind.name):
            grouped.setdefault(kind.name, []).append(kind)
    return [_Offer(name, tuple(members)) for name, members in grouped.items()]


def _can_be_named(partition: str) -> bool:
    try:
        return config.from_json({"partition": partition}).partition == partition  # not so "null"
    except UsageError:
        return False


def _choose(offers: Sequence[_Offer], wanted: str | None) -> tuple[_Offer, str]:
    """The partition for workers, and why."""
    if wanted is not None:
        known = {offer.name: offer for offer in offers}
        if wanted not in known:
            names = ", ".join(known) or "none"
            raise UsageError(f"There is no partition '{shown(wanted)}' with nodes for you here. There are: {names}.")
        return known[wanted], "it was asked for with --partition"
    usable = [offer for offer in offers if offer.first.up]
    if not usable:
        raise UnfitError(
            "No partition of this cluster is up and has nodes for you (`sinfo` shows them).\n"
            "Try again when one is, or name one with --partition."
        )
    best = max(usable, key=lambda offer: (offer.gpus, offer.nodes))
    most = f"GPUs ({best.gpus})" if best.gpus else f"nodes ({best.nodes})"
    default = next((offer for offer in usable if offer.first.default), None)
    if default is None:
        return best, f"no default partition is up, and this one has the most {most}"
    if best.gpus and not default.gpus:
        return best, f"the default partition, {default.name}, has no GPUs, and this one has the most {most}"
    return default, "it is the default partition" + ("" if best.gpus else ", and none here has GPUs")


def _partition(chosen: _Offer, why: str, offers: Sequence[_Offer]) -> _Entry:
    down = "" if chosen.first.up else " It is down now: no job of it starts."
    table = [f"  {_described(kind)}" for offer in offers for kind in offer.kinds]
    return _Entry("partition", chosen.name, "\n".join([f"Chosen since {why}.{down} There are:", *table]))


def _described(kind: Partition) -> str:
    state = f"{' (default)' if kind.default else ''}{'' if kind.up else ' (down)'}"
    more = f"{', features ' + kind.features if kind.features else ''}{', whole nodes' if kind.exclusive else ''}"
    node = f"{kind.cpus} CPUs, {kind.memory_mb} MiB, {kind.gres or 'no devices'}{more}"
    return f"{kind.name}{state}: {kind.nodes} x {node}; {_limit(kind)}"


def _limit(kind: Partition) -> str:
    return "no time limit" if _seconds(kind.longest_time) == _INFINITE else f"at most {kind.longest_time}"


def _time(chosen: _Offer) -> _Entry:
    """The partition's default time; without one, people have to decide."""
    default = chosen.first.default_time
    text = f"Walltime of a worker job. In '{chosen.name}': {_limit(chosen.first)}, "
    if 0 < _seconds(default) < _INFINITE:
        return _Entry("time", default, f"{text}{default} if nothing is said.")
    longest = chosen.first.longest_time
    example = longest if 0 < chosen.longest_s < 4 * 3600 else "4:00:00"
    return _Entry("time", example, f"{text}and no default: say it here, or with every submission (--time).", False)


def _shares(chosen: _Offer) -> Iterator[_Entry]:
    """What a worker gets: the part of a node that goes with one GPU, or with a few CPUs."""
    kinds = [kind for kind in chosen.kinds if gpu_count(kind) or not chosen.gpus]
    parts = [gpu_count(kind) or max(1, kind.cpus // _CPUS_PER_WORKER) for kind in kinds]
    together = min(parts) if chosen.first.exclusive else 1
    if chosen.gpus:
        yield from _gpus(kinds, together)
    elif together > 1:
        yield _Entry("workers_per_job", together, "Jobs get whole nodes: workers share one.")
    cpus = min(kind.cpus // part for kind, part in zip(kinds, parts))
    memory = min(kind.memory_mb // part for kind, part in zip(kinds, parts))
    # of several kinds of nodes the least: else some of them could not run as many workers as they have GPUs
    node = "a node" if len(kinds) == 1 else "the smallest kind of nodes"
    share = f"{'one GPU' if chosen.gpus else 'a worker'}'s part of {node}"
    yield _Entry("threads", max(1, cpus), f"CPUs per worker: {share}.")
    if memory >= _LEAST_MB:
        yield _Entry("mem_mb", memory, f"Memory per worker in MiB: {share}. Who asks for less starts sooner.")
    else:
        yield _Entry("mem_mb", "4G", "Memory per worker. SLURM does not know how much its nodes have.", False)


def _gpus(kinds: Sequence[Partition], together: int) -> Iterator[_Entry]:
    types = sorted({kind for each in kinds for kind, _ in gpus(each.gres) if kind})
    whole = " Jobs get whole nodes: a worker per GPU shares each." if together > 1 else ""
    named = f" Types here: {', '.join(types)}; gpu:{types[0]}:{together} asks for one of them." if types else ""
    yield _Entry("gres", f"gpu:{together}", f"GPUs of a job of workers.{whole}{named}")
    yield _Entry("gpus_per_node", f"{together}", "Instead of gres, where a site wants --gpus-per-node.", False)


def _controller(chosen: _Offer, offers: Sequence[_Offer]) -> Iterator[_Entry]:
    """The driver needs no GPU, but as much time as its workers, or a day."""
    enough = min(chosen.longest_s, 24 * 3600)
    others = [each for each in offers if each.first.up and not each.gpus and not each.first.exclusive]
    fit = [each for each in others if each.longest_s >= enough and each.name != chosen.name]
    if not chosen.gpus or not fit:
        text = "Partition of the driver's job, if not that of the workers."
        yield _Entry("controller_partition", chosen.name, text, False)
        return
    best = max(fit, key=lambda each: (each.longest_s >= chosen.longest_s, each.first.default, each.longest_s))
    text = f"The driver's job computes nothing: it needs no GPU, and nodes of '{best.name}' have none."
    yield _Entry("controller_partition", best.name, text)
    if best.longest_s < chosen.longest_s:
        text = f"The longest in '{best.name}': workers may have more."
        yield _Entry("controller_time", best.first.longest_time, text)


def _account(cluster: Cluster) -> _Entry:
    kept = "accounts of its jobs (sacct): you may have to say whom it charges" if cluster.accounting else "no accounts"
    return _Entry("account", "NAME", f"This cluster keeps {kept}.", False)


def _prologue(here: Machine) -> _Entry:
    if here.apptainer:
        text = "apptainer is on PATH here. Where nodes have it only as a module:"
    elif here.modules:
        text = "apptainer is not on PATH here, but there are modules (`module avail apptainer` shows its name):"
    else:
        return _Entry("job_prologue", ["export PATH=/opt/apptainer/bin:$PATH"], "apptainer is not on PATH here.", False)
    return _Entry("job_prologue", ["module load apptainer"], text, False)


def _interface(cluster: Cluster, here: Machine) -> _Entry:
    fast = next((name for name in here.interfaces if name.startswith(("ib", "hsn"))), "ib0")
    text = f"Network between driver and workers. Unsaid, the one that reaches slurmctld ({cluster.controller})."
    return _Entry("interface", fast, f"{text} This machine has {', '.join(here.interfaces) or 'none'}.", False)


def _scratch(here: Machine) -> _Entry:
    found = f" This machine also has {', '.join(here.scratch)}: of each node alone, or of all?" if here.scratch else ""
    text = f"Node-local folder for sessions. Unsaid, TMPDIR or /tmp of the node; here that is {here.tmpdir}.{found}"
    return _Entry("scratch_dir", (here.scratch or ("/tmp",))[0], text, False)


def _seconds(walltime: str) -> float:
    try:
        return config.seconds_of(walltime)
    except ValueError:
        return 0.0  # "n/a"


def _head(cluster: Cluster) -> str:
    return _comment(
        f"The cluster '{cluster.name}' (SLURM {cluster.version}) as `mh-hpc site init` {__version__} found it. Read it"
        " and change it: SLURM knows limits, not customs.\nIt counts as ./mh-hpc.yaml in one folder, as"
        " ~/.config/mh-hpc/config.yaml for one user, and as /etc/xdg/mh-hpc/config.yaml for everybody."
        " `mh-hpc config show --origin` shows what counts; hpc/site.yaml has every option."
    )


def _written(entry: _Entry) -> str:
    return f"{_comment(entry.text)}{'' if entry.given else '#'}{entry.name}: {_yaml(entry.value)}\n"


def _comment(text: str) -> str:
    """Lines that YAML skips, whatever SLURM lets names hold."""
    wrap = textwrap.TextWrapper(_WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    return "".join(f"# {part}\n" for line in text.splitlines() for part in wrap.wrap(shown(line)))


def _yaml(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9/](?:[\w./+@%=-]|:(?=\w))*", value, re.ASCII)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
