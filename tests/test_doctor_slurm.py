"""What `mh-hpc doctor` says of SLURM and of a node, on a real SLURM, and on one of which something is broken."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, StartCluster, wait_for

from modelhub_hpc import __version__, config, doctor
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.doctor import Check, exchange, ports, probe, verdict
from modelhub_hpc.doctor.exchange import Asked, Devices, Found, Knock, Met, Place, Talk
from modelhub_hpc.doctor.verdict import Seen

PROGRAM = [sys.executable, "-m", "modelhub_hpc.cli", "doctor"]
# the nodes of a test cluster are this machine, which may have no Apptainer; its GPUs are none
PLAIN = ("--runtime", "host", "--gpu", "off")


class Doctor:
    """The command, as a user of a cluster would call it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        own = {"MH_HPC_CACHE_DIR": str(folder.parent / "cache"), "MH_HPC_SCRATCH_DIR": str(folder.parent)}
        self.environment = {**os.environ, **cluster.environment(), **own}

    def __call__(self, *arguments: str, plain: tuple[str, ...] = PLAIN, **variables: str) -> tuple[int, dict[str, Any]]:
        """The exit code, and the checks by name."""
        done = subprocess.run(
            [*PROGRAM, "--json", *plain, *arguments],
            env={**self.environment, **variables}, cwd=self.folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return done.returncode, {each["name"]: Check(**each) for each in json.loads(done.stdout)["checks"]}

    def left(self) -> list[str]:
        """What there is of jobs and folders of a doctor."""
        jobs = self.cluster.run("squeue", "--noheader", "--format=%j").split()
        return [job for job in jobs if "doctor" in job] + os.listdir(self.folder)


@pytest.fixture
def call(cluster: Cluster, tmp_path: Path) -> Iterator[Doctor]:
    folder = tmp_path / "a folder; with $(touch x) in its name"
    folder.mkdir()
    yield (made := Doctor(cluster, folder))
    assert not made.left()


@contextlib.contextmanager
def on_every_node(cluster: Cluster, variable: str) -> Iterator[None]:
    """What jobs find in their environment on the nodes of a cluster."""
    files = [cluster.folder / f"environment.{node}" for node in cluster.shape.node_names]
    for file in files:
        file.write_text(f"export {variable}\n")
    yield
    for file in files:
        file.unlink()


@pytest.fixture
def busy(cluster: Cluster) -> Iterator[None]:
    """All GPUs of the cluster are in use."""
    script = ["sbatch", "--parsable", "--output=/dev/null", "--gres=gpu:2", "--time=10", "--wrap=sleep 600"]
    jobs = [cluster.run(*script).strip() for _ in cluster.shape.node_names]
    running = ["squeue", "--noheader", "--states=RUNNING", f"--jobs={','.join(jobs)}"]
    wait_for(lambda: len(cluster.run(*running).splitlines()) == len(jobs), "the jobs that keep the GPUs")
    yield
    cluster.run("scancel", *jobs)
    wait_for(lambda: not cluster.run("squeue", "--noheader"), "the end of the jobs that keep the GPUs")


# ---- what SLURM says


def test_what_slurm_says(call: Doctor) -> None:
    code, checks = call("--executor", "slurm", "--time", "4:00:00", "--gres", "gpu:1")
    assert code == 0
    names = ["SLURM", "accounting", "partitions", "partition", "worker jobs", "driver's job", "numbers of jobs"]
    assert list(checks)[-len(names) :] == names
    assert "cluster testcluster" in checks["SLURM"].detail
    assert (checks["accounting"].ok, "runs work without" in checks["accounting"].detail) == (None, True)
    assert "main (default, no time limit): 3 nodes of 4 CPUs, 8000M, gpu:2; hi" in checks["partitions"].detail
    assert checks["partition"].detail == "main is up, time 4:00:00"
    assert "--time=4:00:00 --gres=gpu:1" in checks["worker jobs"].detail
    assert "1001 tasks in an array" in checks["numbers of jobs"].detail


def test_a_partition_that_does_not_exist(call: Doctor) -> None:
    code, checks = call("--executor", "slurm", "--partition", "nope")
    assert code == 5
    assert "invalid partition specified: nope" in checks["worker jobs"].detail
    assert "one of main, hi" in checks["partition"].mend


def test_a_partition_that_is_down(call: Doctor, cluster: Cluster) -> None:
    cluster.set_partition("hi", "DOWN")
    try:
        code, checks = call("--executor", "slurm", "--partition", "main,hi")
        assert code == 5
        assert (checks["partition"].ok, checks["partition"].detail) == (False, "hi is not up: its jobs do not start")
        code, checks = call("--partition", "hi")
        assert (code, checks["partition"].ok) == (0, None)
        assert checks["partition"].detail.endswith("(not needed: --executor local)")
    finally:
        cluster.set_partition("hi", "UP")


def test_a_time_that_the_partition_does_not_allow(call: Doctor, cluster: Cluster) -> None:
    cluster.run("scontrol", "update", "PartitionName=hi", "MaxTime=10")
    try:
        code, checks = call("--executor", "slurm", "--partition", "hi", "--time", "11")
        assert code == 5
        assert checks["partition"].detail == "a time of 11 is longer than hi allows: 10:00"
        assert call("--executor", "slurm", "--partition", "hi", "--time", "10")[0] == 0
    finally:
        cluster.run("scontrol", "update", "PartitionName=hi", "MaxTime=INFINITE")


def test_more_than_any_node_has(call: Doctor) -> None:
    code, checks = call("--executor", "slurm-array", "--gres", "gpu:7")
    assert code == 5
    assert "Requested node configuration is not available" in checks["worker jobs"].detail
    assert "driver's job" not in checks


def test_a_cluster_without_arrays(start_cluster: StartCluster, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    call = Doctor(start_cluster(nodes=1, settings={"MaxArraySize": "0"}), tmp_path / "f")
    code, checks = call("--executor", "slurm-array")
    assert (code, checks["numbers of jobs"].mend) == (5, "use --executor slurm")


def test_slurm_that_does_not_answer(start_cluster: StartCluster, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    cluster = start_cluster(nodes=1, settings={"MessageTimeout": "2"})
    call = Doctor(cluster, tmp_path / "f")
    cluster.kill_controller()
    code, checks = call("--node")
    assert code == 5
    assert checks["SLURM"].ok is False and "Unable to contact slurm controller" in checks["SLURM"].detail
    assert (checks["job on a node"].ok, os.listdir(call.folder)) == (None, [])
    assert call()[0] == 0


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = {each.name: each for each in doctor.checks(SiteConfig(runtime="host", scratch_dir=tmp_path))}
    assert (checks["SLURM"].ok, checks["SLURM"].detail) == (None, "not on this machine")
    checks = {each.name: each for each in doctor.checks(SiteConfig(runtime="host", executor="slurm"))}
    assert checks["SLURM"].ok is False and "module load slurm" in checks["SLURM"].mend


# ---- a job on a node


def test_a_node_that_is_well(call: Doctor) -> None:
    code, checks = call("--node", "--gres", "gpu:2", "--controller", "login")
    assert code == 0
    node = next(name for name in checks if name.startswith("node")).split(":")[0]
    names = ["shared folder", "file modes", "hard links", "clock", "port of this host", "port of the node", "Python"]
    assert all(checks[f"{node}: {name}"].ok for name in (*names, "GPUs of the job", "machine"))
    assert "127.0.0.1" in checks[f"{node}: port of this host"].detail
    assert __version__ in checks[f"{node}: Python"].detail
    assert "CUDA_VISIBLE_DEVICES=0,1" in checks[f"{node}: GPUs of the job"].detail
    assert "0.0 s" in checks[f"{node}: clock"].detail


def test_a_node_without_apptainer(call: Doctor, cluster: Cluster) -> None:
    if not shutil.which("apptainer"):
        pytest.skip("needs Apptainer")
    with on_every_node(cluster, "PATH=/nonexistent"):
        code, checks = call("--node", plain=("--gpu", "off"))
    assert code == 5
    assert checks["Apptainer"].ok
    (missing,) = [each for name, each in checks.items() if name.endswith(": Apptainer")]
    assert (missing.ok, "module load apptainer" in missing.mend) == (False, True)


def test_a_node_whose_python_does_not_start(call: Doctor, cluster: Cluster) -> None:
    with on_every_node(cluster, "PYTHONHOME=/nonexistent"):
        code, checks = call("--node")
    assert code == 5
    assert "did not get to its work on node" in checks["job on a node"].detail
    assert "ModuleNotFoundError" in checks["job on a node"].detail


def test_a_prologue_that_fails(call: Doctor) -> None:
    code, checks = call("--node", MH_HPC_JOB_PROLOGUE="echo welcome\ncd /nonexistent || exit 4")
    assert code == 5
    assert "welcome" in checks["job on a node"].detail
    assert "cd: /nonexistent: No such file or directory" in checks["job on a node"].detail


def test_a_prologue_that_prepares(call: Doctor, cluster: Cluster) -> None:
    with on_every_node(cluster, "PYTHONHOME=/nonexistent"):
        assert call("--node", MH_HPC_JOB_PROLOGUE="unset PYTHONHOME")[0] == 0


def test_gpus_that_the_job_does_not_get(call: Doctor, cluster: Cluster) -> None:
    with on_every_node(cluster, "CUDA_VISIBLE_DEVICES=1"):
        code, checks = call("--node", "--gres", "gpu:2")
    assert code == 5
    (check,) = [each for name, each in checks.items() if name.endswith("GPUs of the job")]
    assert (check.ok, "2 asked for; CUDA_VISIBLE_DEVICES=1;" in check.detail) == (False, True)


def test_options_that_slurm_refuses(call: Doctor) -> None:
    code, checks = call("--node", "--partition", "nope")
    assert code == 5
    assert "invalid partition specified: nope" in checks["job on a node"].detail


def test_an_interface_that_does_not_exist(call: Doctor) -> None:
    code, checks = call("--node", "--interface", "ib7")
    assert code == 5
    assert "The network interface ib7 does not exist here" in checks["job on a node"].detail


@pytest.fixture
def alone(tmp_path: Path) -> list[str]:
    """Runs a command that sees a file system on `mine` which no other process does, and in it `python`."""
    (tmp_path / "mine").mkdir()
    # mounted as root of a namespace, within which munge wants this user to be who it is
    inner = f"unshare --user --map-user={os.getuid()} --map-group={os.getgid()}" if os.getuid() else ""
    script = f'mount -t tmpfs none "$0" && ln -s {sys.executable} "$0/python" && exec {inner} "$@"'
    outer = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(tmp_path / "mine")]
    if subprocess.run([*outer, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    return outer


def test_a_python_that_the_node_does_not_have(call: Doctor, alone: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*alone, str(tmp_path / "mine/python"), *PROGRAM[1:], "--json", *PLAIN, "--node"],
        env={**call.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=call.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    last = json.loads(done.stdout)["checks"][-1]
    assert last["name"] == "job on a node" and "did not get to its work on node" in last["detail"]
    assert last["detail"].endswith("mine/python: No such file or directory")
    assert "its Python have to lie on a file system that the nodes share" in last["mend"]


def test_a_folder_that_the_node_does_not_see(call: Doctor, alone: list[str], tmp_path: Path) -> None:
    # as soon as the job has ended: NFS, which may show files late, is not what is tried here
    code = "import sys; from modelhub_hpc import cli; from modelhub_hpc.doctor import node; node.VISIBLE_S = 3.0; "
    program = [sys.executable, "-c", f"{code}sys.exit(cli.main(sys.argv[1:]))", "doctor", "--json", *PLAIN]
    done = subprocess.run(
        [*alone, *program, "--node", "--folder", str(tmp_path / "mine")],
        env=call.environment, cwd=call.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    last = json.loads(done.stdout)["checks"][-1]
    assert last["name"].endswith(": shared folder") and last["ok"] is False
    assert f"nothing that it wrote into {tmp_path / 'mine'} is seen here" in last["detail"]
    assert "--folder" in last["mend"] and "--outdir" in last["mend"]


@pytest.mark.usefixtures("busy")
def test_a_job_that_does_not_start_in_time(call: Doctor) -> None:
    code, checks = call("--node", "--gres", "gpu:1", "--wait", "3")
    assert code == 5
    assert "still waits after 3 s" in checks["job on a node"].detail
    assert checks["job on a node"].detail.endswith(("PENDING, Resources", "PENDING, Priority"))
    assert "--wait" in checks["job on a node"].mend


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_whoever_ends_it_leaves_nothing(call: Doctor, number: int, code: int) -> None:
    process = subprocess.Popen(
        [*PROGRAM, *PLAIN, "--node", "--gres", "gpu:1"],
        env=call.environment, cwd=call.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(call.left()) == 2, "the job and its folder")
    process.send_signal(number)
    assert process.wait(60) == code
    assert "Looking at a node" in process.communicate()[1]


@pytest.mark.usefixtures("busy")
def test_what_one_that_was_killed_left_is_removed(call: Doctor, cluster: Cluster) -> None:
    command = [*PROGRAM, *PLAIN, "--node", "--gres", "gpu:1"]
    process = subprocess.Popen(
        command, env=call.environment, cwd=call.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: len(call.left()) == 2, "the job and its folder")
    process.kill()
    process.wait()
    assert len(call.left()) == 2
    cluster.run("scancel", f"--name={call.left()[0]}")
    assert call("--node")[0] == 0


def test_a_folder_that_cannot_be_written(call: Doctor) -> None:
    code, checks = call("--node", "--folder", "/proc/self/fd")
    assert code == 5
    assert checks["job on a node"].detail.startswith("No folder can be made in /proc/self/fd: ")


def test_a_folder_that_is_not_there(call: Doctor) -> None:
    done = subprocess.run([*PROGRAM, "--node", "--folder", "/nonexistent"], env=call.environment, capture_output=True)
    assert (done.returncode, b"/nonexistent" in done.stderr) == (2, True)


# ---- what is made of it, where a cluster for it cannot be had


PLACE = Place("10.0.0.1", 4711)
OTHER = Place("10.9.0.1", 4712, "ib0")
REACHED = Knock(PLACE, "", 0.1, 0.01)
ASKED = Asked("t", [PLACE], "head", {}, None, "3.11.7", "1.0")
MET = Met("n1", "ada", "3.11.7", "/sw/bin/python", "1.0", "t", [PLACE], {})
WELL = Seen(MET, "", [REACHED], Talk(0.2, 0.0, [REACHED]), Found(Devices(None, None)))


def judged(
    site: SiteConfig = SiteConfig(controller="login"), here: tuple[Check, ...] = (), **other: Any
) -> dict[str, Check]:
    """The checks of what was seen, where some of it differs from what is well."""
    of_met = {name: other.pop(name) for name in ("python", "version", "troubles") if name in other}
    met = dataclasses.replace(MET, **of_met)
    found = verdict.judge(site, ASKED, dataclasses.replace(WELL, met=met, **other), here)
    return {each.name.removeprefix("n1: "): each for each in found}


def test_all_is_well() -> None:
    assert {each.ok for each in judged().values()} == {True, None}
    assert [name for name, each in judged().items() if each.ok is None] == ["GPUs of the job"]


def test_files_that_go_one_way_only() -> None:
    check = judged(talk=Talk(None, 0.0, [REACHED]))["shared folder"]
    assert (check.ok, "is not seen there" in check.detail) == (False, True)
    assert judged(talk=None, found=None)["shared folder"].ok is False


def test_modes_that_are_not_kept() -> None:
    check = judged(troubles={"modes": "the file has mode 0777 and owner 65534, not 0600 and 1000"})["file modes"]
    assert (check.ok, "0777 and owner 65534, not 0600 and 1000 there (ada)" in check.detail) == (False, True)
    assert judged(file_trouble="the file has mode 0644 ...")["file modes"].ok is False


def test_hard_links_are_not_everything() -> None:
    check = judged(troubles={"links": "Operation not permitted"})["hard links"]
    assert (check.ok, "Operation not permitted" in check.detail) == (None, True)


@pytest.mark.parametrize("ahead_s, ok", [(0.5, True), (-1.9, True), (3.0, None), (-30.0, None), (90.0, False)])
def test_clocks_that_differ(ahead_s: float, ok: bool | None) -> None:
    """The most exact look counts: the files' is off by a minute."""
    knock = Knock(PLACE, "", ahead_s, 0.01)
    check = judged(knocks=[knock], talk=Talk(120.0, 60.0, [dataclasses.replace(REACHED, trouble="timed out")]))["clock"]
    side = "ahead of" if ahead_s > 0 else "behind"
    assert (check.ok, check.detail) == (ok, f"{abs(ahead_s):.1f} s {side} this host's, give or take 0.0 s")


def test_clocks_by_files_alone() -> None:
    silent = [Knock(PLACE, "timed out")]
    check = judged(knocks=silent, talk=Talk(4.0, -7.0, silent))["clock"]
    assert (check.ok, check.detail) == (None, "7.0 s ahead of this host's, give or take 2.0 s")
    assert judged(knocks=silent, talk=None)["clock"].ok is None


def test_ports_that_are_closed() -> None:
    closed = [Knock(PLACE, "timed out"), Knock(OTHER)]
    checks = judged(knocks=closed, talk=Talk(0.2, 0.0, closed[:1]))
    there, here = checks["port of this host"], checks["port of the node"]
    assert (here.ok, here.mend) == (False, "--interface ib0, or 'interface' in mh-hpc.yaml")
    assert here.detail == (
        "from here: 10.0.0.1 port 4711 is not reached (timed out), 10.9.0.1 port 4712 is reached"
    )
    assert (there.ok, "--controller job" in there.mend) == (False, True)
    spared = judged(SiteConfig(), knocks=closed)["port of the node"]
    assert (spared.ok, spared.detail.endswith("(not needed: the driver runs in a job)")) == (None, True)


def test_another_python_and_another_version() -> None:
    check = judged(python="3.10.1", version="0.9")["Python"]
    assert (check.ok, check.detail) == (
        False, "Python 3.10.1, modelhub_hpc 0.9, but here Python 3.11.7, modelhub_hpc 1.0"
    )  # fmt: skip


def test_what_is_worse_there_than_here() -> None:
    there = [Check("/dev/fuse", None, "none"), Check("GPU", None, "none"), Check("memory", False, "none", "buy some")]
    found = Found(Devices(None, None), [dataclasses.asdict(each) for each in there])
    checks = judged(found=found, here=(Check("/dev/fuse", True, "ok"), Check("GPU", None, "none")))
    assert [checks.get(name) for name in ("/dev/fuse", "GPU", "machine")] == [
        Check("n1: /dev/fuse", None, "none"), None, None
    ]  # fmt: skip
    assert checks["memory"] == Check("n1: memory", False, "none", "buy some")


def test_gpus_asked_for_and_seen() -> None:
    site = SiteConfig(gpus_per_node="a100:2")

    def gpus(visible: str | None, listed: list[str] | None) -> bool | None:
        return judged(site, found=Found(Devices(visible, listed)))["GPUs of the job"].ok

    assert [gpus("0,1", ["GPU 0", "GPU 1"]), gpus("MIG-a,MIG-b", ["GPU 0"]), gpus("0,1", None)] == [True] * 3
    assert [gpus("0", None), gpus("NoDevFiles", None), gpus("0,1", []), gpus("", None)] == [False] * 4
    assert gpus(None, ["GPU 0", "GPU 1"]) is None


def test_ports_of_somebody_else() -> None:
    """Nobody there, somebody who says something else, and somebody who says nothing sensible."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = Place("127.0.0.1", closed.getsockname()[1])
    assert "refused" in ports.knock_at([gone], "t")[0].trouble
    with ports.answering([Place("127.0.0.1", 0, "lo"), Place("192.0.2.77", 0)], "t") as opened:
        assert [(each.address, each.interface) for each in opened] == [("127.0.0.1", "lo")]
        good, wrong = ports.knock_at(opened, "t")[0], ports.knock_at(opened, "other")[0]
        assert (good.trouble, wrong.trouble) == ("", "somebody else answers there")
        assert [each.trouble for each in ports.knock_at([gone, *opened], "t")][1:] == [""]
    with socket.create_server(("127.0.0.1", 0)) as server:
        guest = threading.Thread(target=lambda: server.accept()[0].close())
        guest.start()
        assert ports.knock_at([Place("127.0.0.1", server.getsockname()[1])], "t")[0].trouble
        guest.join()


def test_files_of_the_exchange_and_who_may_use_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o2700)  # as below a folder of a group
    assert exchange.get(tmp_path, Talk) is None
    talk = Talk(None, 0.5, [REACHED])
    file = exchange.put(tmp_path, talk)
    assert exchange.get(tmp_path, Talk) == talk
    asked = dataclasses.replace(ASKED, site=config.to_json(SiteConfig(mem_mb=7)))
    exchange.put(tmp_path, asked)
    assert exchange.get(tmp_path, Asked) == asked
    assert probe.modes(tmp_path, file) == ""
    file.chmod(0o644)
    assert probe.modes(tmp_path, file).startswith("the file has mode 0644")
