"""Compute a chunk of cases in this process and publish it as a shard."""

from __future__ import annotations

import atexit
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, config, platforms, request
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import MachineError
from modelhub_hpc.plan import Manifest
from modelhub_hpc.predict import Predicted, Predictor, failed
from modelhub_hpc.record import CaseError, RunPaths, ShardInvalid, ShardWriter, read_shard, replace_json
from modelhub_hpc.runfolder import Json, read_json
from modelhub_hpc.session import StartError
from modelhub_hpc.workplace import HERE, HandedBack


@dataclass(frozen=True)
class ChunkTask:
    """One chunk to predict. rows: the manifest rows of [first, first + count) to try again; () for all.

    site: the options of the driver that sends it, which may differ from those the run was begun with.
    careful: the chunk has lost workers, so note each case before it is computed.
    blamed: cases that ended their whole job, and are not computed again.
    """

    root: str
    site: SiteConfig
    chunk: int
    first: int
    count: int
    generation: int = 0
    rows: tuple[int, ...] = ()
    careful: bool = False
    blamed: tuple[tuple[int, CaseError], ...] = ()


@dataclass(frozen=True)
class ChunkDone:
    """What the driver is told. seconds: time in the model, summed over the cases; node: where it was computed."""

    chunk: int
    generation: int
    done: int
    failed: int
    seconds: float
    node: str


def predict_chunk(task: ChunkTask) -> ChunkDone:
    """Predict a chunk in this worker and publish its shard, unless it is there already.

    Raises HandedBack if this worker has to leave.
    """
    with HERE.busy:
        chunk = _run_of(task.root, task.site)
        published = chunk.published(task)
        if published is not None:
            return published
        if HERE.must_leave():
            raise HandedBack(f"{HERE.name} takes no more chunks")
        began = time.monotonic()
        try:
            done = chunk.compute(task)
        except (StartError, MachineError):
            if HERE.name:
                HERE.leave()  # nothing better is to be expected here, and other nodes may do
            raise
        HERE.took(time.monotonic() - began)
        HERE.must_leave()  # so that nothing is sent here any more
        return done


def load_model(task: ChunkTask) -> None:
    """Have the model loaded in this worker, which a chunk like this one will need. Raises StartError."""
    with HERE.busy:
        _run_of(task.root, task.site).predictor.load()


def last_begun(paths: RunPaths, chunk: int) -> dict[str, Any] | None:
    """The case of a chunk that was in flight last, as a careful worker has noted it."""
    return read_json(paths.careful(chunk)) or None


class WorkerRun:
    """One run as a worker process sees it."""

    def __init__(self, root: str, site: SiteConfig) -> None:
        self.paths = RunPaths(Path(root))
        self.run = dataclasses.replace(request.read(self.paths), site=site)
        self.manifest = Manifest.open(self.paths.manifest, self.paths.manifest_index)
        self.predictor = Predictor(self.run, self.paths.logs)

    def published(self, task: ChunkTask) -> ChunkDone | None:
        """What the chunk's shard says, if there is one."""
        final = self.paths.shard(task.chunk, task.generation)
        if not final.exists():
            return None
        try:
            results = read_shard(final, self.run.run_id, self.run.plan, verify_arrays=False).results
        except ShardInvalid:
            return None  # publishing a good one sets it aside
        return _sum(task, [(r.status, r.seconds) for r in results])

    def compute(self, task: ChunkTask) -> ChunkDone:
        """Compute the chunk's cases and publish them; if another attempt was first, its results count."""
        began, loading_s, reading_s = time.monotonic(), self.predictor.start_s, self.predictor.read_s
        writing = began_writing = 0.0
        sums: list[tuple[str, float]] = []

        def by() -> dict[str, Any]:
            now = time.monotonic()
            spent = {
                "start": self.predictor.start_s - loading_s,
                "read": self.predictor.read_s - reading_s,
                "model": sum(seconds for _, seconds in sums),
                "write": writing + now - began_writing,
                "chunk": now - began,
            }
            return self._signature(spent)

        writer = ShardWriter(self.paths, self.run.run_id, self.run.plan, task.chunk, task.generation, by=by)
        with writer as shard:
            for result, arrays in self._results(task):
                if HERE.told_to_end.is_set():
                    self.predictor.close()
                    raise HERE.ended()
                began_writing = time.monotonic()
                shard.add(result, arrays)
                writing += time.monotonic() - began_writing
                sums.append((result.status, result.seconds))
            began_writing = time.monotonic()
            if shard.publish():
                return _sum(task, sums)
        # they may differ from ours
        first = self.published(task)
        return first if first is not None else self.compute(task)

    def _results(self, task: ChunkTask) -> Iterator[Predicted]:
        cases = enumerate(self.manifest.cases(task.first, task.count), task.first)
        blamed, again = dict(task.blamed), frozenset(task.rows)
        rows = [(row, case) for row, case in cases if not again or row in again]
        for row, case in rows:
            if row in blamed:
                yield failed((row, case), time.time(), 2, blamed[row]), {}
        free = [row for row in rows if row[0] not in blamed]
        if not task.careful:
            yield from self.predictor.predict(free)
            return
        for each in free:
            note: dict[str, Json] = {"row": each[0], "case": each[1].id, "job": config.caller().slurm_job_id}
            replace_json(self.paths.careful(task.chunk), note)
            yield from self.predictor.predict([each])

    def _signature(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        """Who computes here, for the shard; seconds: of this chunk, by stage."""
        log_path = self.predictor.log_path
        return {
            "worker": HERE.name or None,
            "node": config.node(),
            "cpu_model": platforms.cpu_model(),
            "job": config.caller().slurm_job_id,
            "gpus": list(self.predictor.gpus),
            "gpu_models": list(platforms.gpu_models()) if self.predictor.gpus else [],
            "gpu_driver": platforms.gpu_driver() if self.predictor.gpus else None,
            "unmeasured": dict(self.predictor.unmeasured),
            "software": __version__,
            "log": log_path.name if log_path else None,
            "seconds": {stage: round(value, 6) for stage, value in seconds.items()},
        }


_serving: dict[tuple[str, SiteConfig], WorkerRun] = {}  # the one run that this process works for


def _run_of(root: str, site: SiteConfig) -> WorkerRun:
    if (root, site) not in _serving:
        close()
        _serving[root, site] = WorkerRun(root, site)
    return _serving[root, site]


def hang_up() -> None:
    """Let this process's session end, without waiting for it: no more chunks will come."""
    for serving in _serving.values():
        serving.predictor.hang_up()


@atexit.register
def close() -> None:
    """End this process's session, if it has one."""
    while _serving:
        _serving.popitem()[1].predictor.close()


def _sum(task: ChunkTask, results: Sequence[tuple[str, float]]) -> ChunkDone:
    done = sum(status == "done" for status, _ in results)
    seconds = sum(seconds for _, seconds in results)
    return ChunkDone(task.chunk, task.generation, done, len(results) - done, seconds, config.node())
