"""What the supervisor of a run decides, look by look; SLURM is a program on PATH that prints what a test wrote."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from modelhub_hpc import config, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.config.kinds import Word
from modelhub_hpc.errors import TryAgainError, UnfitError
from modelhub_hpc.executors.supervisor import MAX_FAILED_STARTS, Hands, Supervisor, targets

RUN = "net-ab"
SIX = SiteConfig(executor="slurm", workers=6)
ONE_TO_SIX = dataclasses.replace(SIX, min_workers=1)
TWO_PER_JOB = dataclasses.replace(SIX, workers_per_job=2)
PROGRAM = """#!/bin/sh
echo "$*" >> "$0.calls"
[ -e "$0.refuses" ] && { cat "$0.refuses" >&2; exit 1; }
[ -e "$0.says" ] && cat "$0.says"
exit 0
"""
SILENCE = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


def name(number: int) -> str:
    return f"mh-{RUN}-w{number}"


class Lab:
    """A supervisor without its thread, and all that it sees: SLURM's jobs, and the workers that are connected.

    jobs: state by name; there: node by worker; answers: what the next calls of sbatch raise; takes: whether it took
    the jobs of which it does not say.
    """

    def __init__(self, folder: Path, site: SiteConfig = SIX, chunks: int = 99) -> None:
        self.folder = folder
        self.jobs: dict[str, str] = {}
        self.there: dict[str, str] = {}
        self.busy: set[str] = set()
        self.submitted: list[tuple[str, tuple[str, ...]]] = []
        self.told: list[str] = []
        self.answers: list[Exception | None] = []
        self.takes = True
        self.noted: list[tuple[str, str]] = []
        words = "words of {}".format
        hands = Hands(self._submit, self._note, lambda: dict(self.there), self._idle, self._leave, words)
        self.its = Supervisor(site, RUN, hands, chunks=chunks)

    def _note(self, job_id: str, job: str) -> None:
        self.noted.append((job_id, job))

    def _submit(self, job: str, keep_off: tuple[str, ...]) -> str:
        answer = self.answers.pop(0) if self.answers else None
        self.submitted.append((job, keep_off))
        if answer is None or (self.takes and isinstance(answer, slurm.Unreachable)):
            self.jobs[job] = "PENDING"
        if answer is not None:
            raise answer
        return self.number(job)

    def _idle(self) -> set[str]:
        return set(self.there) - self.busy

    def _leave(self, workers: set[str]) -> None:
        self.told += sorted(workers)

    # -- what SLURM does

    @staticmethod
    def number(job: str) -> str:
        return str(100 + int(job.rpartition("w")[2]))

    def starts(self, *numbers: int, node: str = "node1") -> None:
        """Jobs begin, and their workers connect."""
        self.jobs |= {name(number): "RUNNING" for number in numbers}
        self.there |= {name(number): node for number in numbers}

    def ends(self, *numbers: int, state: str = "FAILED") -> None:
        """Jobs end, and their workers are gone; squeue shows them a while longer."""
        for number in numbers:
            self.jobs[name(number)] = state
            self.there.pop(name(number), None)

    def forgets(self, *numbers: int) -> None:
        """SLURM has jobs no more, whatever their processes do."""
        for number in numbers:
            del self.jobs[name(number)]

    def breaks(self, program: str, words: str = SILENCE) -> None:
        (self.folder / f"{program}.refuses").write_text(words)

    def mends(self, program: str) -> None:
        (self.folder / f"{program}.refuses").unlink()

    # -- what the supervisor does

    def tell(self) -> None:
        lines = (f"{self.number(job)}|{state}|Priority|node1|{job}\n" for job, state in self.jobs.items())
        part = self.folder / "part"
        part.write_text("".join(lines))
        part.replace(self.folder / "squeue.says")  # whole, since a thread may be reading

    def look(self, times: int = 1) -> list[int]:
        """Have it look; the numbers of the jobs that it submitted."""
        before = len(self.submitted)
        for _ in range(times):
            self.tell()
            self.its.look()
        return [int(job.rpartition("w")[2]) for job, _ in self.submitted[before:]]

    def called(self, program: str) -> list[str]:
        try:
            return (self.folder / f"{program}.calls").read_text().splitlines()
        except FileNotFoundError:
            return []

    def cancelled(self) -> list[str]:
        return [word for line in self.called("scancel") for word in line.split() if word.isdecimal()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the programs of this SLURM lie, first on PATH."""
    for program in ("squeue", "scancel"):
        path = tmp_path / program
        path.write_text(PROGRAM)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    return tmp_path


@pytest.fixture
def lab(folder: Path) -> Lab:
    """A run for six workers, with all of them at work."""
    made = Lab(folder)
    made.look()
    made.starts(1, 2, 3, 4, 5, 6)
    made.look()
    return made


# -- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "chunks", "wanted", "kept"),
    [
        (SIX, 99, 6, 6),
        (SIX, 3, 3, 6),  # as many as asked for may stay
        (SIX, 0, 0, 6),
        (ONE_TO_SIX, 99, 6, 6),
        (ONE_TO_SIX, 3, 3, 3),
        (ONE_TO_SIX, 1, 1, 1),
        (ONE_TO_SIX, 0, 0, 1),
        (dataclasses.replace(SIX, min_workers=4), 2, 4, 4),
        (dataclasses.replace(SIX, min_workers=9), 2, 6, 6),  # never more than the most
        (dataclasses.replace(SIX, min_workers=0), 2, 2, 2),
        (TWO_PER_JOB, 99, 3, 3),
        (TWO_PER_JOB, 3, 2, 3),  # half a job is a job
        (dataclasses.replace(SIX, workers_per_job=4), 99, 2, 2),
        (dataclasses.replace(SIX, gres=Word("gpu:4")), 5, 2, 2),
        (dataclasses.replace(ONE_TO_SIX, gres=Word("gpu:4")), 4, 1, 1),
        (SiteConfig(executor="slurm"), 99, 4, 4),
    ],
)
def test_jobs_to_have_and_to_keep(site: SiteConfig, chunks: int, wanted: int, kept: int) -> None:
    found = targets(site, chunks)
    assert (found.wanted, found.kept) == (wanted, kept)


few = st.integers(1, 40)


@hypothesis.given(most=few, least=st.none() | st.integers(0, 40), each=few, chunks=st.integers(0, 99))
def test_jobs_suffice_for_the_work_and_never_exceed_what_was_asked(
    most: int, least: int | None, each: int, chunks: int
) -> None:
    site = SiteConfig(executor="slurm", workers=most, min_workers=least, workers_per_job=each)
    found = targets(site, chunks)
    assert min(most, chunks) <= found.wanted * each
    assert found.wanted <= found.kept <= -(-most // each)


def test_jobs_are_had_once_and_replaced_by_others(lab: Lab) -> None:
    assert [job for job, _ in lab.submitted] == [name(number) for number in range(1, 7)]
    assert lab.look(3) == []
    lab.ends(2, 5, state="COMPLETED")
    assert lab.look(3) == [7, 8]
    assert lab.its.facts()["jobs"] == {"RUNNING": 4, "PENDING": 2}
    assert lab.its.facts()["waiting"] == "Priority (2)"


def test_no_more_jobs_than_chunks(folder: Path) -> None:
    lab = Lab(folder, chunks=2)
    assert lab.look(2) == [1, 2]
    lab.its.expect(4)
    assert lab.look(2) == [3, 4]
    lab.its.expect(0)
    lab.ends(1, 2, 3, 4, state="COMPLETED")
    assert lab.look(2) == []


def test_workers_that_share_a_job_are_one_job(folder: Path) -> None:
    lab = Lab(folder, TWO_PER_JOB)
    assert lab.look() == [1, 2, 3]
    lab.jobs |= {name(number): "RUNNING" for number in (1, 2, 3)}
    lab.there = {f"{name(number)}-{slot}": "node1" for number in (1, 2, 3) for slot in (0, 1)}
    assert lab.look(3) == [] and not lab.told
    assert lab.its.job_of(f"{name(2)}-1") == lab.number(name(2))
    assert lab.its.job_of("mh-another-w2-1") is None


def test_jobs_of_other_drivers_are_not_ours(folder: Path) -> None:
    lab = Lab(folder)
    lab.its.first_number = 4
    lab.jobs = {name(1): "RUNNING", name(2): "PENDING", "mh-net-abc-w4": "PENDING"}  # and of another run
    lab.there = {name(1): "node1"}
    assert lab.look(3) == [4, 5, 6, 7, 8, 9]
    lab.its.expect(0)
    lab.look(3)
    assert not lab.told and not lab.cancelled()


# -- what SLURM does not say ------------------------------------------------------------------------------------------


def test_a_job_whose_answer_was_lost_is_adopted(folder: Path) -> None:
    lab = Lab(folder)
    for _ in range(6):
        lab.answers = [slurm.Unreachable("Socket timed out on send/recv operation")]
        with pytest.raises(slurm.Unreachable):
            lab.look()
    assert lab.look(3) == []  # six were taken, whatever sbatch said
    assert sorted(lab.jobs) == [name(number) for number in range(1, 7)]
    assert [lab.its.job_of(name(number)) for number in (1, 6)] == ["101", "106"]


def test_a_job_that_slurm_did_not_take_is_submitted_anew_and_is_no_failed_start(folder: Path) -> None:
    lab = Lab(folder, dataclasses.replace(SIX, workers=1))
    lab.takes = False
    for number in range(1, 9):
        lab.answers = [slurm.Unreachable("Socket timed out on send/recv operation")]
        with pytest.raises(slurm.Unreachable):
            lab.look()
        assert lab.submitted[-1][0] == name(number)
    assert lab.look(2) == [9]
    assert lab.its.trouble is None and lab.its.job_of(name(1)) is None


def test_a_job_that_appears_late_takes_the_place_of_another(folder: Path) -> None:
    lab = Lab(folder, dataclasses.replace(SIX, workers=2))
    lab.takes = False
    lab.answers = [slurm.Unreachable("Socket timed out on send/recv operation")]
    with pytest.raises(slurm.Unreachable):
        lab.look()
    assert lab.look() == [2, 3]
    lab.jobs[name(1)] = "PENDING"  # slurmctld was only slow
    assert lab.look(2) == []
    assert len(lab.cancelled()) == 1, "two jobs are enough"
    assert lab.look(2) == []


def test_while_squeue_is_silent_nothing_is_done(lab: Lab) -> None:
    lab.ends(1, 2, 3, 4, 5, 6)
    lab.breaks("squeue")
    for _ in range(3):
        with pytest.raises(slurm.Unreachable):
            lab.look()
    assert len(lab.submitted) == 6 and not lab.cancelled() and not lab.told
    lab.mends("squeue")
    assert lab.look() == [7, 8, 9, 10, 11, 12]


# -- strays -----------------------------------------------------------------------------------------------------------


def test_strays_are_told_to_leave_after_two_looks(lab: Lab) -> None:
    lab.forgets(3)
    lab.look()
    assert lab.told == []  # SLURM may only be slow to say
    lab.look()
    assert lab.told == [name(3)]


def test_a_job_that_was_missing_only_once_is_no_stray(lab: Lab) -> None:
    for _ in range(4):
        lab.forgets(3)
        lab.look()
        lab.starts(3)
        lab.look()
    assert lab.told == []


def test_all_workers_of_a_lost_job_leave(folder: Path) -> None:
    lab = Lab(folder, TWO_PER_JOB)
    lab.look()
    lab.jobs |= {name(number): "RUNNING" for number in (1, 2, 3)}
    lab.there = {f"{name(number)}-{slot}": "node1" for number in (1, 2, 3) for slot in (0, 1)}
    lab.look()
    lab.jobs[name(2)] = "NODE_FAIL"
    assert lab.look(2) == [4]
    assert lab.told == [f"{name(2)}-0", f"{name(2)}-1"]


# -- jobs that are there, and workers that are not --------------------------------------------------------------------


def test_a_job_without_its_worker_is_ended_and_replaced(lab: Lab) -> None:
    """As when the worker hangs, and dask has given it up."""
    del lab.there[name(3)]
    assert lab.look(2) == [] and not lab.cancelled()  # it may only be about to end
    lab.look(4)
    assert set(lab.cancelled()) == {"103"} and not lab.told
    lab.ends(3, state="CANCELLED")
    assert lab.look(3) == [7]


def test_a_job_that_has_lost_one_of_its_workers_makes_room_for_a_whole_one(folder: Path) -> None:
    lab = Lab(folder, TWO_PER_JOB)
    lab.look()
    lab.jobs |= {name(number): "RUNNING" for number in (1, 2, 3)}
    lab.there = {f"{name(number)}-{slot}": "node1" for number in (1, 2, 3) for slot in (0, 1)}
    lab.look()
    del lab.there[f"{name(2)}-1"]
    lab.look(2)
    assert not lab.told
    lab.look(4)
    assert set(lab.told) == {f"{name(2)}-0"} and not lab.cancelled()


def test_workers_of_a_job_need_not_connect_at_once(folder: Path) -> None:
    lab = Lab(folder, TWO_PER_JOB)
    lab.look()
    lab.jobs |= {name(number): "RUNNING" for number in (1, 2, 3)}
    lab.look(9)
    lab.there = {f"{name(number)}-0": "node1" for number in (1, 2, 3)}
    lab.look(9)
    assert not lab.told and not lab.cancelled() and len(lab.submitted) == 3


# -- starts that fail -------------------------------------------------------------------------------------------------


def test_after_a_failed_start_jobs_come_one_at_a_time(folder: Path) -> None:
    lab = Lab(folder)
    assert len(lab.look()) == 6
    lab.ends(1)
    lab.ends(2)
    assert lab.look() == [7]
    assert lab.look() == [8]  # and while nothing new fails, one with each look
    lab.starts(7)
    assert lab.look() == []
    lab.ends(3, 4, state="COMPLETED")
    assert lab.look() == [9]
    lab.starts(9)
    assert lab.look() == [10]  # a good start, so all that is missing


def test_five_failed_starts_in_a_row_are_the_end(folder: Path) -> None:
    lab = Lab(folder)
    lab.look()
    number = 1
    while lab.its.trouble is None and number < 20:
        lab.ends(number)
        lab.look()
        number += 1
    assert number - 1 == MAX_FAILED_STARTS
    assert isinstance(lab.its.trouble, UnfitError)
    words = str(lab.its.trouble)
    assert f"words of {100 + MAX_FAILED_STARTS}" in words and config.PYTHON in words and "doctor --node" in words
    before = len(lab.submitted)
    lab.ends(6)
    lab.look(3)
    assert len(lab.submitted) == before  # nothing more is sent after them


def test_a_good_start_clears_the_account(folder: Path) -> None:
    lab = Lab(folder)
    lab.look()
    for number in range(1, 30):
        if number % MAX_FAILED_STARTS:
            lab.ends(number)
        else:
            lab.starts(number)
            lab.look()
            lab.ends(number, state="COMPLETED")
        lab.look()
    assert lab.its.trouble is None


@pytest.mark.parametrize("state", ["CANCELLED", "PREEMPTED", "NODE_FAIL"])
def test_jobs_that_were_taken_away_are_no_failed_starts(folder: Path, state: str) -> None:
    lab = Lab(folder)
    lab.look()
    for number in range(1, 20):
        lab.ends(number, state=state)
        lab.look()
    assert lab.its.trouble is None
    lab.ends(20, 21, 22, state=state)
    assert len(lab.look()) == 3  # all at once


def test_jobs_that_are_not_needed_any_more_are_no_failed_starts(folder: Path) -> None:
    lab = Lab(folder, ONE_TO_SIX)
    lab.look()
    lab.starts(1)
    lab.its.expect(1)
    lab.look()
    assert lab.cancelled() == ["102", "103", "104", "105", "106"]
    lab.ends(2, 3, 4, 5, 6, state="FAILED")  # some had begun all the same
    lab.look(2)
    assert lab.its.trouble is None


# -- nodes, limits and refusals ---------------------------------------------------------------------------------------


def test_a_node_is_kept_off_and_its_workers_leave(lab: Lab) -> None:
    lab.starts(5, 6, node="node2")
    assert lab.its.exclude("node2", "FATAL: no such image") is True
    assert lab.told == [name(5), name(6)]
    lab.ends(5, 6, state="COMPLETED")
    assert lab.look() == [7, 8]
    assert lab.submitted[-1] == (name(8), ("node2",))
    assert lab.its.facts()["excluded"] == {"node2": "FATAL: no such image"}


def test_a_model_that_fails_on_two_nodes_is_the_one_to_blame(lab: Lab) -> None:
    assert lab.its.exclude("node2", "no") is True
    assert lab.its.exclude("node2", "no") is True  # still one node
    assert lab.its.exclude("node3", "no") is False


def test_a_model_that_has_worked_blames_any_number_of_nodes(lab: Lab) -> None:
    lab.its.proved = True
    assert all(lab.its.exclude(f"node{number}", "no") for number in range(9))


def test_a_limit_makes_fewer_jobs(folder: Path) -> None:
    lab = Lab(folder)
    lab.answers = [None, None, slurm.LimitReached("SLURM takes no more jobs now: Resource temporarily unavailable")]
    assert lab.look() == [1, 2, 3]
    assert "takes no more jobs" in str(lab.its.facts()["waiting"])
    assert lab.its.trouble is None
    lab.starts(1, 2)
    assert lab.look() == [4, 5, 6, 7]  # it keeps trying
    assert lab.look() == []
    assert lab.its.facts()["waiting"] == "Priority (4)"


def test_a_refusal_is_the_end_where_nobody_is_at_work(folder: Path) -> None:
    lab = Lab(folder)
    lab.its.exclude("node1", "FATAL: no such image")
    lab.answers = [UnfitError("SLURM refuses: Requested node configuration is not available")]
    lab.look()
    assert isinstance(lab.its.trouble, UnfitError)
    assert "node configuration" in str(lab.its.trouble) and "node1 is left out: FATAL: no such" in str(lab.its.trouble)


def test_a_refusal_is_borne_while_others_work(lab: Lab) -> None:
    lab.ends(1, state="COMPLETED")
    lab.answers = [UnfitError("SLURM refuses: Requested node configuration is not available")]
    lab.look()
    assert lab.its.trouble is None and "node configuration" in str(lab.its.facts()["waiting"])
    assert lab.look() == [8]


# -- the tail ---------------------------------------------------------------------------------------------------------


def test_jobs_that_wait_go_first_then_those_without_a_chunk(folder: Path) -> None:
    lab = Lab(folder, ONE_TO_SIX)
    lab.look()
    lab.starts(1, 2, 3, 4)
    lab.busy = {name(1), name(4)}
    lab.its.expect(3)
    lab.look()
    assert lab.cancelled() == ["105", "106"]
    assert lab.told == [name(2)]
    lab.ends(5, 6, state="CANCELLED")
    lab.ends(2, state="COMPLETED")
    assert lab.look(2) == []  # and nobody comes in their place
    assert lab.told == [name(2)]


def test_a_job_with_one_busy_worker_stays(folder: Path) -> None:
    lab = Lab(folder, dataclasses.replace(TWO_PER_JOB, min_workers=1))
    lab.look()
    lab.jobs |= {name(number): "RUNNING" for number in (1, 2, 3)}
    lab.there = {f"{name(number)}-{slot}": "node1" for number in (1, 2, 3) for slot in (0, 1)}
    lab.busy = {f"{name(1)}-1", f"{name(3)}-0"}
    lab.its.expect(2)
    lab.look()
    assert lab.told == [f"{name(2)}-0", f"{name(2)}-1"]


def test_busy_workers_are_never_told(folder: Path) -> None:
    lab = Lab(folder, ONE_TO_SIX)
    lab.look()
    lab.starts(1, 2, 3, 4, 5, 6)
    lab.busy = set(lab.there)
    lab.its.expect(1)
    lab.look(3)
    assert not lab.told and not lab.cancelled()


def test_chunks_that_go_out_again_get_workers_again(folder: Path) -> None:
    lab = Lab(folder, ONE_TO_SIX)
    lab.look()
    lab.starts(1, 2, 3, 4, 5, 6)
    lab.its.expect(1)
    lab.look()
    assert len(lab.told) == 5
    lab.ends(*(int(each.rpartition("w")[2]) for each in lab.told), state="COMPLETED")
    lab.its.expect(4)
    assert lab.look() == [7, 8, 9]


def test_without_a_minimum_nobody_is_sent_away(lab: Lab) -> None:
    lab.its.expect(1)
    lab.look(3)
    assert not lab.told and not lab.cancelled()


# -- the end ----------------------------------------------------------------------------------------------------------


def test_the_end_takes_back_what_has_not_begun(lab: Lab) -> None:
    lab.jobs[name(5)] = "PENDING"
    lab.jobs[name(6)] = "CONFIGURING"
    lab.jobs["mh-net-abc-w1"] = "PENDING"  # of a run whose id begins alike
    lab.tell()
    lab.its.stop()
    assert lab.cancelled() == ["105", "106"] and not lab.told


def test_the_end_comes_although_slurm_is_silent(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.jobs[name(5)] = "PENDING"
    lab.tell()
    lab.breaks("squeue")
    lab.its.stop()
    lab.mends("squeue")
    lab.breaks("scancel", "scancel: error: Unable to contact slurm controller (connect failure)")
    lab.its.stop()
    assert caplog.text.count("jobs may be left in the queue") == 2


# -- the thread -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(folder: Path) -> Iterator[Lab]:
    """One whose thread looks often."""
    lab = Lab(folder, dataclasses.replace(SIX, poll_s=0.1))
    lab.tell()
    yield lab
    lab.its.stop()
    assert not [each for each in threading.enumerate() if each.name == "supervisor"]


def until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_the_thread_goes_on_after_an_outage(quick: Lab) -> None:
    quick.breaks("squeue")
    quick.its.start()
    until(lambda: "Unable to contact" in str(quick.its.facts()["waiting"]), "the outage is told")
    assert not quick.submitted and quick.its.trouble is None
    quick.mends("squeue")
    until(lambda: len(quick.submitted) == 6, "jobs once it is over")


def test_squeue_is_never_asked_more_often_than_the_site_wants(quick: Lab) -> None:
    began = time.monotonic()
    quick.its.start()
    while time.monotonic() - began < 1.5:
        quick.its.wake()
        time.sleep(0.001)
    assert 5 <= len(quick.called("squeue")) <= (time.monotonic() - began) / 0.1 + 2


def test_squeue_is_asked_less_often_while_nothing_changes(quick: Lab) -> None:
    quick.its.expect(0)
    time.sleep(0.1)
    began = time.monotonic()
    quick.its.start()
    time.sleep(1.5)
    assert 2 <= len(quick.called("squeue")) <= (time.monotonic() - began) / 0.4 + 2


def test_what_breaks_in_the_thread_is_trouble_for_the_run(quick: Lab) -> None:
    quick.answers = [RuntimeError("a bug")]
    quick.its.start()
    until(lambda: quick.its.trouble is not None, "trouble")
    assert isinstance(quick.its.trouble, UnfitError) and "a bug" in str(quick.its.trouble)


def test_an_error_that_says_how_to_go_on_keeps_its_exit_code(quick: Lab) -> None:
    quick.answers = [TryAgainError("the run folder is full")]
    quick.its.start()
    until(lambda: quick.its.trouble is not None, "trouble")
    assert type(quick.its.trouble) is TryAgainError
