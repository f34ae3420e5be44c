"""What SLURM is told and how its answers are read: texts of its programs, and a real one that has the last word."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounds import OBEDIENT, REPO
from slurm_cluster import Cluster, job, wait_for

from modelhub_hpc import config, run, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.config.kinds import SbatchArgument, ShellLine, Walltime, Word, convert
from modelhub_hpc.errors import ModelHubError, UnfitError, UsageError
from modelhub_hpc.executors import scripts
from modelhub_hpc.request import RunRequest
from modelhub_hpc.slurm import Ending, Job, LimitReached, Unreachable, Usage

GOLDEN = REPO / "tests/golden/slurm_worker.sh"
SCRIPT = "#!/bin/sh\ntrue\n"
HOUR = SiteConfig(executor="slurm", time=Walltime("60"))
FULL = SiteConfig(
    runtime="host",
    executor="slurm",
    workers=12,
    threads=4,
    mem_mb=16384,
    partition=Word("gpu,gpu-long"),
    account=Word("radiology"),
    qos=Word("normal"),
    time=Walltime("1-12"),
    gres=Word("gpu:a100:2"),
    constraint=Word("ib&gpu80g"),
    sbatch_args=(SbatchArgument("--exclusive"), SbatchArgument("--comment=it's \"one\" $(run); #5")),
    job_prologue=(ShellLine("module load 'apptainer/1.4'"), ShellLine('export WHERE="$HOME" # 100%')),
    drain_s=90.0,
)
FULL_FLAGS = [
    *("--runtime", "host", "--executor", "slurm", "--workers", "12", "-c", "4", "--mem", "16G", "-p", "gpu,gpu-long"),
    *("-A", "radiology", "--qos", "normal", "-t", "1-12", "--gres", "gpu:a100:2", "-C", "ib&gpu80g"),
    *("--sbatch-arg", "--exclusive", "--sbatch-arg", "--comment=it's \"one\" $(run); #5"),
]
FULL_VARIABLES = {"MH_HPC_JOB_PROLOGUE": "\n".join(FULL.job_prologue), "MH_HPC_DRAIN_S": "90"}

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a program on PATH that answers as one of SLURM would: fake("squeue", says, code=1, words="...")."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))

    def put(program: str, says: str = "", code: int = 0, words: str = "", last: str = "") -> Path:
        path = folder / program
        (folder / f"{program}.says").write_text(says)
        (folder / f"{program}.words").write_text(words)
        path.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > "$0.called"\nenv > "$0.env"\ncat > "$0.read"\n'
            f'cat "$0.says"; cat "$0.words" >&2\n{last}\nexit {code}\n'
        )
        path.chmod(0o755)
        return path

    return put


def beside(program: Path, what: str) -> str:
    return program.with_name(f"{program.name}.{what}").read_text()


@pytest.fixture
def real(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    """The real SLURM as this process finds it; the jobs that a test leaves are ended."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.chdir(tmp_path)
    yield cluster
    ours = [each.id.split("_")[0] for each in slurm.queue("")]
    slurm.cancel(ours)
    wait_for(lambda: not slurm.queue(""), "an empty queue")


def held(*options: str, script: str = SCRIPT) -> str:
    """A job that will not begin."""
    return slurm.submit(["--hold", "--output=/dev/null", *options], script, Path.cwd())


def shown(cluster: Cluster, number: str, field: str) -> str:
    """One of the fields that `scontrol show job` has on a line of its own."""
    match = re.search(rf"^ *{field}=(.*?) *$", cluster.run("scontrol", "show", "job", number), re.MULTILINE)
    assert match is not None, field
    return match[1]


# -- what squeue says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("12|RUNNING|None|node3|mh-a-w1", Job("12", "RUNNING", "None", "node3", "mh-a-w1")),
        ("12|PENDING|Resources||mh-a", Job("12", "PENDING", "Resources", "", "mh-a")),
        ("12|RUNNING|None|n[1-2,7]|mh-a", Job("12", "RUNNING", "None", "n[1-2,7]", "mh-a")),
        ("12_[0-9%4]|PENDING|JobArrayTaskLimit||mh-a", Job("12_[0-9%4]", "PENDING", "JobArrayTaskLimit", "", "mh-a")),
        ("12_7|FAILED|NonZeroExitCode|n1|mh-a", Job("12_7", "FAILED", "NonZeroExitCode", "n1", "mh-a")),
        ("12|PENDING|requeued held||mh-a|b | c", Job("12", "PENDING", "requeued held", "", "mh-a|b | c")),
        ("mh-the second line of a name", None),
        ("mh-a|b|c", None),
        ("", None),
    ],
)
def test_a_line_of_the_queue(fake: Fake, line: str, expected: Job | None) -> None:
    fake("squeue", f"{line}\n13|RUNNING|None|n1|other\n")
    assert slurm.queue() == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        *((state, False) for state in ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "REQUEUED")),
        *((state, False) for state in ("RESIZING", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "REQUEUE_HOLD")),
        *((state, True) for state in ("COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL")),
        *((state, True) for state in ("PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED")),
    ],
)
def test_states_after_which_a_job_is_over(state: str, ended: bool) -> None:
    assert Job("1", state, "", "", "mh-a").ended is ended
    assert ended or state not in slurm.TAKEN_AWAY


def test_only_this_users_jobs_are_asked_for_and_no_variable_changes_the_answer(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake("squeue", "1|RUNNING|None|n1|mh-a\n2|RUNNING|None|n1|mh-b\n")
    for variable in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS", "SBATCH_EXPORT"):
        monkeypatch.setenv(variable, "unusual")
    assert [each.id for each in slurm.queue("mh-b")] == ["2"]
    asked = beside(program, "called").splitlines()
    assert f"--user={config.caller().user}" in asked and "--states=all" not in asked
    assert "unusual" not in beside(program, "env")
    slurm.queue(ended=True)
    assert "--states=all" in beside(program, "called").splitlines()


def test_folders_of_jobs_may_be_called_anything(fake: Fake) -> None:
    program = fake("squeue")
    lines = "mh-a|/runs/a b|c\nmh-b|/runs/\udcff\nother|/home\nno bar\n"
    program.with_name("squeue.says").write_bytes(os.fsencode(lines))
    assert slurm.folders() == {"mh-a": Path("/runs/a b|c"), "mh-b": Path("/runs/\udcff")}


def test_the_queue_of_a_real_slurm(real: Cluster) -> None:
    bars = held("--job-name=mh-t|y")
    lines = held("--job-name=mh-t\nmh-t|z")
    array = held("--job-name=mh-t-a1", "--array=0-9%4")
    held("--job-name=other")
    found = {each.id: each for each in slurm.queue("mh-t")}
    assert found == {
        bars: Job(bars, "PENDING", "JobHeldUser", "", "mh-t|y"),
        lines: Job(lines, "PENDING", "JobHeldUser", "", "mh-t"),
        f"{array}_[0-9%4]": Job(f"{array}_[0-9%4]", "PENDING", "JobHeldUser", "", "mh-t-a1"),
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root's cluster takes jobs of others")
def test_jobs_of_others_on_a_real_slurm(real: Cluster, request: pytest.FixtureRequest) -> None:
    for folder in (real.folder, real.folder.parent):
        request.addfinalizer(functools.partial(folder.chmod, folder.stat().st_mode))
        folder.chmod(0o711)
    theirs = ["sbatch", "--hold", "--chdir=/", "--output=/dev/null", "--job-name=mh-t-w1", "--wrap=true"]
    subprocess.run(theirs, check=True, user="nobody", cwd="/", stdout=subprocess.DEVNULL, timeout=20)
    request.addfinalizer(functools.partial(real.run, "scancel", "--user=nobody"))
    assert real.run("squeue", "--noheader", "--format=%u %j").split() == ["nobody", "mh-t-w1"]
    assert slurm.queue() == []


def test_a_job_of_a_real_slurm_until_it_is_forgotten(real: Cluster) -> None:
    number = held("--job-name=mh-u")
    found = slurm.look_up(number)
    assert found == Job(number, "PENDING", "JobHeldUser", "", "mh-u")
    slurm.cancel([number])
    wait_for(lambda: not slurm.queue("mh-u"), "no job left")
    found = slurm.look_up(number)
    assert found is not None and found.state == "CANCELLED" and found.ended
    assert [each.id for each in slurm.queue("mh-u", ended=True)] == [number]
    slurm.cancel([number, "999999"])  # what is over is no error
    assert slurm.look_up("999999") is None
    with pytest.raises(UnfitError, match="Invalid job id specified"):
        slurm.requeue("999999")


# -- what others say --------------------------------------------------------------------------------------------------


def test_partitions_of_a_real_slurm(real: Cluster) -> None:
    main, hi = slurm.partitions()
    assert (main.name, main.default, main.up, hi.name, hi.default) == ("main", True, True, "hi", False)
    assert (main.longest_time, main.default_time, main.nodes, main.cpus) == ("infinite", "1:00:00", 3, 4)
    assert (main.memory_mb, main.gres, main.features, main.exclusive) == (8000, "gpu:2", "", False)
    known = slurm.cluster()
    assert known.name == "testcluster" and re.fullmatch(r"\d+\.\d+\.\d+", known.version)
    assert (known.controller, known.array_size, known.job_count) == ("127.0.0.1", 1001, 10000)
    assert not known.accounting and slurm.usage(["1", "2_3"]) == []


def test_kinds_of_nodes_in_odd_clusters(fake: Fake) -> None:
    fake("sinfo", "cpu|cpu*|up|n/a|1-00:00:00|100|64+|257000+|NO|(null)|avx,ib|x\n"
         "cpu|cpu*|up|n/a|1-00:00:00|4|64|512000|NO|gpu:a100:4(S:0-1)|(null)\n"
         "big|big|down|1:00|infinite|1|256|4000000|EXCLUSIVE|(null)|(null)\n")  # fmt: skip
    kinds = slurm.node_kinds()
    assert [(kind.name, kind.cpus, kind.memory_mb) for kind in kinds[:2]] == [("cpu", 64, 257000), ("cpu", 64, 512000)]
    assert kinds[0].features == "avx,ib|x" and kinds[2].exclusive and not kinds[2].up
    cpu, big = slurm.partitions()
    assert cpu.gres == "gpu:a100:4(S:0-1)" and big.gres == ""  # those with devices stand for a partition


def test_accounts(fake: Fake) -> None:
    program = fake(
        "sacct",
        "7|CANCELLED by 1000|n1|7200|3600|cpu=2,gres/gpu:a100=2,gres/gpu=2|\n7.batch|CANCELLED|n1|7200|3600||10G\n"
        "7.0|COMPLETED|n1|7200|3600||1536M\n8_3|COMPLETED|n2|60|60|cpu=1|\n8_3.batch|COMPLETED|n2|60|60||0\n"
        "9|PENDING|None assigned|0||billing=1|\na line of another kind\n",
    )
    assert slurm.usage(["7", "8_3", "8_4"]) == [
        Usage("7", "CANCELLED", "n1", 2.0, 2.0, 10240),
        Usage("8_3", "COMPLETED", "n2", 1 / 60, 0.0, 0),
        Usage("9", "PENDING", "None assigned", 0.0, 0.0, 0),
    ]
    assert "--jobs=7,8" in beside(program, "called").splitlines()
    fake("sacct", code=1, words="Slurm accounting storage is disabled\n")
    assert slurm.usage(["7"]) == []
    assert slurm.usage([]) == []


STEPD = "slurmstepd-node1: error: "


@pytest.mark.parametrize(
    ("state", "its_log", "why"),
    [
        ("FAILED", f"{STEPD}StepId=3.batch exceeded memory limit (318271488 > 209715200), being killed", "memory"),
        ("FAILED", f"{STEPD}Exceeded job memory limit", "memory"),
        ("FAILED", f"{STEPD}Detected 1 oom_kill event in StepId=3.batch. Some of the tasks have been OOM", "memory"),
        ("", f"work goes on\n{STEPD}Detected 2 oom-kill event(s) in StepId=3.batch.\n", "memory"),
        ("OUT_OF_MEMORY", "", "memory"),
        ("TIMEOUT", "", "time"),
        ("", f"{STEPD}*** JOB 3 ON node1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", "time"),
        ("PREEMPTED", f"{STEPD}*** JOB 3 ON node1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***", "others"),
        ("CANCELLED", f"{STEPD}*** JOB 3 ON node1 CANCELLED AT 2026-01-01T00:00:00 ***", "others"),
        ("NODE_FAIL", "", "others"),
        ("FAILED", "ValueError: 3 GB of memory are not enough", ""),
        ("FAILED", "WARNING case a: killed by SIGKILL (often: out of memory; ask for more with --mem); once more", ""),
        ("COMPLETED", "", ""),
        ("", "", ""),
    ],
)
def test_why_a_job_has_ended(fake: Fake, state: str, its_log: str, why: str) -> None:
    fake("squeue", f"3|{state}|JobLaunchFailure|node1|mh-a-w1\n" if state else "")
    ending = slurm.ending("3", its_log)
    assert ending == Ending("3", state, its_log)
    assert (ending.for_memory, ending.out_of_time, ending.taken_away) == tuple(
        why == each for each in ("memory", "time", "others")
    )


def test_where_slurm_is_silent_the_log_of_a_job_is_all_there_is(fake: Fake) -> None:
    fake("squeue", code=1, words="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    assert slurm.ending("3", "words") == Ending("3", "", "words")
    fake("squeue", code=1, words="slurm_load_jobs error: Invalid job id specified\n")
    assert slurm.ending("3", f"{STEPD}Exceeded job memory limit").for_memory


# -- when SLURM says no -----------------------------------------------------------------------------------------------

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (f"{FAILED}Unable to contact slurm controller (connect failure)", 1, Unreachable),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1, Unreachable),
        (f"{FAILED}Socket timed out on send/recv operation", 1, Unreachable),
        (f"{FAILED}Zero Bytes were transmitted or received", 1, Unreachable),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
         f"{FAILED}Resource temporarily unavailable", 1, LimitReached),
        (f"{FAILED}Resource temporarily unavailable", 1, LimitReached),
        (f"sbatch: error: AssocMaxSubmitJobLimit\n{FAILED}Job violates accounting/QOS policy (job submit limit, "
         "user's size and/or time limits)", 1, LimitReached),
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED}Job violates accounting/QOS policy (job submit limit, "
         "user's size and/or time limits)", 1, LimitReached),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{FAILED}Job violates accounting/QOS policy (job submit "
         "limit, user's size and/or time limits)", 1, UnfitError),
        ("sbatch: error: invalid partition specified: nix\n"
         f"{FAILED}Invalid partition name specified", 1, UnfitError),
        ("sbatch: error: Memory specification can not be satisfied\n"
         f"{FAILED}Requested node configuration is not available", 1, UnfitError),
        (f"{FAILED}Invalid feature specification", 1, UnfitError),
        ("sbatch: error: Invalid generic resource (gres) specification", 1, UnfitError),
        (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", 1, UnfitError),
        (f"{FAILED}Invalid job array specification", 1, UnfitError),
        (f"{FAILED}Invalid account or account/partition combination specified", 1, UnfitError),
        ("sbatch: error: Invalid --time specification", 255, UnfitError),
        ("", 1, UnfitError),
    ],
)  # fmt: skip
def test_what_a_refusal_means(fake: Fake, words: str, code: int, kind: type[ModelHubError]) -> None:
    fake("sbatch", code=code, words=f"{words}\n")
    with pytest.raises(ModelHubError) as caught:
        slurm.submit(["--time=5"], SCRIPT, Path("/"))
    assert type(caught.value) is kind
    for line in words.splitlines():
        assert line.partition("error: ")[2] in str(caught.value)  # its own words are the evidence
    if kind is UnfitError:
        assert re.search("`sbatch --parsable --chdir=/ .* --time=5`", str(caught.value))
    if kind is LimitReached:
        slurm.judge(HOUR)  # jobs can wait
    else:
        with pytest.raises(kind):
            slurm.judge(HOUR)


@pytest.mark.parametrize(
    "words",
    [
        f"{FAILED}Required partition not available (inactive or drain)",
        f"{FAILED}Requested nodes are busy",
        "sbatch: error: Required node not available (down, drained or reserved)",
        f"allocation failure: {FAILED}Required partition not available (inactive or drain)",
    ],
)
def test_what_passes_is_no_reason_to_refuse(fake: Fake, words: str) -> None:
    """--test-only knows only the nodes that are up now; a job that begins later is judged by all of them."""
    program = fake("sbatch", "7\n", words=f"{words}\n", last='case "$*" in *--test-only*) exit 1;; esac')
    cancelled = fake("scancel")
    slurm.judge(HOUR)
    assert "--begin=now+1hour" in beside(program, "called") and beside(cancelled, "called") == "--quiet\n7\n"


@pytest.mark.parametrize("option", [{"account": Word("breakdown")}, {"partition": Word("downtown")}])
def test_what_is_asked_for_does_not_excuse_a_refusal(fake: Fake, option: dict[str, Any]) -> None:
    named = f"sbatch: error: invalid partition specified: {option.get('partition', 'nix')}"
    fake("sbatch", code=1, words=f"{named}\n{FAILED}Invalid partition name specified\n")
    with pytest.raises(UnfitError):
        slurm.judge(dataclasses.replace(HOUR, **option))


def test_the_jobs_of_workers_and_of_the_driver_are_judged(fake: Fake) -> None:
    program = fake("sbatch", last='cp "$0.called" "$0.called.$$"')
    slurm.judge(dataclasses.replace(HOUR, partition=Word("gpu"), controller_partition=Word("cpu")))
    both = {path.read_text() for path in program.parent.glob("sbatch.called.*")}
    assert len(both) == 2 and all("--test-only" in words.splitlines() for words in both)
    assert {"--partition=gpu", "--partition=cpu"} <= set("\n".join(both).splitlines())


def test_sbatch_that_waits_for_room_itself_is_not_waited_for(fake: Fake) -> None:
    words = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
    program = fake("sbatch", words=words, last='echo $$ > "$0.pid"; exec sleep 60')
    with pytest.raises(LimitReached, match="temporarily unable to accept"):
        slurm.submit([], SCRIPT, Path("/"))
    assert not Path(f"/proc/{int(beside(program, 'pid'))}").exists()


def test_a_slow_answer_is_waited_for(fake: Fake) -> None:
    program = fake("sbatch", "7\n", last="sleep 2.5")
    assert slurm.submit([], SCRIPT, Path("/")) == "7"
    assert beside(program, "read") == SCRIPT


def test_a_program_that_says_nothing_is_not_waited_for_forever(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_TIMEOUT_S", 0.5)
    program = fake("squeue", last='echo $$ > "$0.pid"; exec sleep 60')
    with pytest.raises(Unreachable, match="no answer in time|did not answer"):
        slurm.queue()
    assert not Path(f"/proc/{int(beside(program, 'pid'))}").exists()


def test_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnfitError, match="squeue is not on PATH(.|\n)*--executor local"):
        slurm.queue()
    assert not slurm.available() and slurm.usage(["1"]) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--partition=nix"], "invalid partition specified: nix\n.*Invalid partition name specified"),
        (["--mem=99G"], "Memory specification can not be satisfied\n.*Requested node configuration is not available"),
        (["--gres=gpu:7"], "Requested node configuration is not available"),
        (["--gres=fpga:1"], r"Invalid generic resource \(gres\) specification"),
        (["--constraint=nix"], "Invalid feature specification"),
        (["--time=soon"], "Invalid --time specification"),
        (["--array=0-2000"], "Invalid job array specification"),
        (["--exclude=node1,node2,node3"], "Requested node configuration is not available"),
    ],
)
def test_what_a_real_sbatch_refuses(real: Cluster, options: list[str], words: str) -> None:
    with pytest.raises(UnfitError, match=words):  # not held: the resources of those are not judged
        slurm.submit(["--output=/dev/null", "--begin=now+1hour", *options], SCRIPT, Path.cwd())
    assert not slurm.queue("")


def test_a_controller_that_does_not_answer(real: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=19", real.conf.read_text())
    (tmp_path / "slurm.conf").write_text(nobody)
    shutil.copy(real.conf.with_name("gres.conf"), tmp_path)
    calls: list[Callable[[], object]] = [
        slurm.queue, slurm.partitions, slurm.cluster, lambda: slurm.cancel(["1"]), lambda: slurm.requeue("1")
    ]  # fmt: skip
    with monkeypatch.context() as patch, concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        patch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        found = [future.exception() for future in [pool.submit(call) for call in calls]]
    assert [type(each) for each in found] == [Unreachable] * len(calls), found


# -- what SLURM is told -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "options"),
    [
        (SiteConfig(time=Walltime("60")), ["--time=60", "--signal=B:USR2@60"]),
        (FULL, [
            "--partition=gpu,gpu-long", "--account=radiology", "--qos=normal", "--time=1-12", "--mem=32768M",
            "--cpus-per-task=8", "--gres=gpu:a100:2", "--constraint=ib&gpu80g", "--signal=B:USR2@90",
            "--exclusive", "--comment=it's \"one\" $(run); #5",
        ]),
        (SiteConfig(time=Walltime("5"), gpus_per_node=Word("v100:4"), mem_mb=1000, workers_per_job=2), [
            "--time=5", "--mem=2000M", "--gpus-per-node=v100:4", "--signal=B:USR2@60"]),
        (SiteConfig(time=Walltime("5"), gres=Word("gpu:2"), mem_mb=1000, threads=2, sessions_per_gpu=3), [
            "--time=5", "--mem=6000M", "--cpus-per-task=12", "--gres=gpu:2", "--signal=B:USR2@60"]),
        (SiteConfig(time=Walltime("1"), drain_s=300.0), ["--time=1", "--signal=B:USR2@15"]),
        (SiteConfig(time=Walltime("UNLIMITED"), drain_s=300.0), ["--time=UNLIMITED", "--signal=B:USR2@300"]),
    ],
)  # fmt: skip
def test_options_of_worker_jobs(site: SiteConfig, options: list[str]) -> None:
    assert slurm.worker_options(site) == options


@pytest.mark.parametrize(
    ("site", "options"),
    [
        (SiteConfig(time=Walltime("60"), gres=Word("gpu:1"), sbatch_args=(SbatchArgument("--exclusive"),)),
         ["--time=60", "--mem=1024M", "--cpus-per-task=1", "--signal=B:USR2@60"]),
        (dataclasses.replace(FULL, controller_partition=Word("cpu"), controller_time=Walltime("7-0"),
                             controller_mem_mb=2048, controller_sbatch_args=(SbatchArgument("--nice=5"),)),
         ["--partition=cpu", "--account=radiology", "--qos=normal", "--time=7-0", "--mem=2048M", "--cpus-per-task=1",
          "--signal=B:USR2@60", "--nice=5"]),
    ],
)  # fmt: skip
def test_options_of_the_drivers_job(site: SiteConfig, options: list[str]) -> None:
    assert slurm.driver_options(site) == options


def test_a_job_gets_variables_of_its_own_and_its_script_on_stdin(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    program = fake("sbatch", "123;elsewhere\n")
    number = slurm.submit(["--nice=1"], SCRIPT, Path("/a b\nc"), ["MH_JOB_PROLOGUE=x=1\ny='a=b'", "MH_JOB_PYTHON=/p y"])
    assert number == "123"
    output = "--output=/a b\nc/logs/slurm-%j.out"
    assert beside(program, "called") == f"--parsable\n--chdir=/a b\nc\n{output}\n--nice=1\n"
    assert beside(program, "read") == SCRIPT
    environment = beside(program, "env")
    assert "MH_JOB_PROLOGUE=x=1\ny='a=b'\n" in environment and "MH_JOB_PYTHON=/p y\n" in environment
    assert "hunter2" not in environment and "PATH=" in environment


def rounded(seconds: float) -> float:
    """To whole minutes, in which sbatch counts."""
    return seconds if seconds == float("inf") else -(-seconds // 60) * 60


def test_forms_of_a_walltime_mean_what_sbatch_reads(real: Cluster) -> None:
    forms = [
        *("1", "90", "08", "1:30", "0:30", "59:59", "99:99", "4:00:00", "100:00:00", "1:99:99"),
        *("1-0", "0-1", "1-12", "1-99", "2-00:30", "2-00:30:00", "1-1:1:1", "365-0", "UNLIMITED", "infinite"),
    ]
    numbers = {form: held(f"--time={convert(Walltime, form, 'time')}") for form in forms}
    read = {form: config.seconds_of(job(real, number)["TimeLimit"]) for form, number in numbers.items()}
    assert read == {form: rounded(config.seconds_of(form)) for form in forms}


@pytest.mark.parametrize("form", ["1.5", "1h", "2d", "1:2:3:4", ":30", "30:", "soon", "", "1-1:1:1:1"])
def test_walltimes_that_neither_takes(real: Cluster, form: str) -> None:
    with pytest.raises(ValueError, match="walltime as sbatch takes it"):
        convert(Walltime, form, "time")
    if form:
        with pytest.raises(UnfitError, match="Invalid --time specification"):
            held(f"--time={form}")


@pytest.mark.parametrize("form", ["0", "0:0", "-1", "-5", "1-"])
def test_walltimes_of_which_sbatch_makes_something_odd(form: str) -> None:
    with pytest.raises(ValueError, match="walltime as sbatch takes it"):
        convert(Walltime, form, "time")


def test_digits_that_sbatch_does_not_know() -> None:
    with pytest.raises(ValueError, match="walltime as sbatch takes it"):
        convert(Walltime, "\N{ARABIC-INDIC DIGIT FOUR}:00:00", "time")


def test_without_a_walltime_the_limits_are_named(real: Cluster, tmp_path: Path) -> None:
    assert limits_named(None) == ["main (default): no limit", "hi: no limit"]
    real.run("scontrol", "update", "PartitionName=hi", "MaxTime=2-00:00:00")
    assert limits_named("hi") == ["hi: at most 2-00:00:00"]
    real.run("scontrol", "update", "PartitionName=hi", "MaxTime=INFINITE")


def test_the_limits_of_several_partitions_are_named(real: Cluster) -> None:
    assert limits_named("hi,main") == ["main (default): no limit", "hi: no limit"]


def limits_named(partition: str | None) -> list[str]:
    """What a submission without a walltime is told of the partitions."""
    with pytest.raises(UsageError) as caught:
        slurm.worker_options(SiteConfig(executor="slurm", partition=Word(partition) if partition else None))
    first, second, *limits = str(caught.value).splitlines()
    assert first == "How long may a worker job take? Say it with --time (-t), or as 'time' in a configuration file."
    assert second == "Limits of the partitions here:"
    return [limit.strip() for limit in limits]


# -- the script of a worker -------------------------------------------------------------------------------------------


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[[SiteConfig], RunRequest]:
    """A run of the obedient model over one case, which has not begun."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    np.save(inputs / "one.npy", np.frombuffer(b"OK 1", np.uint8))

    def make(site: SiteConfig) -> RunRequest:
        planned = run.plan(run.Asked(str(OBEDIENT), (str(inputs),), site, tmp_path / "run"))
        return dataclasses.replace(planned.run, run_id="20260101-obedient-abcd")

    return make


def plain(script: str) -> str:
    """A script without what differs from one machine, or run, to the next."""
    return re.sub(r"\d{8}-obedient-\w{4}", "20260101-obedient-abcd", script.replace(config.PYTHON, "/venv/bin/python"))


def test_the_script_of_a_worker_is_as_reviewed(request_of: Callable[[SiteConfig], RunRequest]) -> None:
    """MH_TEST_UPDATE_GOLDEN=1 rewrites the script: look at the difference."""
    script = plain(scripts.worker_script(request_of(FULL), "tls://DRIVER:PORT", "mh-20260101-obedient-abcd-w1"))
    if os.environ.get("MH_TEST_UPDATE_GOLDEN"):
        GOLDEN.write_text(script, encoding="utf-8")
    assert script == GOLDEN.read_text(encoding="utf-8")


def dry_run(tmp_path: Path) -> str:
    """The script that --dry-run shows for a run with all options, to a user with this home."""
    command = [sys.executable, "-m", "modelhub_hpc.cli", "submit", "--dry-run", "--json", "--model", str(OBEDIENT)]
    environment = {**os.environ, **FULL_VARIABLES, "PYTHONPATH": str(REPO), "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "--inputs", str(tmp_path / "inputs"), *FULL_FLAGS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return plain(json.loads(done.stdout)["job_script"])


def test_a_dry_run_shows_that_script(
    request_of: Callable[[SiteConfig], RunRequest], real: Cluster, tmp_path: Path
) -> None:
    request_of(FULL)  # for its inputs
    assert dry_run(tmp_path) == GOLDEN.read_text(encoding="utf-8")
    assert not slurm.queue("") and not (tmp_path / "runs").exists()


def test_the_users_configuration_of_dask_is_not_ours(
    request_of: Callable[[SiteConfig], RunRequest], tmp_path: Path
) -> None:
    request_of(FULL)
    theirs = tmp_path / ".config/dask/jobqueue.yaml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(
        "jobqueue: {slurm: {cores: 36, memory: 128GB, queue: theirs, account: theirs, walltime: '02:00:00', "
        "interface: ib7, local-directory: /scratch/theirs, log-directory: theirs, extra: [--lifetime, 55m], "
        "job-extra: [--theirs], job-extra-directives: [--theirs], env-extra: [theirs], job-script-prologue: [theirs], "
        "worker-extra-args: [--theirs], python: theirs, name: theirs, job-cpu: 36, job-mem: 128GB, death-timeout: 3}}\n"
    )
    assert dry_run(tmp_path) == GOLDEN.read_text(encoding="utf-8")
    assert not Path("theirs").exists()


def test_a_backslash_is_refused_since_sbatch_takes_it_for_itself() -> None:
    with pytest.raises(ValueError, match="long argument of sbatch"):
        convert(SbatchArgument, "--comment=a\\b", "sbatch_args")
    with pytest.raises(ValueError, match="a word"):
        convert(Word, "a\\b", "account")


def test_sbatch_and_a_shell_read_the_script_as_it_is_meant(
    request_of: Callable[[SiteConfig], RunRequest], real: Cluster, tmp_path: Path
) -> None:
    none = {"partition": None, "account": None, "qos": None, "constraint": None, "gres": Word("gpu:2")}
    odd = Word("ib0;$(exit)>&2")
    site = dataclasses.replace(FULL, **none, mem_mb=1000, threads=1, interface=odd)  # type: ignore[arg-type]
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$WHERE" "$@" > "$0.called"\n')
    python.chmod(0o755)
    script = scripts.worker_script(request_of(site), "tls://driver:1", "mh-20260101-obedient-abcd-w1")
    number = slurm.submit(["--hold", "--job-name=mh-script"], script, tmp_path)
    assert shown(real, number, "Comment") == "it's \"one\" $(run); #5"
    found = job(real, number)
    assert (found["TimeLimit"], found["MinMemoryNode"], found["Requeue"]) == ("1-12:00:00", "2000M", "0")
    assert found["TresPerNode"] == "gres:gpu:2" and found["CPUs/Task"] == "2"
    assert found["StdOut"] == f"{tmp_path}/logs/slurm-{number}.out" == found["StdErr"]
    # as bash runs it, up to the worker itself
    modules = 'module() { :; }\n' + script.replace(shlex.quote(config.PYTHON), str(python))
    subprocess.run(["bash", "-eu"], input=modules, text=True, check=True, env={"HOME": "/h", "PATH": os.defpath})
    words = (tmp_path / "python.called").read_text().splitlines()
    assert words[:4] == ["/h", "-m", "modelhub_hpc.executors.worker", "tls://driver:1"]
    assert words[words.index("--name") + 1] == "mh-20260101-obedient-abcd-w1"
    assert words[words.index("--interface") + 1] == odd
    assert not list(tmp_path.glob("*run*/"))
