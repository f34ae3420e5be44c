"""What is to be made of that which a job on a node has found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.doctor.check import Check
from modelhub_hpc.doctor.exchange import Asked, Devices, Found, Knock, Met, Talk

# certificates are not valid before they were made; a difference that people notice in logs
_CLOCK_S, _CLOCK_NOTED_S = 60.0, 2.0
_FOLDER_MEND = "choose another file system: here with --folder, and for runs with --outdir"


@dataclass(frozen=True)
class Seen:
    """All there is to judge. knocks: at the node's ports, from here; talk and found: None where they never came."""

    met: Met
    file_trouble: str
    knocks: list[Knock]
    talk: Talk | None
    found: Found | None
    log: str = ""


def judge(site: SiteConfig, asked: Asked, seen: Seen, here: Sequence[Check]) -> Iterator[Check]:
    """Every check of the node, named after it. here: what this machine was found to have."""
    for check in _judge(site, asked, seen, here):
        yield dataclasses.replace(check, name=f"{seen.met.node}: {check.name}")


def _judge(site: SiteConfig, asked: Asked, seen: Seen, here: Sequence[Check]) -> Iterator[Check]:
    yield _folder(seen.talk)
    yield _modes(seen)
    yield _links(seen.met)
    yield _clock(seen)
    needed = site.controller == "login" and site.executor != "slurm-array"
    trouble = seen.met.troubles.get("ports", "")
    for check in (
        _port("port of this host", "from there", seen.talk.knocks if seen.talk else [], ""),
        _port("port of the node", "from here", seen.knocks, trouble),
    ):
        yield check if needed or check.ok is not False else check.excused("the driver runs in a job")
    yield _python(asked, seen.met)
    yield _gpus(site, seen.found.devices if seen.found else None)
    yield from _machine(seen, here)


def _folder(talk: Talk | None) -> Check:
    name = "shared folder"
    if talk is None:
        return Check(name, False, "what the node wrote is seen here only in part", _FOLDER_MEND)
    if talk.round_trip_s is None:
        detail = "what the node wrote is seen here, but what is written here while the job runs is not seen there"
        return Check(name, False, detail, _FOLDER_MEND)
    return Check(name, True, f"a file from there was seen here, and the answer there, within {talk.round_trip_s:.1f} s")


def _modes(seen: Seen) -> Check:
    name, trouble = "file modes", seen.met.troubles.get("modes", "")
    if trouble:
        detail = f"made here, {trouble} there ({seen.met.user})"
    elif seen.file_trouble:
        detail = f"made there, {seen.file_trouble} here"
    else:
        return Check(name, True, "what its owner alone may use stays so, on both sides")
    return Check(name, False, detail, _FOLDER_MEND)


def _links(met: Met) -> Check:
    trouble = met.troubles.get("links", "")
    if trouble:
        # runs go on with renameat2 where the file system has that
        mend = f"runs take exclusive renames instead if the file system has them; else {_FOLDER_MEND}"
        return Check("hard links", None, f"cannot be made there: {trouble}", mend)
    return Check("hard links", True, "can be made there, and take no name that is taken")


def _clock(seen: Seen) -> Check:
    """From the most exact of the looks at each other's clock."""
    looks = [(knock.within_s, knock.ahead_s) for knock in seen.knocks if not knock.trouble]
    if seen.talk:
        looks += [(knock.within_s, -knock.ahead_s) for knock in seen.talk.knocks if not knock.trouble]
        if seen.talk.round_trip_s is not None:
            looks.append((seen.talk.round_trip_s / 2, -seen.talk.ahead_s))
    if not looks:
        return Check("clock", None, "not compared")
    within_s, ahead_s = min(looks)
    side = "ahead of" if ahead_s > 0 else "behind"
    detail = f"{abs(ahead_s):.1f} s {side} this host's, give or take {within_s:.1f} s"
    least_s = abs(ahead_s) - within_s
    if least_s < _CLOCK_NOTED_S:
        return Check("clock", True, detail)
    return Check("clock", None if least_s < _CLOCK_S else False, detail, "the administrators: let NTP set both clocks")


def _port(name: str, where: str, knocks: Sequence[Knock], trouble: str) -> Check:
    if not knocks:
        mend = "name another network: --interface, or 'interface' in mh-hpc.yaml"
        return Check(name, False if trouble else None, trouble or "not tried", mend)
    tried = ", ".join(f"{each.place.address} port {each.place.port} {_result(each)}" for each in knocks)
    if not knocks[0].trouble:
        return Check(name, True, f"{where}: {tried}")
    others = [each.place.interface for each in knocks if not each.trouble and each.place.interface]
    mend = (
        f"--interface {others[0]}, or 'interface' in mh-hpc.yaml"
        if others
        else "ask the administrators which network login nodes and nodes share; --controller job needs none of this"
    )
    return Check(name, False, f"{where}: {tried}", mend)


def _result(knock: Knock) -> str:
    return f"is not reached ({knock.trouble})" if knock.trouble else "is reached"


def _python(asked: Asked, met: Met) -> Check:
    there = f"Python {met.python}, modelhub_hpc {met.version}"
    if (met.python, met.version) == (asked.python, asked.version):
        return Check("Python", True, f"{there} ({met.executable}), the same as here")
    mend = "install mh-hpc once, on a file system that the nodes share"
    return Check("Python", False, f"{there}, but here Python {asked.python}, modelhub_hpc {asked.version}", mend)


def _gpus(site: SiteConfig, devices: Devices | None) -> Check:
    asked, name = config.gpus_per_job(site), "GPUs of the job"
    if devices is None:
        return Check(name, None, "not looked at")
    if not asked:
        return Check(name, None, "none asked for (gres, gpus_per_node); models run on the CPU")
    visible = [each for each in (devices.visible or "").split(",") if each not in ("", "NoDevFiles")]
    listed = "no nvidia-smi there" if devices.listed is None else f"nvidia-smi shows {len(devices.listed)}"
    detail = f"{asked} asked for; CUDA_VISIBLE_DEVICES={devices.visible or ''}; {listed}"
    mend = "ask the administrators how GPUs are asked for here; --gres, --gpus-per-node"
    if devices.visible is None:
        return Check(name, None, f"{asked} asked for, but SLURM does not say which; {listed}", mend)
    if len(visible) < asked or devices.listed == []:
        return Check(name, False, detail, mend)
    return Check(name, True, detail)


def _machine(seen: Seen, here: Sequence[Check]) -> Iterator[Check]:
    """What the node lacks, or has less of than this machine."""
    if seen.found is None:
        last = seen.log.splitlines()[-1:] or ["no word why"]
        yield Check("machine", False, f"the look at it did not come to its end: {last[0]}", "run this again")
        return
    checks = [Check(**each) for each in seen.found.checks]
    good = {check.name for check in here if check.ok}
    worse = [check for check in checks if check.ok is False or (check.ok is None and check.name in good)]
    yield from worse
    told = "; ".join(f"{each.name} {each.detail}" for each in checks if each.name in ("Apptainer", "scratch folder"))
    if not any(check.ok is False for check in worse):
        yield Check("machine", True, f"has what runs need; {told}")
