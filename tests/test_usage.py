"""What a run used, by what sacct of SLURM 22.05 says: its answers here are literal, but for fewer tasks and workers."""

import os
from pathlib import Path

import pytest
from shardkit import paths

from modelhub_hpc import finish, slurm
from modelhub_hpc.driver import note_job
from modelhub_hpc.record import RunPaths

__all__ = ["paths"]

# An array while one of its tasks waits to be started anew, and another has been cancelled
ARRAY = """\
42_0|REQUEUED|node1|5|5|billing=1,cpu=1,gres/gpu=2,mem=200M,node=1|
42_0.batch|CANCELLED|node1|5|5|cpu=1,gres/gpu=2,mem=200M,node=1|117252K
42_1|CANCELLED by 0|node2|5|5|billing=1,cpu=1,gres/gpu=2,mem=200M,node=1|
42_1.batch|CANCELLED|node2|5|5|cpu=1,gres/gpu=2,mem=200M,node=1|117344K
42_0|PENDING|None assigned|0|0||
"""
# The tables are written, and the workers are about to leave: the step has ended before its job
LEAVING = """\
2|RUNNING|node1|15|15|billing=1,cpu=1,mem=1G,node=1|
2.batch|RUNNING|node1|15|15|cpu=1,mem=1G,node=1|
3|COMPLETED|node1|12|12|billing=1,cpu=1,gres/gpu=1,mem=1G,node=1|
3.batch|COMPLETED|node1|12|12|cpu=1,gres/gpu=1,mem=1G,node=1|196588K
4|RUNNING|node1|12|12|billing=1,cpu=1,gres/gpu=1,mem=1G,node=1|
4.batch|COMPLETED|node1|12|12|cpu=1,gres/gpu=1,mem=1G,node=1|197004K
"""
GONE = LEAVING.replace("4|RUNNING", "4|COMPLETED")
# An array that is over, with a task that was started twice, and the job that followed it
FOLLOWED = """\
52_11|REQUEUED|node3|1|1|billing=1,cpu=1,gres/gpu=1,mem=1G,node=1|
52_11.batch|CANCELLED|node3|1|1|cpu=1,gres/gpu=1,mem=1G,node=1|31932K
52_11|COMPLETED|node1|3|3|billing=1,cpu=1,gres/gpu=1,mem=1G,node=1|
52_11.batch|COMPLETED|node1|3|3|cpu=1,gres/gpu=1,mem=1G,node=1|135380K
52_8|COMPLETED|node1|3|3|billing=1,cpu=1,gres/gpu=1,mem=1G,node=1|
52_8.batch|COMPLETED|node1|3|3|cpu=1,gres/gpu=1,mem=1G,node=1|129M
53|RUNNING|node1|1|1|billing=1,cpu=1,mem=1G,node=1|
53.batch|RUNNING|node1|1|1|cpu=1,mem=1G,node=1|
"""
S = 1 / 3600  # an hour's part


class Sacct:
    """A sacct on PATH that gives these answers one after the other, the last for ever."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "sacct"
        program.write_text(
            f'#!/bin/sh\ncd {folder}\nprintf "%s\\n" "$@" >> asked\nset -- [0-9]*\ncat "$1" && [ $# = 1 ] || rm "$1"\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
        monkeypatch.setattr(finish, "_PAUSES_S", (0, 0, 0, 0))

    def answers(self, *texts: str) -> None:
        for number, text in enumerate(texts):
            (self.folder / str(number)).write_text(text)

    @property
    def asked(self) -> list[str]:
        """The jobs of each question."""
        words = (self.folder / "asked").read_text().splitlines()
        return [word.removeprefix("--jobs=") for word in words if word.startswith("--jobs=")]


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sacct:
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    return Sacct(tmp_path / "bin", monkeypatch)


def note(paths: RunPaths, **kinds: str) -> None:
    for kind, ids in kinds.items():
        for job_id in ids.split():
            note_job(paths, job_id, kind, "mh-x")


def test_what_a_task_had_used_before_it_was_started_anew_counts() -> None:
    again, cancelled = slurm.parse_usage(ARRAY)
    assert (again.id, again.state, again.ended, again.peak_mb) == ("42_0", "PENDING", False, 115)
    assert (again.cpu_hours, again.gpu_hours) == pytest.approx((5 * S, 10 * S))
    assert (cancelled.id, cancelled.state, cancelled.ended, cancelled.node) == ("42_1", "CANCELLED", True, "node2")


def test_workers_that_are_leaving_are_given_time(paths: RunPaths, sacct: Sacct) -> None:
    note(paths, driver="2", worker="3 4")
    sacct.answers(LEAVING, LEAVING, GONE)
    (driver, *workers), used = finish.jobs_of(paths, patient=True)
    assert sacct.asked == ["2,3,4"] * 3
    # of the driver itself there is no more to know yet, and no peak
    assert driver["kind"] == "driver"
    assert (driver["used"]["state"], driver["used"]["peak_mb"], driver["used"]["gpu_hours"]) == ("RUNNING", None, None)
    assert driver["used"]["cpu_hours"] == pytest.approx(15 * S)
    assert [(worker["used"]["state"], worker["used"]["peak_mb"]) for worker in workers] == [
        ("COMPLETED", 192),
        ("COMPLETED", 193),
    ]
    assert used == pytest.approx({"cpu_hours": 39 * S, "gpu_hours": 24 * S, "peak_mb": 193})


@pytest.mark.parametrize(("patient", "times"), [(True, 5), (False, 1)])
def test_nobody_waits_for_long(paths: RunPaths, sacct: Sacct, patient: bool, times: int) -> None:
    note(paths, driver="2", worker="3 4 5")
    sacct.answers(LEAVING)
    jobs, _ = finish.jobs_of(paths, patient)
    assert len(sacct.asked) == times
    assert [job["used"] and job["used"]["state"] for job in jobs] == ["RUNNING", "COMPLETED", "RUNNING", None]


def test_an_array_has_used_what_its_tasks_have(
    paths: RunPaths, sacct: Sacct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "53")
    note(paths, array="52", driver="53")
    sacct.answers(FOLLOWED)
    (array, _), used = finish.jobs_of(paths, patient=True)
    assert (array["used"].pop("state"), array["used"].pop("node")) == ("COMPLETED", "node1")
    assert array["used"] == pytest.approx({"cpu_hours": 7 * S, "gpu_hours": 7 * S, "peak_mb": 133})
    assert used == pytest.approx({"cpu_hours": 8 * S, "gpu_hours": 7 * S, "peak_mb": 133})
    assert len(sacct.asked) == 1


def test_without_accounts_nothing_is_said_of_use(paths: RunPaths, sacct: Sacct) -> None:
    note(paths, driver="2", worker="3")
    sacct.answers("")
    jobs, used = finish.jobs_of(paths, patient=True)
    assert used is None and [job["used"] for job in jobs] == [None, None] and len(sacct.asked) == 1


def test_gpus_that_a_cluster_does_not_count_are_not_said_to_be_none(paths: RunPaths, sacct: Sacct) -> None:
    # AccountingStorageTRES has no gres/gpu, unless a site adds it
    note(paths, driver="2", worker="3 4")
    sacct.answers(GONE.replace("gres/gpu=1,", ""))
    _, used = finish.jobs_of(paths, patient=True)
    assert used is not None and used["gpu_hours"] is None and used["cpu_hours"] == pytest.approx(39 * S)


def test_sacct_is_asked_for_as_many_jobs_as_fit_its_command(sacct: Sacct) -> None:
    sacct.answers(GONE)
    slurm.usage(map(str, range(40_000_000, 40_002_500)))
    assert [len(jobs.split(",")) for jobs in sacct.asked] == [1000, 1000, 500]
