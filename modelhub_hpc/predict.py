"""Predict cases in this process with one warm session.

A case that cannot be predicted becomes a failed result with its evidence. What is nobody's fault (a full disk, an
image that went away, a model that does not start) is raised instead.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from modelhub_hpc import config, images, inputs
from modelhub_hpc.batches import Batches
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.errors import InputError, InvalidError, TryAgainError, shown
from modelhub_hpc.gpumeter import GpuMeter
from modelhub_hpc.plan import Case
from modelhub_hpc.plan.files import files_of, identity_of, series_of
from modelhub_hpc.record import UNMEASURED, ArrayOutput, CaseError, CaseResult, Cost, Output, check_storable
from modelhub_hpc.request import RunRequest
from modelhub_hpc.session import Session, SessionError, StartError
from modelhub_hpc.wire import RawOutput, Reply, Request
from modelhub_hpc.workplace import HERE

log = logging.getLogger(__name__)

MAX_STORAGE_FAULTS = 3
_SIGNAL_S = 1.0  # by which the signal that ends a job may reach the model before the worker

Row = tuple[int, Case]
Predicted = tuple[CaseResult, Mapping[str, ArrayOutput]]


class Predictor:
    """Predicts case after case in a warm session, replacing the session when a case ends it.

    gpus: those of its sessions; start_s: seconds until models were loaded, summed over its sessions; read_s: seconds
    in which inputs were judged, most of them while the model computed another case; unmeasured: why not all is
    measured of GPUs, by the name that Cost has for it.
    """

    def __init__(self, run: RunRequest, logs: Path | None) -> None:
        self._run = run
        self._limits = run.limits()
        found, workers = config.gpus(run.site), config.workers_here(run.site)
        self.gpus = _share(found, HERE.slot, workers)
        self.start_s = self.read_s = 0.0
        self.unmeasured: dict[str, str] = {}
        self._shared = workers > len(found)
        self._meter: GpuMeter | None = None  # of the present session
        self._spec = run.session_spec(logs, self.gpus)
        self._session: Session | None = None
        self._batches = Batches(run.site.batch_size)
        self._image = run.image  # or its copy on this node
        self._runs_from: images.Inode | None = None
        self._storage_faults = 0

    def load(self) -> None:
        """Have the model loaded before the first case comes. Raises StartError."""
        self._warm()

    def hang_up(self) -> None:
        """Let the model end, without waiting for it: no more cases will come."""
        if self._session is not None:
            self._session.hang_up()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    @property
    def log_path(self) -> Path | None:
        """Where the stderr of the present session goes."""
        return self._session.log_path if self._session is not None else None

    def predict(self, rows: Iterable[Row]) -> Iterator[Predicted]:
        """One result per row, in any order; arrays of a result last until the next one is asked for.

        Raises StartError if the model does not start, TryAgainError if storage fails, HandedBack if this job is being
        ended, and InvalidError, at the end at the latest, if the image was changed under the model: then none of
        these results counts.
        """
        waiting = collections.deque(rows)
        try:
            while waiting:
                yield from self._until_session_ends(waiting)
            self._check_again()
        except BaseException:
            self.close()  # answers may still be on their way, and must not be taken for those of another case
            raise

    def _until_session_ends(self, waiting: collections.deque[Row]) -> Iterator[Predicted]:
        flying: dict[str, tuple[Row, float]] = {}
        refused: collections.deque[CaseResult] = collections.deque()
        try:
            session = self._warm()
            if self._meter is not None:
                self._meter.begin()
            for reply in session.predict(self._requests(waiting, flying, refused), self._batches.sizes()):
                row, started = flying.pop(reply.id)
                self._batches.took(reply.asked, reply.batch, None if reply.error else reply.seconds)
                yield self._result(row, reply, started, attempts=1)
                while refused:
                    yield refused.popleft(), {}
        except SessionError as error:
            self.close()
            _hand_back_if_ended(error)
            (row, started), *others = flying.values()
            waiting.extendleft(other for other, _ in reversed(others))
            if error.batch > 1:
                log.warning("%d cases together: %s; computing them one by one", error.batch, error)
                self._batches.split(error.batch)
                waiting.appendleft(row)
            elif error.kind == "storage":
                self._put_back(row, waiting, error)
            else:
                log.warning("case %s: %s; trying it once more, alone", row[1].id, error)
                yield from self._alone(row, started, waiting)
        while refused:
            yield refused.popleft(), {}

    def _requests(
        self,
        waiting: collections.deque[Row],
        flying: dict[str, tuple[Row, float]],
        refused: collections.deque[CaseResult],
    ) -> Iterator[Request]:
        """Requests for the waiting cases that pass inspection, judged while the model computes the one before."""
        while waiting:
            row = waiting.popleft()
            started, began = time.time(), time.monotonic()
            try:
                self._inspect(row[1])
                seen = self._visible(row[1])
            except InputError as error:
                refused.append(_refused(row, started, error))
                continue
            finally:
                self.read_s += time.monotonic() - began
            flying[row[1].id] = row, started
            yield Request(row[1].id, seen)

    def _alone(self, row: Row, started: float, waiting: collections.deque[Row]) -> Iterator[Predicted]:
        """Try the case that ended a session once more, in a session of its own."""
        try:
            request = Request(row[1].id, self._visible(row[1]))
            for reply in self._warm().predict([request]):
                yield self._result(row, reply, started, attempts=2)
        except InputError as error:
            yield _refused(row, started, error), {}
        except SessionError as error:
            self.close()
            _hand_back_if_ended(error)
            if error.kind == "storage":
                self._put_back(row, waiting, error)
            else:
                failure = CaseError(error.kind, str(error), error.evidence.text())
                yield failed(row, started, 2, failure), {}

    def _put_back(self, row: Row, waiting: collections.deque[Row], error: SessionError) -> None:
        """The image's files went away under the model, which is not the case's fault."""
        self._storage_faults += 1
        if self._storage_faults > MAX_STORAGE_FAULTS:
            raise TryAgainError(f"The image went away {self._storage_faults} times in a row: {error}")
        log.warning("case %s: %s; trying it again", row[1].id, error)
        waiting.appendleft(row)

    def _warm(self) -> Session:
        if self._session is None:
            try:
                self._session = self._started()
            except StartError as error:
                _hand_back_if_ended(error)
                self._check_again()
                if not error.sudden:
                    raise
                log.warning("%s; starting it once more", error)
                self._session = self._started()
        return self._session

    def _started(self) -> Session:
        spec = self._spec
        if self._run.image is not None and self._image is not None:
            if self._run.site.stage_image:
                self._image = images.stage(self._run.image, self._run.site)
            self._runs_from = images.check(self._image)
            spec = dataclasses.replace(spec, image=self._image.path)
        began = time.monotonic()
        session = Session(spec).__enter__()
        if session.ready is not None and not session.ready.batches:
            if self._run.site.batch_size != "1":
                log.warning("the model has no infer_batch: --batch-size %s changes nothing", self._run.site.batch_size)
            self._batches.no_more()
        self.start_s += time.monotonic() - began
        if self.gpus:
            self._meter = GpuMeter(self.gpus, self._shared)
            self.unmeasured = self._meter.missing
        return session

    def _check_again(self) -> None:
        """A model whose image is overwritten may go on and be wrong. Raises InvalidError, TryAgainError of a copy."""
        if self._image is None or self._runs_from is None:
            return
        try:
            images.check_again(self._image, self._runs_from)
        except InvalidError:
            if self._image is self._run.image:
                raise
            raise TryAgainError(
                f"{shown(self._image.path)} on {config.node()} was changed while the model ran from it: a copy of "
                f"'{shown(self._image.name)}'.\nWhat was computed since is not kept. The same command makes a new copy."
            ) from None

    def _inspect(self, case: Case) -> None:
        self._unchanged(case)
        for path in files_of(case):
            inputs.check(path, self._limits)
            if self._run.site.nan == "fail" and (count := inputs.non_finite(path)):
                message = f"{count} voxels of {path} are not finite (--nan keep accepts them)"
                raise InputError("non-finite", message)

    def _visible(self, case: Case) -> tuple[tuple[str, str], ...]:
        aliases, files = self._warm().aliases, series_of(case)
        return ((case.inputs[0][0], aliases.gathered(files)),) if files else aliases.visible(case.inputs)

    def _unchanged(self, case: Case) -> None:
        if identity_of(case) != (case.input_bytes, case.input_mtime_ns):
            names = ", ".join(path for _, path in case.inputs)
            raise InputError("changed", f"changed since the run was planned: {names}")

    def _result(self, row: Row, reply: Reply, started: float, attempts: int) -> Predicted:
        index, case = row
        self._storage_faults = 0
        gpu = self._meter.answered(reply.batch) if self._meter is not None else (None, None)
        cost = Cost(reply.peak_mb, *gpu)
        error = self._fault(case, reply)
        if error is not None:
            return failed(row, started, attempts, error, cost), {}
        outputs = tuple(_value(output) for output in reply.outputs)
        result = CaseResult(
            case.id, index, "done", outputs, reply.seconds, attempts, None, reply.notes, config.node(), started, cost
        )
        return result, _arrays(reply.outputs, self._run.model.outputs, case)

    def _fault(self, case: Case, reply: Reply) -> CaseError | None:
        """Why this answer is no result, if it is none."""
        try:
            self._unchanged(case)
        except InputError as error:
            return CaseError("input", f"{error.kind}: {error}", reply.traceback)
        if reply.error is not None:
            return CaseError("output" if reply.kind == "output" else "model", reply.error, reply.traceback)
        arrays = [output.array for output in reply.outputs if output.array]
        size, limit = sum(array.nbytes for array in arrays) / 2**20, self._run.site.max_output_mb
        if size > limit:
            return CaseError(
                "output", f"the arrays take {size:.0f} MiB, more than the {limit} MiB of --max-output"
            )
        try:
            for array in arrays:
                check_storable(array.array)
        except ValueError as error:
            return CaseError("output", str(error))
        return None


def _hand_back_if_ended(error: SessionError | StartError) -> None:
    """A model that dies because SLURM ends the job has done nothing wrong, nor has its case."""
    if HERE.is_being_ended(_SIGNAL_S):
        raise HERE.ended() from error


def _share(gpus: tuple[str, ...], slot: int, workers: int) -> tuple[str, ...]:
    """The GPUs of one of several workers: as many as can be given to it alone, else one that it shares."""
    if not gpus:
        return ()
    return gpus[slot::workers] if workers <= len(gpus) else (gpus[slot % len(gpus)],)


def _refused(row: Row, started: float, error: InputError) -> CaseResult:
    return failed(row, started, 0, CaseError("input", f"{error.kind}: {error}"))


def failed(row: Row, started: float, attempts: int, error: CaseError, cost: Cost = UNMEASURED) -> CaseResult:
    """The result of a case that could not be predicted; started: seconds since 1970."""
    return CaseResult(row[1].id, row[0], "failed", (), 0.0, attempts, error, (), config.node(), started, cost)


def _value(output: RawOutput) -> Output:
    return Output(output.name, output.type, output.description, output.shape, output.value)


def _arrays(outputs: tuple[RawOutput, ...], specs: tuple[OutputSpec, ...], case: Case) -> dict[str, ArrayOutput]:
    """The outputs that are arrays, by name; outputs belong to specs by position."""
    if not any(output.array for output in outputs):
        return {}
    place = _geometry(case)
    return {
        output.name: ArrayOutput(output.array.array, output.type, output.description, {**place, **_axes(spec)})
        for output, spec in zip_longest(outputs, specs)
        if output is not None and output.array
    }


def _axes(spec: OutputSpec | None) -> dict[str, str]:
    # None: the model is another than the one that was planned with, and gives more; its arrays are kept all the same
    return {"axes": spec.axes} if spec is not None and spec.axes else {}


def _geometry(case: Case) -> dict[str, tuple[float, ...]]:
    """Size, spacing, origin and direction of the input, the first one of several, if it has them."""
    try:
        space = inputs.geometry(case.inputs[0][1], series_of(case))
    except InputError:
        return {}  # the model could read what we cannot: its result counts, without a place in space
    return dataclasses.asdict(space) if space else {}
