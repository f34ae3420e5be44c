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
from pathlib import Path
from typing import Any

DEFAULT_FOLDER = Path("build/cluster")  # of the checkout, when started there
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
PACKAGES = "slurmctld slurmd slurm-client munge"
# Daemons lie where an ordinary user's PATH does not lead
MORE_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# In the environment of all that belongs to a cluster, so that its processes can be told from all others
MARK = "MODELHUB_TESTCLUSTER"
# A socket's path fits in 107 bytes; slurmstepd adds the longest of names: /spool.node12/node12_1234567.4294967294
LONGEST_RUNTIME = 107 - 44
MB_PER_CPU = 2000
PORTS = range(20000, 32000)  # below those that the kernel gives to clients
START_S = 30.0
PR_SET_CHILD_SUBREAPER = 36

Settings = Mapping[str, str]


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
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; drawn, so that clusters started at the same time rarely meet."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
    return found


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


def slurm_conf(cluster: Cluster) -> dict[str, str]:
    """The settings of slurm.conf, apart from nodes and partitions."""
    folder, runtime, user = cluster.folder, cluster.runtime, "root" if os.getuid() == 0 else str(os.getuid())
    values = {
        "ClusterName": "testcluster",
        "SlurmctldHost": f"{host_name()}(127.0.0.1)",
        "SlurmctldPort": str(cluster.ports[0]),
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={cluster.munge_socket}",
        "CredType": "cred/munge",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{runtime}/spool.%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.own.pid",
        "SlurmdPidFile": f"{folder}/run/%n.own.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/%n.log",
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
    if cluster.gpus:
        values["GresTypes"] = "gpu"
    return values


def nodes_and_partitions(cluster: Cluster) -> list[str]:
    """The lines of slurm.conf that name nodes and partitions."""
    gres = f" Gres=gpu:{cluster.gpus}" if cluster.gpus else ""
    lines = [
        f"NodeName={name} NodeHostname={host_name()} NodeAddr=127.0.0.1 Port={port} CPUs={cluster.cpus}"
        f" RealMemory={cluster.cpus * MB_PER_CPU}{gres}"
        for name, port in zip(cluster.node_names, cluster.ports[1:])
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
    """One cluster, running or not, by its folder. Prints nothing; raises ClusterError."""

    def __init__(
        self, folder: Path, nodes: int = 3, gpus: int = 2, cpus: int = 4, settings: Settings | None = None
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.nodes, self.gpus, self.cpus = nodes, gpus, cpus
        self.settings = dict(settings or {})
        self.runtime, self.ports = self.folder, list[int]()
        self.mark = f"{MARK}={self.folder}"
        self._recall()

    # -- what it consists of

    @property
    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    @property
    def daemon_names(self) -> list[str]:
        return ["munged", "slurmctld", *self.node_names]

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.runtime / "munge.socket"

    def environment(self) -> dict[str, str]:
        """What SLURM's commands need in their environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def pids(self) -> dict[str, int]:
        """The daemons that run, by name: munged, slurmctld, node1, ..."""
        found = {}
        for name in self.daemon_names:
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.folder / "run" / f"{name}.pid").read_text())
                # a number may have passed on to a process of somebody else
                if is_running(pid) and self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found[name] = pid
        return found

    def processes(self) -> set[int]:
        """All that belongs to this cluster: its daemons, its jobs, and what they have left behind."""
        mine, pid, table = set[int](), os.getpid(), parents()
        while pid > 1:  # whoever asks from within a job does not end itself
            mine.add(pid)
            pid = table.get(pid, 1)
        return {pid for pid in with_descendants(marked(self.mark) - mine) - mine if is_running(pid)}

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

    def is_up(self) -> bool:
        """Whether every daemon runs."""
        return set(self.pids()) == set(self.daemon_names)

    # -- start and stop

    def start(self) -> bool:
        """Start it and wait until all nodes are idle; False if it runs already."""
        for program in PROGRAMS:
            find(program)
        self._claim_folder()
        with self._lock():
            self._recall()
            if self.is_up():
                return False
            self._end_all()
            self._clean()
            self._prepare()
            try:
                self._start_daemons()
            except ClusterError:
                self._end_all()
                raise
        return True

    def stop(self) -> bool:
        """Cancel the jobs, end the daemons and all that jobs have left; False if nothing ran."""
        if not self.folder.is_dir():
            return False
        with self._lock():
            self._recall()
            was = bool(self.processes())
            if was:
                self._cancel_jobs()
                self._end_all()
            self._drop_runtime()
        return was

    # -- one daemon at a time

    def kill_node(self, name: str) -> None:
        """kill -9 of the node's slurmd; its jobs go on, as on a real node."""
        self._kill(name)

    def start_node(self, name: str, seconds: float = START_S) -> None:
        """Start the node's slurmd and wait until the controller has it back."""
        self._spawn(name, [find("slurmd"), "-D", "-N", name, "-f", str(self.conf)])
        self._await(lambda: self._is_back(name), seconds, name)

    def kill_controller(self) -> None:
        """kill -9 of slurmctld."""
        self._kill("slurmctld")

    def start_controller(self, seconds: float = START_S) -> None:
        """Start slurmctld, with the queue that it had, and wait until it answers."""
        self._spawn("slurmctld", [find("slurmctld"), "-D", "-f", str(self.conf)])
        self._await(self._answers, seconds, "slurmctld")

    def set_partition(self, name: str, state: str) -> None:
        """Put a partition UP or DOWN (jobs are queued, none starts), or to DRAIN or INACTIVE."""
        self.run("scontrol", "update", f"PartitionName={name}", f"State={state}")

    # -- inside

    def _recall(self) -> None:
        """Take over what the cluster of this folder was started with."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            known = json.loads((self.folder / "cluster.json").read_text(encoding="utf-8"))
            if Path(known["runtime"]).is_dir() and self._runs(known):
                self.nodes, self.gpus, self.cpus = known["nodes"], known["gpus"], known["cpus"]
                self.settings = known["settings"]
            self.ports, self.runtime = known["ports"], Path(known["runtime"])

    def _runs(self, known: Mapping[str, Any]) -> bool:
        names = ["munged", "slurmctld", *(f"node{number + 1}" for number in range(known["nodes"]))]
        return any((self.folder / "run" / f"{name}.pid").exists() for name in names)

    def _claim_folder(self) -> None:
        if not re.fullmatch(r"[\w./+-]+", str(self.folder), re.ASCII):
            raise ClusterError(f"SLURM's configuration can't express the name of the folder {self.folder}", 2)
        known = {"cluster.json", "lock"}
        if self.folder.is_dir() and (names := set(os.listdir(self.folder))) and not names & known:
            raise ClusterError(f"{self.folder} is a folder of something else: name an empty or a new one", 2)
        self.folder.mkdir(parents=True, exist_ok=True)
        # root's cluster takes jobs of other users, who have to read its configuration
        self.folder.chmod(0o755 if os.getuid() == 0 else 0o700)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _clean(self) -> None:
        """Remove what an earlier cluster of this folder has left."""
        self._drop_runtime()
        for path in self.folder.iterdir():
            if path.name == "lock":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _drop_runtime(self) -> None:
        if self.runtime != self.folder:
            shutil.rmtree(self.runtime, ignore_errors=True)
            self.runtime = self.folder

    def _prepare(self) -> None:
        """Write everything that the daemons read."""
        if len(os.fsencode(self.folder)) > LONGEST_RUNTIME:
            self.runtime = Path(tempfile.mkdtemp(prefix="mh-slurm-"))
            self.runtime.chmod(self.folder.stat().st_mode & 0o777)
        self.ports = free_ports(1 + self.nodes)
        known = {"nodes": self.nodes, "gpus": self.gpus, "cpus": self.cpus, "settings": self.settings,
                 "ports": self.ports, "runtime": str(self.runtime)}  # fmt: skip
        write(self.folder / "cluster.json", json.dumps(known, indent=1) + "\n")
        for name in ("run", "log", "state", "munge"):
            (self.folder / name).mkdir()
        for name in self.node_names:
            (self.runtime / f"spool.{name}").mkdir()
        key = os.open(self.folder / "munge/key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(key, os.urandom(1024))
        os.close(key)
        self._write_configuration()

    def _write_configuration(self) -> None:
        settings = {**slurm_conf(self), **self.settings}
        lines = [f"{key}={value}" for key, value in settings.items()] + nodes_and_partitions(self)
        write(self.conf, "\n".join(lines) + "\n")
        write(self.folder / "cgroup.conf", CGROUP_CONF)
        gres = [f"Name=gpu File={device}" for device in devices(self.gpus)] or ["# no GPUs"]
        write(self.folder / "gres.conf", "\n".join(gres) + "\n")
        write(self.folder / "task_prolog.sh", TASK_PROLOG.format(mark=self.mark, folder=self.folder), 0o755)

    def _start_daemons(self) -> None:
        own = self.folder / "munge"
        self._spawn("munged", [
            find("munged"), "--foreground", "--force", f"--key-file={own}/key", f"--socket={self.munge_socket}",
            f"--pid-file={own}/pid", f"--log-file={self.folder}/log/munged.log", f"--seed-file={own}/seed",
        ])  # fmt: skip
        self._await(self.munge_socket.exists, START_S, "munged")
        self._spawn("slurmctld", [find("slurmctld"), "-D", "-f", str(self.conf)])
        for name in self.node_names:
            self._spawn(name, [find("slurmd"), "-D", "-N", name, "-f", str(self.conf)])
        self._await(self._all_idle, START_S, *self.daemon_names)

    def _spawn(self, name: str, command: list[str]) -> None:
        if name in self.pids():
            raise ClusterError(f"{name} runs already")
        pid_file = self.folder / "run" / f"{name}.pid"
        pid_file.unlink(missing_ok=True)
        log = self.folder / "log" / f"{name}.out"
        key, _, value = self.mark.partition("=")
        subprocess.run(
            [sys.executable, "-I", "-S", __file__, "keep", str(pid_file), str(log), *command],
            env={**plain_environment(), key: value}, cwd=self.folder, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if not until(pid_file.exists, 10, 0.01):
            raise ClusterError(f"{name} did not start:\n{tail(log)}")

    def _await(self, condition: Callable[[], bool], seconds: float, *names: str) -> None:
        """Wait for daemons; the ends of their logs say why they did not come."""

        def settled() -> bool:
            return condition() or bool(set(names) - set(self.pids()))

        if until(settled, seconds) and condition():
            return
        logs = [tail(self.folder / "log" / f"{name}.{end}") for name in names for end in ("log", "out")]
        raise ClusterError("\n".join([f"the cluster in {self.folder} did not come up within {seconds:g} s", *logs]))

    def _all_idle(self) -> bool:
        with contextlib.suppress(ClusterError):
            states = self.node_states()
            return set(states) == set(self.node_names) and set(states.values()) == {"idle"}
        return False

    def _is_back(self, name: str) -> bool:
        with contextlib.suppress(ClusterError):
            return not re.search(r"down|unknown|\*", self.node_states()[name])
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
        with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
            jobs = self.run("squeue", "--noheader", "--format=%A", timeout=10).split()
            if jobs:
                self.run("scancel", *jobs, timeout=10)
                until(lambda: not self.run("squeue", "--noheader", "--format=%A", timeout=10).split(), 8)

    def _end_all(self) -> None:
        """Kill until nothing is left: a process may start another while this looks."""

        def gone() -> bool:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        if not until(gone, 20, 0.05):
            raise ClusterError(f"processes that can't be ended: {sorted(self.processes())}")
        for path in (self.folder / "run").glob("*.pid"):
            path.unlink()


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


def plain_environment() -> dict[str, str]:
    """This process's environment without what another cluster or job has put there."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH_", MARK))}
    return {**kept, "PATH": search_path()}


# ---- the command --------------------------------------------------------------------------------


def start_command(options: argparse.Namespace) -> int:
    cluster = Cluster(options.folder, options.nodes, options.gpus, options.cpus, dict(options.set))
    began = time.monotonic()
    if cluster.start():
        print(f"{cluster.nodes} nodes with {cluster.gpus} GPUs each, up in {time.monotonic() - began:.1f} s. To use it:")
    else:
        print("It runs already. To use it:")
    print(f"  export SLURM_CONF={cluster.conf}")
    return 0


def stop_command(options: argparse.Namespace) -> int:
    print("Stopped." if Cluster(options.folder).stop() else f"Nothing runs in {options.folder}.")
    return 0


def status_command(options: argparse.Namespace) -> int:
    cluster = Cluster(options.folder)
    pids, nodes, up = cluster.pids(), dict[str, str](), cluster.is_up()
    with contextlib.suppress(ClusterError):
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
            command.add_argument("--nodes", type=int, default=3)
            command.add_argument("--gpus", type=int, default=2, help="per node, simulated [2]")
            command.add_argument("--cpus", type=int, default=4, help="per node, whatever the machine has [4]")
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
