"""The run loop: plan once, send chunks out, take shards in, go on after anything.

The run folder is the only memory. Chunks without a valid shard are to do; futures, workers and this driver can be
lost at any time.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, config, finish, images, models, needs, owner, request, resources
from modelhub_hpc.chunks import ChunkDone, ChunkTask, last_begun, load_model, predict_chunk
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.digests import tree_digest
from modelhub_hpc.errors import (
    EXIT_DONE,
    EXIT_FAILED_CASES,
    EXIT_INTERRUPTED,
    EXIT_TRY_AGAIN,
    InvalidError,
    ModelHubError,
    TryAgainError,
    shown,
)
from modelhub_hpc.executors import Pool, is_worker_lost, lost_worker, open_pool
from modelhub_hpc.owner import Owner
from modelhub_hpc.plan import Chunk, Found, Manifest, chunk_table, cut, find_cases, input_roots, safe_name
from modelhub_hpc.record import CaseError, RunPaths, State, publish_json, replace_json, scan, sweep_orphans
from modelhub_hpc.request import Retry, RunRequest
from modelhub_hpc.workplace import HandedBack

log = logging.getLogger(__name__)

MAX_LOSSES = 5
TICK_S = 0.5
PROGRESS_S = 2.0
BEAT_S = 10.0
_FIXED = ("runtime", "nan")  # options that decide what a result is, and so cannot change within a run


@dataclass(frozen=True)
class Asked:
    """What a user asks of a new run. model, image and inputs as the user named them; outdir: the run folder."""

    model: str
    inputs: tuple[str, ...]
    site: SiteConfig
    outdir: Path | None = None
    image: str | None = None
    command: str = ""


@dataclass(frozen=True)
class Planned:
    """A run that has not begun: nothing is on disk yet."""

    paths: RunPaths
    run: RunRequest
    found: Found


@dataclass(frozen=True)
class Options:
    """What this driver does with the cases that failed. retries: of earlier drivers, to try again."""

    retries: tuple[Retry, ...] = ()
    max_failures: int | None = None


@dataclass
class Stop:
    """Set by a signal. wanted: finish the chunks in flight, then leave; now: leave them to their workers."""

    wanted: bool = False
    now: bool = False


@dataclass(frozen=True)
class Progress:
    """Counts of cases; seconds since this driver began, `before` of them done or failed by earlier ones."""

    total: int
    done: int
    failed: int
    before: int
    seconds: float
    workers: int

    @property
    def settled(self) -> int:
        return self.done + self.failed

    @property
    def rate(self) -> float:
        """Cases per second of this driver."""
        return (self.settled - self.before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        return (self.total - self.settled) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class Outcome:
    """How this driver's work ended. stopped: None if all cases are settled, else why not; code: to exit with."""

    progress: Progress
    stopped: str | None
    error: ModelHubError | None = None
    code: int = EXIT_DONE


Observer = Callable[[Progress], None]


def plan(asked: Asked) -> Planned:
    """Find the model, its image and the cases, and decide everything that run.json records."""
    model = models.find(asked.model, asked.site)
    needs.check(model, asked.site)
    found = find_cases(asked.inputs, model, Path.cwd())
    image = None if asked.site.runtime == "host" else images.find(asked.image or model.image, asked.site)
    if image is not None:
        images.admit(image, asked.site)
    return planned(asked, model, image, found)


def planned(asked: Asked, model: Contribution, image: images.Image | None, found: Found) -> Planned:
    """A run of what was found already."""
    run_id = f"{time.strftime('%Y%m%d')}-{safe_name(model.name)}-{_letters(4)}"
    outdir = asked.outdir or Path("runs") / run_id
    run = RunRequest(
        run_id=run_id,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=asked.command,
        software=__version__,
        engine=tree_digest(resources.folder("engine")),
        model=model,
        image=image,
        site=asked.site,
        inputs=asked.inputs,
        roots=tuple(input_roots(found.cases)),
        plan="",
        cases=len(found.cases),
    )
    return Planned(RunPaths(outdir.absolute()), run, found)


def begin(planned: Planned, mine: Owner | None = None) -> RunRequest:
    """Write the run folder: manifest first, run.json last, which makes it a run.

    mine: the right to the folder where the caller has it; it is given up.
    Raises InvalidError if the folder holds anything else, TryAgainError if another driver is beginning it.
    """
    paths, found = planned.paths, planned.found
    refuse_foreign(paths)
    paths.create()
    mine = mine or _drive(paths)
    try:
        if paths.run_json.exists():
            raise TryAgainError(
                f"Another driver has just begun the run in {paths.root}. The same command joins it."
            )
        paths.manifest.unlink(missing_ok=True)  # of a driver that was killed here before it had a run
        keys = [each.key for each in planned.run.model.inputs]
        manifest = Manifest.write(paths.manifest, found.cases, keys, paths.manifest_index)
        skipped = (json.dumps({"path": each.path, "reason": each.reason}) + "\n" for each in found.skipped)
        paths.skipped.write_text("".join(skipped), encoding="ascii")
        run = dataclasses.replace(planned.run, plan=manifest.digest)
        publish_json(paths.run_json, run.to_json())
        return run
    finally:
        mine.release()


def refuse_foreign(paths: RunPaths) -> None:
    """InvalidError where a new run would be mixed with files that are not its own."""
    if not paths.root.exists():
        return
    names = os.listdir(paths.root) if paths.root.is_dir() else ["a file"]
    foreign = [name for name in names if not paths.owns(name)]
    if foreign:
        raise InvalidError(
            f"{paths.root} exists and is not a run folder (it holds {foreign[0]!r}). Choose another one: --outdir."
        )


def resume(paths: RunPaths, site: SiteConfig) -> RunRequest:
    """The run of this folder with the options of now; InvalidError if the results would not be of one kind."""
    run = request.read(paths)
    for name in _FIXED:
        then, now = getattr(run.site, name), getattr(site, name)
        if then != now:
            raise InvalidError(f"This run was begun with {name} = {then}, not {now}. Use a new --outdir.")
    if tree_digest(run.model.contrib_src) != run.model.digest:
        raise InvalidError(
            f"The model in {run.model.path} has changed since this run began ({run.created}).\n"
            "Results of two models do not belong in one run: restore it, or use a new --outdir."
        )
    if run.image is not None:
        _admit_again(run.image, site)
    if Manifest.open(paths.manifest, paths.manifest_index).digest != run.plan:
        raise InvalidError(
            f"{paths.manifest} has changed since this run began; it must not. Use a new --outdir."
        )
    return dataclasses.replace(run, site=site)


def _admit_again(image: images.Image, site: SiteConfig) -> None:
    try:
        images.admit(image, site)
    except InvalidError as error:
        raise InvalidError(
            f"{error}\nThis run was begun with that image. Without it, use a new --outdir."
        ) from error


def survey(paths: RunPaths, run: RunRequest, repair: bool = False) -> State:
    """What the shards say now; `repair` sets damaged ones aside and is the owner's alone."""
    chunks = chunk_table(paths.chunks_json) or [Chunk(0, 0, min(1, run.cases))]
    return scan(paths, run.run_id, run.plan, chunks, repair=repair, verify_arrays=repair)


def retries(state: State) -> tuple[Retry, ...]:
    """All cases that failed, to try again."""
    failed = state.failed_by_chunk.items()
    return tuple(Retry(chunk, state.next_generation(chunk), rows) for chunk, rows in failed)


def execute(paths: RunPaths, run: RunRequest, options: Options, observe: Observer, stop: Stop) -> Outcome:
    """Drive the run until every case is settled, or until it has to stop; then write the tables.

    Raises TryAgainError if another driver has the run.
    """
    mine = _drive(paths)
    with owner.beating(mine, BEAT_S):
        with open_pool(run, paths) as pool:
            outcome = _Loop(paths, run, options, observe, stop, pool, mine).drive()
            early = outcome.stopped is None and pool.let_go()
            if early:  # models end while the tables are written
                _write_tables(paths, run, outcome)
        if not early:
            _write_tables(paths, run, outcome)
        if outcome.stopped is None:
            sweep_orphans(paths)
        return outcome


def _write_tables(paths: RunPaths, run: RunRequest, outcome: Outcome) -> None:
    finish.write(paths, run, chunk_table(paths.chunks_json) or [], outcome.stopped, outcome.code)


def _drive(paths: RunPaths) -> Owner:
    """Become the driver of the run, from here on until release. Raises TryAgainError if another one lives."""
    return owner.acquire(paths.private, f"Run {shown(paths.root)}", job_id=config.caller().slurm_job_id)


@dataclass
class _Loop:
    """One driver's passage through the chunks."""

    paths: RunPaths
    run: RunRequest
    options: Options
    observe: Observer
    stop: Stop
    pool: Pool
    mine: Owner
    done: int = 0
    failed: int = 0
    before: int = 0
    left: int = 1
    losses: dict[int, list[str]] = field(default_factory=lambda: collections.defaultdict(list))
    given_up: list[str] = field(default_factory=list)
    error: ModelHubError | None = None
    began: float = field(default_factory=time.monotonic)
    reported: float = 0.0

    def drive(self) -> Outcome:
        self.left = min(self.run.cases, config.worker_count(self.run.site))  # until the chunks are cut
        chunks = chunk_table(self.paths.chunks_json) or self._cut()
        if chunks is not None:
            state = survey(self.paths, self.run, repair=True)
            self._count(state)
            self.left = 0
            self._send(collections.deque(self._todo(chunks, state)))
        self._report(force=True)
        return Outcome(self._progress(), self._why_stopped(), self.error, self._code())

    def _count(self, state: State) -> None:
        self.done, self.failed = state.done, state.failed
        self.before = self.done + self.failed
        self._report(force=True)

    def _todo(self, chunks: Sequence[Chunk], state: State) -> Iterator[ChunkTask]:
        for chunk in chunks:
            if chunk.index not in state.done_chunks:
                yield self._task(chunk)
        for retry in self.options.retries:
            if retry.generation not in state.generations.get(retry.chunk, ()):
                self.failed -= len(retry.rows)
                self.before -= len(retry.rows)
                yield self._task(chunks[retry.chunk], retry.generation, retry.rows)

    def _task(self, chunk: Chunk, generation: int = 0, rows: tuple[int, ...] = ()) -> ChunkTask:
        return ChunkTask(
            str(self.paths.root), self.run.site, chunk.index, chunk.first, chunk.count, generation, rows
        )

    def _cut(self) -> list[Chunk] | None:
        """Cut the chunks by the model's known speed, or by that of the first case, which is a chunk of its own.

        None if the first case could not be computed.
        """
        seconds = self.run.model.seconds_per_case
        if seconds is None and self.run.cases > 1 and self.run.site.chunk_size is None:
            first = self._first_case()
            if first is None:
                return None
            seconds = first.seconds if first.done else None
        site, workers = self.run.site, config.worker_count(self.run.site)
        chunks = cut(self.run.cases, seconds, workers, site.chunk_size, walltime_s=config.walltime_s(site))
        bounds = [[chunk.first, chunk.count] for chunk in chunks]
        publish_json(self.paths.chunks_json, {"format": 1, "plan": self.run.plan, "chunks": bounds})
        return chunk_table(self.paths.chunks_json)

    def _first_case(self) -> ChunkDone | None:
        results: list[ChunkDone] = []
        self._report(force=True)
        task = self._task(Chunk(0, 0, 1))
        self.pool.prepare_others(load_model, task)
        self._send(collections.deque([task]), results.append)
        return results[0] if results else None

    def _send(
        self, todo: collections.deque[ChunkTask], settled: Callable[[ChunkDone], None] = lambda _: None
    ) -> None:
        """Keep every worker busy with one chunk until nothing is to do, or the run has to stop."""
        flying: dict[Future[ChunkDone], ChunkTask] = {}
        while (flying and not self._must_leave()) or (todo and not self._must_stop()):
            while todo and len(flying) < self.pool.ready() and not self._must_stop():
                task = todo.popleft()
                flying[self.pool.executor.submit(predict_chunk, task)] = task
            self._expect(len(todo) + len(flying))
            if not flying:
                time.sleep(TICK_S)
            self._take_ready(flying, todo, settled)
            self._report()

    def _take_ready(
        self,
        flying: dict[Future[ChunkDone], ChunkTask],
        todo: collections.deque[ChunkTask],
        settled: Callable[[ChunkDone], None],
    ) -> None:
        """What has come by now. No future outlives this: its worker keeps the result until then, and stays for it."""
        ready, _ = wait(flying, timeout=TICK_S, return_when=FIRST_COMPLETED)
        for future in ready:
            self._take(future, flying.pop(future), todo, settled)

    def _expect(self, sent: int) -> None:
        """Have as many workers as there is work for; hear of it if there will be none."""
        self.pool.expect(max(sent, self.left))
        self.error = self.error or self.pool.trouble()

    def _take(
        self,
        future: Future[ChunkDone],
        task: ChunkTask,
        todo: collections.deque[ChunkTask],
        settled: Callable[[ChunkDone], None],
    ) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            result = future.result()
            self.done += result.done
            self.failed += result.failed
            if result.done:
                self.pool.delivered()
            settled(result)
        elif isinstance(error, HandedBack):
            log.info("chunk %d was handed back: %s", task.chunk, error)
            self._handed_back(task, error, todo)
        elif isinstance(error, ModelHubError):
            if self.pool.set_aside(error):
                todo.appendleft(task)
            else:
                self.error = self.error or error
        elif is_worker_lost(error):
            self._lost(task, lost_worker(error), todo)
        else:
            raise error

    def _handed_back(
        self, task: ChunkTask, reason: HandedBack, todo: collections.deque[ChunkTask]
    ) -> None:
        """To somebody else at once, unless it has overrun the walltime of a whole job before."""
        found = last_begun(self.paths, task.chunk) if task.careful and reason.overran else None
        if found:
            self._give_up_for_time(found)
        else:
            todo.appendleft(dataclasses.replace(task, careful=task.careful or reason.overran))

    def _give_up_for_time(self, found: dict[str, Any]) -> None:
        self.given_up.append(f"case {found['case']} needs more time than a job has (--time)")

    def _lost(self, task: ChunkTask, worker: str, todo: collections.deque[ChunkTask]) -> None:
        """A worker died with this chunk: nobody's fault, so it goes out again, last of all.

        From the second time on each case is noted before it is computed, so that one that ends its whole job is found.
        """
        losses = self.losses[task.chunk]
        losses.append(worker)
        log.warning("chunk %d lost its worker %s (%d. time)", task.chunk, worker, len(losses))
        found = last_begun(self.paths, task.chunk) if task.careful else None
        ending = self.pool.ending(worker) if found else None
        blamed: tuple[tuple[int, CaseError], ...] = ()
        if found and ending and ending.for_memory:
            blamed = ((int(found["row"]), memory_error(f"job {ending.job_id}\n{ending.its_log}")),)
            losses.clear()
        if found and ending and ending.out_of_time:
            self._give_up_for_time(found)
        elif len(losses) < MAX_LOSSES or self._forgive(losses):
            todo.append(dataclasses.replace(task, careful=True, blamed=task.blamed + blamed))
        else:
            case = f" (the last time with case {found['case']})" if found else ""
            self.given_up.append(f"{MAX_LOSSES} workers were lost with chunk {task.chunk}{case}")

    def _forgive(self, losses: list[str]) -> bool:
        """Whether workers were taken away rather than failed, which may happen to a chunk any number of times."""
        endings = ((worker, self.pool.ending(worker)) for worker in losses)
        losses[:] = [worker for worker, ending in endings if ending is None or not ending.taken_away]
        return len(losses) < MAX_LOSSES

    def _must_leave(self) -> bool:
        """Whether even what is in flight is not waited for."""
        return self.stop.now or (self._must_stop() and not self.pool.ready())

    def _must_stop(self) -> bool:
        limit = self.options.max_failures
        return self.stop.wanted or self.error is not None or (limit is not None and self.failed > limit)

    def _code(self) -> int:
        limit = self.options.max_failures
        if self.error is not None:
            return self.error.exit_code
        if self.done + self.failed == self.run.cases and not self.given_up:
            return EXIT_FAILED_CASES if self.failed else EXIT_DONE
        if self.stop.wanted:
            return EXIT_INTERRUPTED
        return EXIT_FAILED_CASES if limit is not None and self.failed > limit else EXIT_TRY_AGAIN

    def _why_stopped(self) -> str | None:
        if self.error is not None:
            return str(self.error)
        if self.given_up:
            return f"{'; '.join(self.given_up)}; see {self.paths.logs}"
        if self.done + self.failed == self.run.cases:
            return None
        if self.stop.wanted:
            return "interrupted"
        return f"more than {self.options.max_failures} cases failed"

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self.began
        return Progress(self.run.cases, self.done, self.failed, self.before, seconds, self.pool.ready())

    def _report(self, force: bool = False) -> None:
        progress = self._progress()
        self.observe(progress)
        if force or progress.seconds - self.reported >= PROGRESS_S:
            self.reported = progress.seconds
            if not self.mine.is_current():
                self.error = TryAgainError(f"Another driver has taken over the run in {self.paths.root}.")
            facts = {**dataclasses.asdict(progress), "rate": progress.rate, "eta_s": progress.eta_s}
            facts |= self.pool.facts()
            replace_json(
                self.paths.progress_json, {**facts, "updated": time.time(), "run_id": self.run.run_id}
            )


def memory_error(evidence: str) -> CaseError:
    """Why a case failed that was in flight when SLURM ended a whole job for its use of memory."""
    return CaseError("memory", "it has ended its whole job by its use of memory (ask for more with --mem)", evidence)


def _letters(count: int) -> str:
    return "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(count))
