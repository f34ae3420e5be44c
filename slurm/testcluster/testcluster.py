#!/usr/bin/env python3
"""A real SLURM on one machine, as one user, for trying things and for tests.

    testcluster.py start [--folder DIR] [--nodes 3] [--gpus 2] [--cpus 4] [--set Key=Value ...]
    testcluster.py status [--folder DIR] [--json]
    testcluster.py stop [--folder DIR]

Its own munged, slurmctld and a slurmd per node, on ports of this machine that are free, from the packages of the
distribution. All that it writes lies in the folder. No root is needed, and jobs are those of the user who started it.

exit codes: 0 done, 1 the cluster did not start (or, for status, does not run), 2 wrong use, 5 SLURM or munge is missing
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

DEFAULT_FOLDER = Path("build/cluster")  # of the checkout, when started there
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
PACKAGES = "slurmctld slurmd slurm-client munge"
# Daemons lie where an ordinary user's PATH does not lead
MORE_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# In the environment of all that belongs to a cluster, so that its processes can be told from all others
MARK = "MODELHUB_TESTCLUSTER"
# A socket's path fits in 107 bytes; slurmstepd adds the longest of names: /spool.node12/node12_1234567.4294967294
LONGEST_RUNTIME = 107 - 44
LOCK = "testcluster.lock"  # tells a folder of ours, too
MB_PER_CPU = 2000
PORTS = range(20000, 32000)  # below those that the kernel gives to clients
START_S = 30.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Shape:
    """What a cluster consists of; cluster.json of its folder while it runs."""

    nodes: int
    gpus: int
    cpus: int
    settings: dict[str, str]
    ports: tuple[int, ...] = ()  # of slurmctld, then of the nodes
    runtime: str = ""  # the folder of the sockets

    @property
    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]


class ClusterError(Exception):
    """What went wrong, for people; `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


# ---- processes ----------------------------------------------------------------------------------


def keep(pid_file: Path, log: Path, command: list[str]) -> None:
    """Run a daemon in the background, and stay the parent of all that it leaves until the last of it is gone.

    A job's processes that lose their parent would become children of process 1, where nobody could tell whose they
    were: many of them have an environment that was emptied.
    """
    if os.fork():
        return
    os.setsid()
    for number in signal.valid_signals():
        with contextlib.suppress(OSError):  # two of them can't be set
            # a background job of a shell ignores some, and jobs would inherit that
            signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with log.open("ab") as output:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        for target in (0, 1, 2):
            os.dup2(output.fileno(), target)
    write(pid_file, str(daemon.pid))
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    os._exit(0)


def parents() -> dict[int, int]:
    """The parent of every process of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # the name of the program, in parentheses, may hold anything
                found[int(entry.name)] = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
    return found


def marked(mark: str) -> set[int]:
    """The processes that have this line in their environment."""
    wanted, found = mark.encode(), set()
    for pid in parents():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def is_keeper(pid: int) -> bool:
    """Whether this is the process of `keep`."""
    with contextlib.suppress(OSError):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return arguments[1:3] == [b"-I", b"-S"] and arguments[4:5] == [b"keep"]
    return False


def with_descendants(pids: Iterable[int]) -> set[int]:
    """These processes and all below them."""
    found, table = set(pids), parents()
    while more := {pid for pid, parent in table.items() if parent in found and pid not in found}:
        found |= more
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float, every: float = 0.1) -> bool:
    """Wait for a condition; whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


# ---- files --------------------------------------------------------------------------------------


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """A file that appears whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.chmod(mode)
    part.replace(path)


def is_listening(port: int) -> bool:
    """Whether somebody listens on this port, found out without a connection, of which daemons would complain."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; drawn, so that clusters started at the same time rarely meet."""
    drawn = (port for port in random.sample(PORTS, len(PORTS)) if not is_listening(port))
    return list(itertools.islice(drawn, count))


def devices(count: int) -> list[str]:
    """Character devices of this machine that stand for GPUs; plain files get no CUDA_VISIBLE_DEVICES from SLURM."""
    names = [f"tty{number}" for number in range(64)] + ["null", "zero", "full", "random", "urandom", "tty"]
    paths = [Path("/dev") / name for name in names]
    found = [str(path) for path in paths if path.exists() and stat.S_ISCHR(path.stat().st_mode)]
    if len(found) < count:
        raise ClusterError(f"this machine has {len(found)} devices that can stand for GPUs, not {count}", 2)
    return found[:count]


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log, under its name."""
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {path}", *text])
    return f"--- {path}: not there"


# ---- configuration ------------------------------------------------------------------------------


def slurm_conf(folder: Path, shape: Shape) -> dict[str, str]:
    """The settings of slurm.conf, apart from nodes and partitions."""
    user = str(os.getuid())
    values = {
        "ClusterName": "testcluster",
        "SlurmctldHost": f"{host_name()}(127.0.0.1)",
        "SlurmctldPort": str(shape.ports[0]),
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={shape.runtime}/munge.socket",
        "CredType": "cred/munge",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{shape.runtime}/spool.%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.own.pid",
        "SlurmdPidFile": f"{folder}/run/%n.own.pid",
        # what daemons say at their start, and when one fails, is in log/*.log; these have it all, with the time
        "SlurmctldLogFile": f"{folder}/log/slurmctld.dated.log",
        "SlurmdLogFile": f"{folder}/log/%n.dated.log",
        "TaskProlog": f"{folder}/task_prolog.sh",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        # without it a job that asks for no memory gets a whole node
        "DefMemPerCPU": str(MB_PER_CPU),
        "SlurmdParameters": "config_overrides",
        "ReturnToService": "2",
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherParams": "OverMemoryKill",
        "JobAcctGatherFrequency": "task=1",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SchedulerParameters": "sched_interval=2,bf_interval=2,batch_sched_delay=1",
        "KillWait": "5",
        "SlurmdTimeout": "15",
        "MinJobAge": "60",
    }
    if shape.gpus:
        values["GresTypes"] = "gpu"
    if (root := private_root()) is not None:
        values["PluginDir"] = ":".join(str(path) for path in root.glob("usr/lib/*/slurm-wlm"))
    return values


def nodes_and_partitions(shape: Shape) -> list[str]:
    """The lines of slurm.conf that name nodes and partitions."""
    gres = f" Gres=gpu:{shape.gpus}" if shape.gpus else ""
    lines = [
        f"NodeName={name} NodeHostname={host_name()} NodeAddr=127.0.0.1 Port={port} CPUs={shape.cpus}"
        f" RealMemory={shape.cpus * MB_PER_CPU}{gres}"
        for name, port in zip(shape.node_names, shape.ports[1:])
    ]
    common = "Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP"
    lines.append(f"PartitionName=main {common} Default=YES PriorityTier=1 GraceTime=6")
    lines.append(f"PartitionName=hi {common} PriorityTier=10 PreemptMode=OFF")
    return lines


CGROUP_CONF = """\
# "disabled" does not exist in SLURM 22.05; nothing of this is used
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainCores=no
ConstrainDevices=no
ConstrainRAMSpace=no
ConstrainSwapSpace=no
"""

# What a task prolog prints as `export NAME=value` becomes part of the task's environment
TASK_PROLOG = """\
#!/bin/sh
echo "export {mark}"
extra="{folder}/environment.$SLURMD_NODENAME"
if [ -f "$extra" ]; then cat "$extra"; fi
"""


def host_name() -> str:
    """The name by which SLURM's daemons know the machine."""
    return socket.gethostname().partition(".")[0]


# ---- the cluster --------------------------------------------------------------------------------


class Cluster:
    """The cluster of a folder, running or not. Prints nothing; raises ClusterError."""

    def __init__(
        self, folder: Path, nodes: int = 3, gpus: int = 2, cpus: int = 4, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._wanted = Shape(nodes, gpus, cpus, dict(settings or {}))
        self._mark = f"{MARK}={self.folder}"

    # -- what it consists of

    @property
    def shape(self) -> Shape:
        """Of the cluster that was started in this folder, or else of the one that would be."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = json.loads((self.folder / "cluster.json").read_text(encoding="utf-8"))
            return Shape(**{**known, "ports": tuple(known["ports"])})
        return self._wanted

    @property
    def daemon_names(self) -> list[str]:
        return ["munged", "slurmctld", *self.shape.node_names]

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    def environment(self) -> dict[str, str]:
        """What SLURM's commands need in their environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def pids(self) -> dict[str, int]:
        """The daemons that run, by name: munged, slurmctld, node1, ..."""
        found = {}
        for name in self.daemon_names:
            with contextlib.suppress(OSError, ValueError):
                pid = int(self._pid_file(name).read_text())
                # a number may have passed on to a process of somebody else
                if is_running(pid) and self._mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found[name] = pid
        return found

    def processes(self) -> set[int]:
        """All that belongs to this cluster: its daemons, its jobs, and what they have left behind."""
        callers, pid, table = set[int](), os.getpid(), parents()
        while pid > 1:  # whoever asks from within a job does not end itself
            callers.add(pid)
            pid = table.get(pid, 1)
        return {pid for pid in with_descendants(marked(self._mark) - callers) - callers if is_running(pid)}

    def is_up(self) -> bool:
        """Whether every daemon runs."""
        return set(self.pids()) == set(self.daemon_names)

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """What a command of SLURM prints; ClusterError with its complaint when it fails."""
        done = subprocess.run(
            [find(command[0]), *command[1:]],
            env={**plain_environment(), **self.environment()},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def node_states(self) -> dict[str, str]:
        """The state of every node, such as idle, mixed, down; with a star while it does not answer."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", "--partition=main").splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    def set_partition(self, name: str, state: str) -> None:
        """Put a partition UP, or DOWN: jobs are queued, and none starts; also DRAIN, INACTIVE."""
        self.run("scontrol", "update", f"PartitionName={name}", f"State={state}")

    # -- start and stop

    def start(self) -> bool:
        """Start it and wait until all nodes are idle; False if it runs already."""
        for program in PROGRAMS:
            find(program)
        self._claim_folder()
        with self._lock():
            if self.is_up():
                return False
            self._end_all()
            self._clean()
            self._prepare()
            try:
                self._start_daemons()
            except BaseException:
                self._end_all()
                raise
        return True

    def stop(self) -> bool:
        """Cancel the jobs, end the daemons and all that jobs have left; False if nothing ran."""
        if not (self.folder / LOCK).exists():
            return False
        with self._lock():
            ran = bool(self.processes())
            if "slurmctld" in self.pids():
                self._cancel_jobs()
            self._end_all()
        return ran

    # -- one daemon at a time

    def kill_node(self, name: str) -> None:
        """kill -9 of the node's slurmd; its jobs go on, as on a real node."""
        self._kill(name)

    def start_node(self, name: str) -> None:
        """Start the node's slurmd and wait until the controller has it back."""
        self._spawn_node(name)
        self._await(lambda: self._is_back(name), name)

    def kill_controller(self) -> None:
        """kill -9 of slurmctld. Of the last five seconds it may not have written down what happened."""
        self._kill("slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld, with the queue that it had, and wait until it answers."""
        self._spawn("slurmctld", [find("slurmctld"), "-D", "-f", str(self.conf)])
        self._await(self._answers, "slurmctld")

    # -- inside: files

    def _pid_file(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.pid"

    def _log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def _claim_folder(self) -> None:
        if not re.fullmatch(r"[\w./+-]+", str(self.folder), re.ASCII):
            raise ClusterError(f"SLURM's configuration can't express the name of the folder {self.folder}", 2)
        if not fits_sockets(self.folder) and not fits_sockets(Path(tempfile.gettempdir()) / "mh-slurm-12345678"):
            raise ClusterError(f"sockets can't lie in {self.folder}, nor in {tempfile.gettempdir()}: the names are"
                               f" longer than {LONGEST_RUNTIME} bytes; name a shorter folder", 2)  # fmt: skip
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        if names and LOCK not in names:
            raise ClusterError(f"{self.folder} holds something else: name an empty or a new folder", 2)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(folder_mode())

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _clean(self) -> None:
        """Remove what an earlier cluster of this folder has left."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def _prepare(self) -> None:
        """Write everything that the daemons read."""
        runtime = self.folder if fits_sockets(self.folder) else Path(tempfile.mkdtemp(prefix="mh-slurm-"))
        runtime.chmod(folder_mode())
        shape = replace(self._wanted, ports=tuple(free_ports(1 + self._wanted.nodes)), runtime=str(runtime))
        for path in (*(self.folder / name for name in ("run", "log", "state", "munge")),
                     *(runtime / f"spool.{name}" for name in shape.node_names)):  # fmt: skip
            path.mkdir()
            path.chmod(folder_mode())
        key = os.open(self.folder / "munge" / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(key, os.urandom(1024))
        os.close(key)
        self._write_configuration(shape)
        write(self.folder / "cluster.json", json.dumps(asdict(shape), indent=1) + "\n")

    def _write_configuration(self, shape: Shape) -> None:
        settings = {**slurm_conf(self.folder, shape), **shape.settings}
        lines = [f"{key}={value}" for key, value in settings.items()] + nodes_and_partitions(shape)
        write(self.conf, "\n".join(lines) + "\n")
        write(self.folder / "cgroup.conf", CGROUP_CONF)
        write(self.folder / "gres.conf", "".join(f"Name=gpu File={device}\n" for device in devices(shape.gpus)))
        write(self.folder / "task_prolog.sh", TASK_PROLOG.format(mark=self._mark, folder=self.folder), 0o755)

    # -- inside: daemons

    def _start_daemons(self) -> None:
        own, end = self.folder / "munge", Path(self.shape.runtime) / "munge.socket"
        self._spawn("munged", [
            find("munged"), "--foreground", "--force", "--num-threads=2", f"--key-file={own}/key",
            f"--socket={end}", f"--pid-file={own}/pid", f"--seed-file={own}/seed",
        ])  # fmt: skip
        self._await(end.exists, "munged")
        self._spawn("slurmctld", [find("slurmctld"), "-D", "-f", str(self.conf)])
        for name in self.shape.node_names:
            self._spawn_node(name)
        self._await(self._all_idle, *self.daemon_names)

    def _spawn_node(self, name: str) -> None:
        root = private_root()
        steps = ["-d", f"{root}/usr/sbin/slurmstepd"] if root else []
        self._spawn(name, [find("slurmd"), "-D", *steps, "-N", name, "-f", str(self.conf)])

    def _spawn(self, name: str, command: list[str]) -> None:
        if name in self.pids():
            raise ClusterError(f"{name} runs already")
        pid_file, (key, _, value) = self._pid_file(name), self._mark.partition("=")
        pid_file.unlink(missing_ok=True)
        subprocess.run(
            [sys.executable, "-I", "-S", __file__, "keep", str(pid_file), str(self._log(name)), *command],
            env={**plain_environment(), key: value}, cwd=self.folder, stdin=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        if not until(pid_file.exists, START_S, 0.01):
            raise ClusterError(f"{name} did not start:\n{tail(self._log(name))}")

    def _await(self, condition: Callable[[], bool], *names: str) -> None:
        """Wait for daemons; the ends of their logs say why they did not come."""
        ended = set[str]()

        def settled() -> bool:
            ended.update(set(names) - set(self.pids()))
            return bool(ended) or condition()

        if until(settled, START_S) and not ended:
            return
        reason = f"ended: {', '.join(sorted(ended))}" if ended else f"not ready within {START_S:g} s"
        raise ClusterError("\n".join([f"the cluster in {self.folder}: {reason}", *(tail(self._log(n)) for n in names)]))

    def _all_idle(self) -> bool:
        with contextlib.suppress(ClusterError):
            return self.node_states() == dict.fromkeys(self.shape.node_names, "idle")
        return False

    def _is_back(self, name: str) -> bool:
        """Whether the node serves again; a controller that has not missed it calls it idle all the while."""
        port = self.shape.ports[1 + self.shape.node_names.index(name)]
        with contextlib.suppress(ClusterError):
            return is_listening(port) and not re.search(r"down|unknown|\*", self.node_states()[name])
        return False

    def _answers(self) -> bool:
        with contextlib.suppress(ClusterError):
            return " is UP" in self.run("scontrol", "ping")
        return False

    def _kill(self, name: str) -> None:
        pid = self.pids().get(name)
        if pid is None:
            raise ClusterError(f"{name} does not run")
        os.kill(pid, signal.SIGKILL)
        if not until(lambda: not is_running(pid), 10, 0.01):
            raise ClusterError(f"{name} (process {pid}) can't be killed")

    def _cancel_jobs(self) -> None:
        """Let jobs end by themselves, for as long as SLURM would; the rest is killed."""

        def jobs() -> list[str]:
            return self.run("squeue", "--noheader", "--format=%A", timeout=10).split()

        with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
            if found := jobs():
                self.run("scancel", *found, timeout=10)
                until(lambda: not jobs(), 8)

    def _end_all(self) -> None:
        """Kill until nothing is left: a process may start another while this looks."""
        seen = set[int]()

        def gone() -> bool:
            # who is about to end has no environment any more
            seen.update(self.processes())
            left = {pid for pid in seen if is_running(pid)}
            # keepers end by themselves when they have collected the last of theirs
            for pid in {pid for pid in left if not is_keeper(pid)}:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        if not until(gone, 20, 0.05):
            raise ClusterError(f"processes that can't be ended: {sorted(filter(is_running, seen))}")
        if (runtime := self.shape.runtime) not in ("", str(self.folder)):
            shutil.rmtree(runtime, ignore_errors=True)
        (self.folder / "cluster.json").unlink(missing_ok=True)


# ---- programs -----------------------------------------------------------------------------------


def fits_sockets(folder: Path) -> bool:
    """Whether all sockets of a cluster can lie in this folder."""
    return len(os.fsencode(folder)) <= LONGEST_RUNTIME


def folder_mode() -> int:
    """root's cluster takes jobs of other users, who have to read its configuration."""
    return 0o755 if os.getuid() == 0 else 0o700


def search_path() -> str:
    """Where programs are looked for."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *MORE_PATH])


def find(program: str) -> str:
    """The path of a program of SLURM or munge."""
    found = shutil.which(program, path=search_path())
    if found is None:
        raise ClusterError(
            f"{program} is not installed: a test cluster needs SLURM and munge. On Debian and Ubuntu:\n"
            f"  sudo apt-get install --no-install-recommends {PACKAGES}", 5
        )  # fmt: skip
    return found


def private_root() -> Path | None:
    """Where SLURM's packages are unpacked, if not into the system: its programs must be told where the rest is."""
    root = Path(find("slurmd")).parents[2]
    return root if root != Path("/") and (root / "usr/sbin/slurmstepd").exists() else None


def plain_environment() -> dict[str, str]:
    """This process's environment without what another cluster or job has put there."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH_", MARK))}
    return {**kept, "PATH": search_path()}


# ---- the command --------------------------------------------------------------------------------


def start_command(options: argparse.Namespace) -> int:
    cluster = Cluster(options.folder, options.nodes, options.gpus, options.cpus, dict(options.set))
    started = cluster.start()
    shape = cluster.shape
    print(f"{'Started' if started else 'It runs already'}: {shape.nodes} nodes, each with {shape.cpus} CPUs and"
          f" {shape.gpus} GPUs (simulated). To use it:")  # fmt: skip
    if (root := private_root()) is not None:
        print(f"  export PATH={root}/usr/bin:$PATH")
    print(f"  export SLURM_CONF={cluster.conf}")
    return 0


def stop_command(options: argparse.Namespace) -> int:
    print("Stopped." if Cluster(options.folder).stop() else f"Nothing runs in {options.folder}.")
    return 0


def status_command(options: argparse.Namespace) -> int:
    cluster = Cluster(options.folder)
    pids, nodes, up = cluster.pids(), dict[str, str](), cluster.is_up()
    with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
        nodes = cluster.node_states() if "slurmctld" in pids else {}
    if options.json:
        answer = {"running": up, "folder": str(cluster.folder), "pids": pids, "nodes": nodes,
                  "environment": cluster.environment()}  # fmt: skip
        print(json.dumps(answer))
    else:
        for name in cluster.daemon_names:
            print(f"{name:10} {'pid ' + str(pids[name]) if name in pids else 'not running':12} {nodes.get(name, '')}")
    return 0 if up else 1


def setting(text: str) -> tuple[str, str]:
    """Key=Value of a line of slurm.conf."""
    key, equals, value = text.partition("=")
    if not equals or not key.isalnum() or key in ("NodeName", "PartitionName"):
        raise argparse.ArgumentTypeError(f"{text!r} is not Key=Value, of one of slurm.conf's settings")
    return key, value


def positive(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(description="A real SLURM on one machine, as one user.")
    commands = main_parser.add_subparsers(required=True, metavar="start | stop | status")
    for name, function in (("start", start_command), ("stop", stop_command), ("status", status_command)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="all of it lies there [%(default)s]")
        if name == "status":
            command.add_argument("--json", action="store_true", help="for programs")
        if name == "start":
            command.add_argument("--nodes", type=positive, default=3, help="[%(default)s]")
            command.add_argument("--gpus", type=int, choices=range(65), metavar="N", default=2,
                                 help="per node, simulated [%(default)s]")  # fmt: skip
            command.add_argument("--cpus", type=positive, default=4, help="per node, whatever there is [%(default)s]")
            command.add_argument("--set", type=setting, action="append", default=[], metavar="Key=Value",
                                 help="a setting of slurm.conf, such as MaxArraySize=50")  # fmt: skip
    return main_parser


def main(argv: list[str]) -> int:
    if argv[:1] == ["keep"]:
        keep(Path(argv[1]), Path(argv[2]), argv[3:])
        return 0
    options = parser().parse_args(argv)
    try:
        return int(options.function(options))
    except ClusterError as error:
        print(f"testcluster: {error}", file=sys.stderr)
        return error.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
