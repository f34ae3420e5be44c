"""Ask SLURM and tell it; nothing else here knows its programs, options and words."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import ModelHubError, TryAgainError, UnfitError, UsageError, shown

log = logging.getLogger(__name__)

PREFIX = "mh-"
_DRIVER_WARNING_S = 60.0
_TIMEOUT_S = 90.0  # longer than SLURM's programs look for slurmctld by themselves
_LISTEN_S = 1.0
_ACCOUNTS_AT_ONCE = 1000  # jobs: Linux takes no argument beyond 128 KiB
_NO_ANSWER = "no answer in time: connection timed out"
_UNREACHABLE = re.compile(
    "socket timed out|unable to contact slurm controller|connection (refused|timed out)|zero bytes were transmitted"
    "|communication connection failure|message (send|receive)|controller in standby"
    "|unexpected message|transport endpoint|authentication",
    re.IGNORECASE,
)
_NOTHING = "#!/bin/sh\n"
# but not "Requested time limit is invalid", which no waiting mends
_LIMIT = re.compile(
    "resource temporarily unavailable|temporarily unable to accept|submit ?(job)? ?limit", re.IGNORECASE
)
# of the limits of an association or a QOS only those on the number of jobs: QOSMaxWallDurationPerJobLimit stays
_NAMED_LIMIT = re.compile(r"\b(?:QOS|Assoc)[A-Z]\w*Limit")
# SLURM's own words in a job's log: sessions that were killed are said to have been "out of memory", too
_OVER_MEMORY = re.compile(
    r"^(?:slurmstepd|srun)\S*: .*(?:oom.kill|out of memory|exceeded .*memory limit)", re.IGNORECASE | re.MULTILINE
)
_ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)

# by somebody or something outside the job
TAKEN_AWAY = frozenset({"CANCELLED", "PREEMPTED", "NODE_FAIL", "REVOKED"})


class Unreachable(TryAgainError):
    """SLURM did not answer: whether it did what it was asked is unknown."""


class LimitReached(TryAgainError):
    """SLURM takes no more jobs of this user now."""


@dataclass(frozen=True)
class Job:
    """A job in the queue. id: with the task of an array, "12_3"; reason: SLURM's, why it waits; node: "" before."""

    id: str
    state: str
    reason: str
    node: str
    name: str

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


@dataclass(frozen=True)
class Ending:
    """How a job ended. state: SLURM's word, "" if it does not know; its_log: the last of it, where SLURM writes too."""

    job_id: str
    state: str
    its_log: str

    @property
    def for_memory(self) -> bool:
        # FAILED with JobLaunchFailure is what the state says where memory is watched and not enforced by cgroups
        return self.state == "OUT_OF_MEMORY" or bool(_OVER_MEMORY.search(self.its_log))

    @property
    def out_of_time(self) -> bool:
        return self.state == "TIMEOUT" or "DUE TO TIME LIMIT" in self.its_log

    @property
    def taken_away(self) -> bool:
        """Whether somebody or something outside the job ended it."""
        return self.state in TAKEN_AWAY


@dataclass(frozen=True)
class Partition:
    """What jobs may have in a partition. Times as SLURM writes them; memory in MiB per node.

    exclusive: a job gets whole nodes, whatever it asks for.
    """

    name: str
    default: bool
    up: bool
    default_time: str
    longest_time: str
    nodes: int
    cpus: int
    memory_mb: int
    gres: str
    features: str
    exclusive: bool = False


@dataclass(frozen=True)
class Cluster:
    """What slurmctld says of itself. array_size: number of tasks that one array may have."""

    name: str
    version: str
    controller: str
    array_size: int
    job_count: int
    accounting: bool


@dataclass(frozen=True)
class Usage:
    """What a job used, from accounting; until now, if it runs. peak_mb: in MiB; 0 until a step of it has ended."""

    id: str
    state: str
    node: str
    cpu_hours: float
    gpu_hours: float
    peak_mb: int

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


def available() -> bool:
    return config.find_program("sbatch") is not None


def job_name(run_id: str, suffix: str = "") -> str:
    """Every job of a run is named mh-<run id>; workers add which one they are."""
    return f"{PREFIX}{run_id}{'-' if suffix else ''}{suffix}"


def worker_options(site: SiteConfig) -> list[str]:
    """sbatch's options for a job of workers. Raises UsageError if the site names no walltime."""
    workers = config.workers_per_job(site)
    return [
        *_whose(site, site.partition),
        *_some("time", _walltime(site, site.time, "--time")),
        *_some("mem", site.mem_mb and f"{site.mem_mb * workers}M"),
        *_some("cpus-per-task", site.threads and site.threads * workers),
        *_some("gres", site.gres),
        *_some("gpus-per-node", site.gpus_per_node),
        *_some("constraint", site.constraint),
        f"--signal=B:USR2@{drain_s(site)}",
        *site.sbatch_args,
    ]


def drain_s(site: SiteConfig) -> int:
    """Seconds before its walltime at which a worker takes no more chunks."""
    return _warning_s(site.time, site.drain_s)


def driver_options(site: SiteConfig) -> list[str]:
    """sbatch's options for the job of a driver, which computes nothing itself."""
    return [
        *_whose(site, site.controller_partition or site.partition),
        *_some("time", _walltime(site, site.controller_time or site.time, "--time")),
        *_some("mem", f"{site.controller_mem_mb}M"),
        "--cpus-per-task=1",
        f"--signal=B:USR2@{_warning_s(site.controller_time or site.time, _DRIVER_WARNING_S)}",
        *site.controller_sbatch_args,
    ]


def _warning_s(walltime: str | None, wanted_s: float) -> int:
    """How long before its walltime a job is told: never so long that a short one has no time to work."""
    whole_s = config.seconds_of(walltime) if walltime else float("inf")
    return max(1, int(min(wanted_s, whole_s / 4)))


def _whose(site: SiteConfig, partition: str | None) -> list[str]:
    return [*_some("partition", partition), *_some("account", site.account), *_some("qos", site.qos)]


def _some(name: str, value: object) -> list[str]:
    return [f"--{name}={value}"] if value else []


def _walltime(site: SiteConfig, walltime: str | None, flag: str) -> str:
    if walltime is not None:
        return walltime
    limits = [
        f"  {each.name}{' (default)' if each.default else ''}: "
        + ("no limit" if each.longest_time == "infinite" else f"at most {each.longest_time}")
        for each in partitions()
        if site.partition is None or each.name in site.partition.split(",")
    ]
    question = f"How long may a worker job take? Say it with {flag} (-t), or as 'time' in a configuration file."
    raise UsageError("\n".join([question, "Limits of the partitions here:", *limits]))


def submit(options: Sequence[str], script: str | Path, folder: Path, variables: Sequence[str] = ()) -> str:
    """Submit a script (its text, or its file) that runs in `folder`; the job's id.

    variables: NAME=VALUE for the job's environment, which holds little else (config.job_environment).
    Raises Unreachable (it may have been accepted all the same), LimitReached, or UnfitError with sbatch's words.
    """
    command = ["sbatch", "--parsable", f"--chdir={folder}", output(folder), *options]
    file, text = ([str(script)], "") if isinstance(script, Path) else ([], script)
    environment = dict(variable.split("=", 1) for variable in variables)
    answer = _run([*command, *file], text, environment)
    return answer.strip().split(";")[0]


def output(folder: Path) -> str:
    """The option that has jobs of a run in that folder write their logs, whatever its name holds."""
    # SLURM would also expand the patterns in the name of a folder that it puts before a relative one
    return f"--output={str(folder).replace('%', '%%')}/logs/slurm-%j.out"


def refuse(folder: Path, executor: str) -> None:
    """UsageError for a folder in which jobs cannot write their logs, or workers cannot work."""
    trouble = ""
    if "\\" in str(folder):
        trouble = "SLURM cannot write logs into a folder with a backslash in its name."
    elif executor == "slurm" and not _is_utf8(str(folder)):
        trouble = "dask cannot work in a folder whose name is not UTF-8 (--executor slurm-array can)."
    if trouble:
        raise UsageError(f"{shown(folder)}: {trouble}\nChoose another one: --outdir.")


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def judge(site: SiteConfig) -> None:
    """Have sbatch judge the jobs of a run without submitting any. Raises UsageError, Unreachable, or UnfitError.

    That there is no room now, or that nodes are down for a while, is no reason to refuse: jobs can wait.
    """
    for options in (worker_options(site), driver_options(site)):
        try:
            _run(["sbatch", "--test-only", *options], _NOTHING)
        except LimitReached as error:
            log.info("%s", error)
        except UnfitError as error:
            _judge_in_earnest(options)
            log.warning("%s", error)


def _judge_in_earnest(options: Sequence[str]) -> None:
    """What --test-only refuses, sbatch may take all the same: the former knows only nodes that are up now."""
    # not held: what such a job asks for is not judged
    later = ["sbatch", "--parsable", "--begin=now+1hour", "--output=/dev/null", f"--job-name={PREFIX}question"]
    cancel([_run([*later, *options], _NOTHING).strip().split(";")[0]])


def queue(prefix: str = PREFIX, ended: bool = False) -> list[Job]:
    """This user's jobs whose names begin so, pending arrays as one. Raises Unreachable.

    ended: also those that have ended, as long as SLURM remembers them (MinJobAge).
    """
    states = ["--states=all"] if ended else []
    listed = _run(["squeue", "--noheader", *states, f"--user={config.caller().user}", f"--format={_COLUMNS}"])
    return [job for job in map(_job, listed.splitlines()) if job and job.name.startswith(prefix)]


def look_up(job_id: str) -> Job | None:
    """One job, also one that has ended, as long as SLURM remembers it. Raises Unreachable."""
    try:
        listed = _run(["squeue", "--noheader", "--states=all", f"--jobs={job_id}", f"--format={_COLUMNS}"])
    except UnfitError:
        return None  # "Invalid job id specified": forgotten
    return next((job for job in map(_job, listed.splitlines()) if job), None)


def folders(prefix: str = PREFIX) -> dict[str, Path]:
    """The working folders of this user's jobs by job name. Raises Unreachable."""
    listed = _run(["squeue", "--noheader", f"--user={config.caller().user}", "--format=%j|%Z"])
    pairs = (line.split("|", 1) for line in listed.splitlines() if line.startswith(prefix) and "|" in line)
    return {name: Path(folder) for name, folder in pairs}


_COLUMNS = "%i|%T|%r|%N|%j"


def _job(line: str) -> Job | None:
    fields = line.strip().split("|", 4)
    return Job(*fields) if len(fields) == 5 else None


def ending(job_id: str, its_log: str) -> Ending:
    """How a job ended; where SLURM does not say, or has forgotten it, its log may. Raises nothing."""
    try:
        job = look_up(job_id)
    except Unreachable:
        job = None
    return Ending(job_id, job.state if job else "", its_log)


def cancel(job_ids: Iterable[str]) -> None:
    """End these jobs; those that are over already are no error. Raises Unreachable."""
    ids = list(job_ids)
    if ids:
        _run(["scancel", "--quiet", *ids])


def requeue(job_id: str) -> None:
    """End this job and have SLURM start it anew. Raises UnfitError or Unreachable."""
    _run(["scontrol", "requeue", job_id])


def partitions() -> list[Partition]:
    """The partitions that sinfo shows, largest of their nodes first. Raises Unreachable or UnfitError."""
    found: dict[str, Partition] = {}
    for each in node_kinds():
        # what most jobs want is the kind of nodes with devices
        before = found.get(each.name)
        if before is None or (not before.gres and each.gres):
            found[each.name] = each
    return list(found.values())


def node_kinds() -> list[Partition]:
    """The same, with an entry for each kind of nodes in a partition."""
    listed = _run(["sinfo", "--noheader", "--format=%R|%P|%a|%L|%l|%D|%c|%m|%h|%G|%f"])
    return [_partition(line.strip()) for line in listed.splitlines()]


def _partition(line: str) -> Partition:
    name, marked, up, default, longest, nodes, cpus, memory, shared, gres, features = line.split("|", 10)
    return Partition(
        name,
        marked.endswith("*"),
        up == "up",
        default,
        longest,
        int(nodes),
        int(cpus.rstrip("+")),
        int(memory.rstrip("+")),
        "" if gres == "(null)" else gres,
        "" if features == "(null)" else features,
        shared == "EXCLUSIVE",
    )


def cluster() -> Cluster:
    """What slurmctld says of itself. Raises Unreachable or UnfitError."""
    lines = _run(["scontrol", "show", "config"]).splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    controller = re.search(r"\((.+?)\)$", facts.get("SlurmctldHost[0]", ""))
    return Cluster(
        name=facts.get("ClusterName", ""),
        version=facts.get("SLURM_VERSION", ""),
        controller=controller[1] if controller else facts.get("SlurmctldHost[0]", ""),
        array_size=int(facts.get("MaxArraySize", "1001")),
        job_count=int(facts.get("MaxJobCount", "10000")),
        accounting="none" not in facts.get("AccountingStorageType", "none"),
    )


def usage(job_ids: Iterable[str]) -> list[Usage]:
    """What these jobs used, tasks of arrays one by one; [] where this cluster keeps no accounts, or does not answer."""
    ids = sorted({each.split("_")[0] for each in job_ids})
    if config.find_program("sacct") is None:
        return []
    columns = "JobID,State,NodeList,CPUTimeRAW,ElapsedRaw,AllocTRES,MaxRSS"
    # what a job had used before SLURM started it anew counts, too
    command = ["sacct", "--noheader", "--parsable2", "--duplicates", f"--format={columns}"]
    parts = [ids[first : first + _ACCOUNTS_AT_ONCE] for first in range(0, len(ids), _ACCOUNTS_AT_ONCE)]
    try:
        return parse_usage("".join(_run([*command, f"--jobs={','.join(part)}"]) for part in parts))
    except ModelHubError as error:
        log.debug("no accounts: %s", error)
        return []


def parse_usage(listed: str) -> list[Usage]:
    """The jobs in sacct's answer; memory is measured in a job's steps, which follow it.

    A job that was started anew is listed for each time, and has used all of it together.

    >>> text = "7|REQUEUED|n2|60|30|gres/gpu=2|\\n7|COMPLETED|n1|7140|3570|billing=2,gres/gpu=2|\\n"
    >>> parse_usage(text + "7.batch|COMPLETED|n1|7140|3570||2048K\\n")
    [Usage(id='7', state='COMPLETED', node='n1', cpu_hours=2.0, gpu_hours=2.0, peak_mb=2)]
    """
    jobs: dict[str, Usage] = {}
    for line in listed.splitlines():
        fields = line.split("|")
        if len(fields) != 7:
            continue
        job_id, state, node, cpu_s, elapsed_s, tres, rss = fields
        job_id, _, step = job_id.partition(".")
        before = jobs.get(job_id, Usage(job_id, "", "", 0.0, 0.0, 0))
        if not step:
            gpus = re.search(r"gres/gpu=(\d+)", tres)
            cpu_hours = before.cpu_hours + int(cpu_s or 0) / 3600
            gpu_hours = before.gpu_hours + int(elapsed_s or 0) * int(gpus[1] if gpus else 0) / 3600
            jobs[job_id] = Usage(job_id, state.split()[0], node, cpu_hours, gpu_hours, before.peak_mb)
        elif job_id in jobs and rss:
            jobs[job_id] = replace(before, peak_mb=max(before.peak_mb, _megabytes(rss)))
    return list(jobs.values())


def _megabytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    scale = {"": 2**-20, "K": 2**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}
    return -int(-float(match[1]) * scale[match[2]] // 1) if match else 0


def _run(command: Sequence[str], text: str = "", variables: dict[str, str] | None = None) -> str:
    program = config.find_program(command[0])
    if program is None:
        raise UnfitError(
            f"{command[0]} is not on PATH: is this a node of a SLURM cluster?\nElsewhere, use --executor local."
        )
    process = subprocess.Popen(
        [program, *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # SQUEUE_FORMAT, SBATCH_EXPORT and the like would change what is asked and answered
        env={**config.job_environment(), **(variables or {})},
    )
    with process:
        answer, words = _await(process, text.encode("utf-8", "surrogateescape"))
    if process.returncode == 0:
        return answer.decode("utf-8", "surrogateescape")
    raise _refusal(command, words.decode(errors="replace").strip())


def _await(process: subprocess.Popen[bytes], text: bytes) -> tuple[bytes, bytes]:
    """What a program of SLURM answers and says; it is not waited for where it waits for room in the queue itself."""
    deadline = time.monotonic() + _TIMEOUT_S
    unsent: bytes | None = text
    while True:
        try:
            return process.communicate(unsent, timeout=_LISTEN_S)
        except subprocess.TimeoutExpired as late:
            unsent = None  # communicate() goes on with what it was given first
            said = (late.stderr or b"").decode(errors="replace")
            full, late_enough = _is_full(said), time.monotonic() > deadline
            if full or late_enough:
                process.kill()
                process.communicate()
                return b"", said.encode() if full else f"{said}\n{_NO_ANSWER}".encode()


def _is_full(words: str) -> bool:
    """Whether SLURM has too many jobs now, and may take this one later."""
    named = _NAMED_LIMIT.findall(words)
    return any("Submit" in limit for limit in named) if named else bool(_LIMIT.search(words))


def _refusal(command: Sequence[str], words: str) -> ModelHubError:
    said = "\n".join(line.split("error: ", 1)[-1] for line in words.splitlines()) or "(no words)"
    if _is_full(words):
        return LimitReached(f"SLURM takes no more jobs now: {said}")
    if _UNREACHABLE.search(words):
        return Unreachable(f"SLURM does not answer: {said}")
    return UnfitError(f"SLURM refuses `{shlex.join(command)}`:\n{said}")
