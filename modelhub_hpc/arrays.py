"""A run as arrays of independent SLURM jobs: no process holds them together, and a short job follows each array.

A round is one array over the chunks that are left, divided evenly. The job that follows it starts the next round, or
writes the tables when nothing is left.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelhub_hpc import config, driver, finish, owner, resources, run, slurm
from modelhub_hpc.chunks import ChunkTask, last_begun, predict_chunk
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES, EXIT_TRY_AGAIN, MachineError, TryAgainError
from modelhub_hpc.plan import Chunk, chunk_table, cut
from modelhub_hpc.record import CaseError, RunPaths, State, publish_json, replace_json, sweep_orphans
from modelhub_hpc.request import Order, RunRequest
from modelhub_hpc.runfolder import drop, token
from modelhub_hpc.session import StartError
from modelhub_hpc.workplace import HERE, HandedBack

log = logging.getLogger(__name__)

_TASKS_PER_SLOT = 4  # so that the last ones to end have not much more to do than the first
_FRUITLESS = 2  # rounds in a row that end no chunk, before the run stops


@dataclass(frozen=True)
class Round:
    """One array. tasks: what its jobs divide among them; settled: cases when it began; fruitless: rounds before it."""

    number: int
    tasks: tuple[ChunkTask, ...]
    settled: int
    began: float
    fruitless: int
    excluded: tuple[str, ...] = ()

    def write(self, paths: RunPaths) -> None:
        tasks = [[t.chunk, t.generation, list(t.rows), t.careful, _plain(t.blamed)] for t in self.tasks]
        replace_json(paths.round_json, {**_round_facts(self), "tasks": tasks})


@dataclass(frozen=True)
class Advance:
    """What was done: an array and the job that follows it were submitted, or else how the run has ended."""

    array_job: str | None = None
    follower: str | None = None
    tasks: int = 0
    code: int = EXIT_DONE
    stopped: str | None = None


def advance(paths: RunPaths, wanted: RunRequest, order: Order) -> Advance:
    """Start the next round over what is left of the run, or end it.

    Raises TryAgainError while jobs of the run are at work, or another advances it, and what slurm.submit raises.
    """
    _refuse_while_at_work(paths, wanted)
    mine = owner.acquire(paths.private, f"Run {paths.root}", job_id=config.caller().slurm_job_id)
    with owner.beating(mine, run.BEAT_S):
        chunks = chunk_table(paths.chunks_json) or _cut(paths, wanted)
        state = run.survey(paths, wanted, repair=True)
        todo = _todo(paths, wanted, order, chunks, state)
        last = read_round(paths, wanted)
        fault = _fault(paths)
        why = _why_end(order, last, todo, state, fault)
        if not todo or why is not None:
            return _end(paths, wanted, chunks, state, why, fault)
        settled = state.done + state.failed
        fruitless = last.fruitless + 1 if last and len(todo) >= len(last.tasks) else 0
        excluded = (last.excluded if last else ()) + ((fault["node"],) if fault else ())
        number = last.number + 1 if last else 1
        return _begin(paths, wanted, Round(number, tuple(todo), settled, time.time(), fruitless, excluded))


def plan_only(paths: RunPaths, wanted: RunRequest) -> int:
    """Cut the chunks, for an array that is submitted by hand; how many there are."""
    return len(chunk_table(paths.chunks_json) or _cut(paths, wanted))


def read_round(paths: RunPaths, wanted: RunRequest) -> Round | None:
    """The present or last round; None before the first."""
    try:
        data = json.loads(paths.round_json.read_bytes())
    except FileNotFoundError:
        return None
    chunks = chunk_table(paths.chunks_json) or []
    tasks = []
    for index, generation, rows, careful, blamed in data.pop("tasks"):
        chunk = chunks[index]
        errors = tuple((row, CaseError(**error)) for row, error in blamed)
        tasks.append(_task(paths, wanted, chunk, generation, tuple(rows), careful, errors))
    return Round(tasks=tuple(tasks), **{**data, "excluded": tuple(data["excluded"])})


def work(paths: RunPaths, wanted: RunRequest) -> int:
    """One job of an array: its share of the chunks, until they are done or the job has to leave; the exit code."""
    tasks = _share(paths, wanted)
    log.info("%s on %s: %d chunks", HERE.name, config.node(), len(tasks))
    for task in tasks:
        if HERE.must_leave() or _hopeless(paths):
            break
        begun = paths.careful(task.chunk)
        if not task.careful:
            replace_json(begun, {"row": None, "job": config.caller().slurm_job_id})
        try:
            done = predict_chunk(task)
        except HandedBack as reason:
            log.info("%s", reason)
            drop(begun)
            break
        except (StartError, MachineError) as error:
            drop(begun)
            _note_fault(paths, error)
            raise
        drop(begun)
        log.info("chunk %d: %d done, %d failed", done.chunk, done.done, done.failed)
    return EXIT_DONE


def _share(paths: RunPaths, wanted: RunRequest) -> list[ChunkTask]:
    """The chunks of this job; all are divided where it was submitted by hand, else those of the round."""
    index, count = config.array_task()
    each = config.workers_per_job(wanted.site)
    mine = slice(index * each + HERE.slot, None, count * each)
    last = read_round(paths, wanted) if config.in_round() else None
    if last is not None:
        return list(last.tasks[mine])
    return [_task(paths, wanted, chunk) for chunk in (chunk_table(paths.chunks_json) or [])[mine]]


def _task(
    paths: RunPaths,
    wanted: RunRequest,
    chunk: Chunk,
    generation: int = 0,
    rows: tuple[int, ...] = (),
    careful: bool = False,
    blamed: tuple[tuple[int, CaseError], ...] = (),
) -> ChunkTask:
    place = str(paths.root), wanted.site, chunk.index, chunk.first, chunk.count
    return ChunkTask(*place, generation, rows, careful, blamed)


def _cut(paths: RunPaths, wanted: RunRequest) -> list[Chunk]:
    """By the model's known speed, or by a guess: nothing is computed where the run is submitted."""
    workers, site = config.worker_count(wanted.site), wanted.site
    seconds, walltime_s = wanted.model.seconds_per_case, config.walltime_s(site)
    chunks = cut(wanted.cases, seconds, workers, site.chunk_size, probe=False, walltime_s=walltime_s)
    bounds = [[chunk.first, chunk.count] for chunk in chunks]
    publish_json(paths.chunks_json, {"format": 1, "plan": wanted.plan, "chunks": bounds})
    return chunk_table(paths.chunks_json) or []


def _refuse_while_at_work(paths: RunPaths, wanted: RunRequest) -> None:
    own = config.caller().slurm_job_id
    jobs = [job for job in slurm.queue(slurm.job_name(wanted.run_id)) if job.id != own and not job.ended]
    if jobs:
        ids = ", ".join(job.id for job in jobs)
        raise TryAgainError(
            f"The run is being computed by SLURM job {ids}.\n"
            f"Wait for it, or end it:  mh-hpc cancel {shlex.quote(str(paths.root))}"
        )


def _todo(
    paths: RunPaths, wanted: RunRequest, order: Order, chunks: Sequence[Chunk], state: State
) -> list[ChunkTask]:
    tasks = [_task(paths, wanted, chunk) for chunk in chunks if chunk.index not in state.done_chunks]
    tasks += [
        _task(paths, wanted, chunks[retry.chunk], retry.generation, retry.rows)
        for retry in order.retries
        if retry.generation not in state.generations.get(retry.chunk, ())
    ]
    last = read_round(paths, wanted)
    blamed = {(t.chunk, t.generation): t.blamed for t in last.tasks} if last else {}
    return [_suspected(paths, task, blamed.get((task.chunk, task.generation), ())) for task in tasks]


def _suspected(paths: RunPaths, task: ChunkTask, blamed: tuple[tuple[int, CaseError], ...]) -> ChunkTask:
    """A chunk that was begun and not ended is computed with care; a case that ended its job for memory is blamed."""
    noted = last_begun(paths, task.chunk)
    if noted is None:
        return dataclasses.replace(task, blamed=blamed)
    job_id = str(noted["job"])
    ending = slurm.ending(job_id, driver.last_words(paths, job_id))
    if noted["row"] is not None and ending.for_memory:
        blamed = (*blamed, (int(noted["row"]), run.memory_error(f"job {job_id}\n{ending.its_log}")))
    return dataclasses.replace(task, careful=True, blamed=blamed)


def _why_end(
    order: Order, last: Round | None, todo: list[ChunkTask], state: State, fault: dict[str, Any] | None
) -> str | None:
    """Why there is no further round although chunks are left; None if there is one, or none is needed."""
    if not todo:
        return None
    if order.max_failures is not None and state.failed > order.max_failures:
        return f"more than {order.max_failures} cases failed"
    if fault and (fault["of_the_model"] or not state.done):
        return str(fault["message"])
    if last and len(todo) >= len(last.tasks) and last.fruitless + 1 >= _FRUITLESS:
        return f"{_FRUITLESS} arrays of jobs in a row ended no chunk; see logs/"
    return None


def _end(
    paths: RunPaths,
    wanted: RunRequest,
    chunks: Sequence[Chunk],
    state: State,
    why: str | None,
    fault: dict[str, Any] | None,
) -> Advance:
    code = EXIT_FAILED_CASES if state.failed else EXIT_DONE
    if why is not None:
        code = int(fault["exit_code"]) if fault else EXIT_FAILED_CASES if why.startswith("more") else EXIT_TRY_AGAIN
    finish.write(paths, wanted, chunks, why, code)
    drop(paths.round_json)  # a resumed run counts its rounds anew
    _forget_faults(paths)
    if why is None:
        sweep_orphans(paths)
    return Advance(code=code, stopped=why)


def _begin(paths: RunPaths, wanted: RunRequest, new: Round) -> Advance:
    """Submit an array, as large as SLURM takes it, and the job that follows it."""
    _forget_faults(paths)
    new.write(paths)
    each, at_once = config.workers_per_job(wanted.site), config.worker_count(wanted.site)
    slots = math.ceil(at_once / each)
    size = min(math.ceil(len(new.tasks) / each), _TASKS_PER_SLOT * slots, slurm.cluster().array_size)
    name = slurm.job_name(wanted.run_id, f"a{new.number}")
    script = resources.folder("slurm") / "predict-array.sbatch"
    options = [*slurm.worker_options(wanted.site), f"--job-name={name}"]
    options += [f"--exclude={','.join(new.excluded)}"] if new.excluded else []
    environment = [*driver.variables(wanted.site), f"MH_JOB_ROUND={new.number}"]
    while True:
        try:
            array = [*options, f"--array=0-{size - 1}%{min(slots, size)}"]
            job_id = slurm.submit(array, script, paths.root, environment)
            driver.note_job(paths, job_id, "array", name)
            return Advance(job_id, _follower(paths, wanted, job_id), size)
        except slurm.LimitReached:
            if size == 1:
                raise
            size = math.ceil(size / 2)  # fewer jobs, with more chunks each


def _follower(paths: RunPaths, wanted: RunRequest, array_job: str) -> str | None:
    """Submit the job that comes after an array; without room for it there is none for the array either."""
    try:
        return driver.start(paths, wanted, after=array_job).job_id
    except slurm.LimitReached:
        slurm.cancel([array_job])
        raise


def _hopeless(paths: RunPaths) -> bool:
    """Whether another job of this round has found that the model does not start."""
    fault = _fault(paths)
    return fault is not None and bool(fault["of_the_model"])


def _note_fault(paths: RunPaths, error: StartError | MachineError) -> None:
    of_the_model = isinstance(error, StartError) and not (error.sudden or error.is_of_the_machine)
    facts = {"node": error.node, "message": str(error), "exit_code": error.exit_code, "of_the_model": of_the_model}
    publish_json(paths.faults / f"{token()}.json", {**facts})


def _fault(paths: RunPaths) -> dict[str, Any] | None:
    """What kept a job of this round from work; that of the model, if there is one."""
    found: list[dict[str, Any]] = [json.loads(path.read_bytes()) for path in paths.faults.glob("*.json")]
    return max(found, key=lambda each: bool(each["of_the_model"]), default=None)


def _forget_faults(paths: RunPaths) -> None:
    for path in paths.faults.glob("*.json"):
        drop(path)


def _round_facts(of: Round) -> dict[str, Any]:
    return {f.name: getattr(of, f.name) for f in dataclasses.fields(of) if f.name != "tasks"}


def _plain(blamed: tuple[tuple[int, CaseError], ...]) -> list[Any]:
    return [[row, dataclasses.asdict(error)] for row, error in blamed]
