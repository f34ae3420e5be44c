"""Jobs: runs that clients begin. Each is an ordinary run folder, which is all that is known of it.

What is remembered here, which job waits for its turn and which processes drive, is found again from the folders when a
server starts. Drivers do not end with the server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from modelhub_hpc import config, owner, request, run, slurm
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError
from modelhub_hpc.owner import Owner
from modelhub_hpc.processes import remove_tree
from modelhub_hpc.record import RunPaths, publish_json, publish_text
from modelhub_hpc.request import Order, RunRequest
from modelhub_hpc.run import Asked, Planned
from modelhub_hpc.runfolder import read_json
from modelhub_hpc.runs import Queue
from modelhub_hpc.runs.ending import Ending
from modelhub_hpc.runs.handover import hand_over
from modelhub_hpc.service.jobs.inputs import Named, NewJob, Roots, Upload, named_inputs, sent_inputs
from modelhub_hpc.service.jobs.job import STATES, Job, cancel_path, note_path, see
from modelhub_hpc.service.jobs.turns import Turns
from modelhub_hpc.service.refused import Refused

__all__ = ["STATES", "Job", "Jobs", "Named", "NewJob", "Upload"]

log = logging.getLogger(__name__)

AT_ONCE = 2  # drivers on this machine
MOST_WAITING = 1000  # for one of them
AGAIN_S = 2
_CANCEL_S = 3.0
_COUNTED = 1000  # jobs, the newest, of which the states are counted
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_OURS = "job-"
_REMOVED = ".removed-"


class Jobs:
    """The jobs in a folder. models: their contributions, by the names that clients know; any thread may call."""

    def __init__(
        self, folder: Path, site: SiteConfig, models: Mapping[str, Contribution], roots: Iterable[Path] = ()
    ) -> None:
        self._folder = folder.absolute()
        self._site = site
        self._models = models
        self._roots = tuple(roots)
        self._queue = Queue(every_s=site.poll_s)
        self._over_states: dict[str, tuple[tuple[int, ...], str]] = {}
        self._turns = Turns(AT_ONCE)
        self.closing = threading.Event()
        self._take_up()

    def close(self) -> None:
        """Start no more of them. Those that run go on, and those that wait do so until a server starts again."""
        self.closing.set()
        self._turns.close()

    @property
    def waiting(self) -> int:
        """Jobs that wait for a driver on this machine."""
        return self._turns.waiting()

    # -- what is there ----------------------------------------------------------------------------------------------

    def list(self, limit: int = 50, after: str | None = None) -> tuple[tuple[Job, ...], str | None]:
        """Jobs, newest first, those after the one named; and the last of them, if there are more after it.

        Refused (400) if there is no job of that name any more.
        """
        found = self._newest_first()
        if after is not None:
            names = [paths.root.name for paths in found]
            if after not in names:
                raise Refused(400, "There is no job of that name to go on after; begin anew.")
            found = found[names.index(after) + 1 :]
        jobs = tuple(job for paths in found[:limit] if (job := self._see_if_sound(paths)))
        return jobs, found[limit - 1].root.name if len(found) > limit else None

    def get(self, job_id: str) -> Job:
        """Refused: 404 if there is none, 409 if its folder cannot be read."""
        paths = self.paths(job_id)
        try:
            return self._see(paths)
        except ModelHubError as error:
            self.paths(job_id)  # it may have been removed meanwhile
            log.warning("%s cannot be read: %s", job_id, error)
            raise Refused(409, "This run cannot be read: its folder is damaged, or of another version.") from error

    def paths(self, job_id: str) -> RunPaths:
        """The run folder of a job. Refused (404) if there is none."""
        paths = RunPaths(self._folder / job_id)
        if not _ID.fullmatch(job_id) or paths.root.is_symlink() or not paths.run_json.is_file():
            raise Refused(404, "There is no such job.")
        return paths

    def states(self) -> Counter[str]:
        """How many of the newest jobs are in each state."""
        counts = Counter(dict.fromkeys(STATES, 0))
        for paths in self._newest_first()[:_COUNTED]:
            counts[self._state(paths)] += 1
        counts.pop("", None)
        return counts

    def _state(self, paths: RunPaths) -> str:
        """The state; of one that is over, without looking again unless something was done with it since."""
        stamp = tuple(_written_ns(path) for path in (paths.record_json, paths.private, paths.shards))
        known = self._over_states.get(paths.root.name)
        if known is not None and known[0] == stamp:
            return known[1]
        job = self._see_if_sound(paths)
        if job is None or job.is_over:
            self._over_states[paths.root.name] = stamp, job.state if job else ""
        return job.state if job else ""

    def _newest_first(self) -> Sequence[RunPaths]:
        """By when each became a run, which is when its run.json, that never changes, was written."""
        found = set[tuple[int, str]]()
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if _ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                        found.add((_written_ns(Path(entry.path) / "run.json"), entry.name))
        except FileNotFoundError:
            return ()
        return [RunPaths(self._folder / name) for written, name in sorted(found, reverse=True) if written]

    def _see_if_sound(self, paths: RunPaths) -> Job | None:
        try:
            return self._see(paths)
        except ModelHubError as error:
            log.warning("%s is left out: %s", paths.root.name, error)
            return None

    def _see(self, paths: RunPaths) -> Job:
        # a queue from before its jobs were submitted would say that they have ended
        self._queue.look_again(since=_written_ns(paths.jobs) / 1e9)
        return see(paths, self._queue, paths.root.name in self._turns)

    # -- begin ------------------------------------------------------------------------------------------------------

    def begin(self, new: NewJob, key: str | None = None) -> tuple[Job, bool]:
        """Begin a job, or find the one that the same request with the same key has begun; whether it is a new one.

        Returns once its cases are known, before any is computed. Refused: 422 for a model, input or option that
        cannot be used, and for a key that another request has used; 409 while the same request is being worked on; 429
        while too many wait.
        Raises ModelHubError as `mh-hpc submit` does.
        """
        job_id = _OURS + (hashlib.sha256(key.encode()).hexdigest()[:16] if key else secrets.token_hex(8))
        model = self._models.get(new.model)
        if model is None:
            raise Refused(422, f"This server has no such model. It has: {', '.join(self._models)}.")
        paths, digest = RunPaths(self._folder / job_id), _digest(new)
        if not paths.run_json.exists():
            if self._turns.waiting() >= MOST_WAITING:
                raise Refused(429, "Too many jobs are waiting.", 30 * AGAIN_S)
            paths.create()
            mine = owner.contend(paths.private)
            if not isinstance(mine, Owner):
                raise Refused(409, "A request with this Idempotency-Key is being worked on.", AGAIN_S)
            if not paths.run_json.exists():
                return self._begin(paths, new, model, digest, mine), True
            mine.release()
        if read_json(note_path(paths)).get("request") != digest:
            raise Refused(422, "Another request has used this Idempotency-Key.")
        return self._see(paths), False

    def _begin(self, paths: RunPaths, new: NewJob, model: Contribution, digest: str, mine: Owner) -> Job:
        try:
            planned = self._plan(paths, new, model)
            note_path(paths).unlink(missing_ok=True)
            publish_json(note_path(paths), {"request": digest})
            self._start(paths, run.begin(planned, mine))
        except BaseException:
            remove_tree(paths.root)
            raise
        return self._see(paths)

    def _plan(self, paths: RunPaths, new: NewJob, model: Contribution) -> Planned:
        """As `mh-hpc submit` does it, with files of the allowed folders only."""
        roots = Roots(self._roots)
        uploads, table = paths.private / "uploads", paths.private / "cases.csv"
        remove_tree(uploads)  # of a server that was killed here
        table.unlink(missing_ok=True)
        if new.uploads:
            uploads.mkdir()
            roots = Roots([uploads])
            inputs = sent_inputs(new, model, uploads, table)
        else:
            inputs = named_inputs(new, model, roots, table)
        site = self._with_options(new)
        try:
            planned = run.plan(Asked(str(model.path), inputs, site, paths.root, command="POST /jobs"))
        except InvalidError as error:
            raise Refused(422, str(error).replace(f"{paths.private}/", "")) from error
        roots.check_cases(planned.found.cases)
        if config.on_slurm(site):
            slurm.refuse(paths.root, site.executor)
            slurm.judge(site)
        return dataclasses.replace(planned, run=dataclasses.replace(planned.run, run_id=paths.root.name))

    def _with_options(self, new: NewJob) -> SiteConfig:
        """The site's options, of which a client may change some, and those that cost something only downward."""
        most = {"workers": config.worker_count(self._site), "case_timeout_s": self._site.case_timeout_s}
        for name, highest in most.items():
            value = new.options.get(name)
            if isinstance(value, (int, float)) and value > highest:
                raise Refused(422, f"The option {name} may be {highest:g} here at most.")
        return config.from_json({**config.to_json(self._site), **new.options})

    def _start(self, paths: RunPaths, begun: RunRequest) -> None:
        if config.on_slurm(begun.site):
            hand_over(paths, begun, Order(begun.site, (), begun.site.max_failures))
        else:
            self._turns.add(paths)

    # -- end --------------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> Job:
        """End a job that is not over; what is done stays. It may take a while, in which its state is what it was.

        Refused (404) if there is none. Raises UnfitError for a driver on another machine, and what SLURM answers.
        """
        paths = self.paths(job_id)
        if not self._see(paths).is_over:
            publish_text(cancel_path(paths), "")
            if not self._turns.end(job_id):
                Ending.of_run(paths, request.read(paths)).end(_CANCEL_S)
        return self._see(paths)

    def remove(self, job_id: str) -> None:
        """End a job, and remove it with its results and the files that were sent for it.

        Refused: 404 if there is none, 403 for a run that was not begun here, 409 while it has not ended.
        """
        paths = self.paths(job_id)
        if not note_path(paths).exists():
            raise Refused(403, "This run was not begun here: it can be canceled, and its folder removed by hand.")
        if not self.cancel(job_id).is_over:
            raise Refused(409, "The job is being ended. Remove it then.", AGAIN_S)
        gone = self._folder / f"{_REMOVED}{job_id}-{secrets.token_hex(4)}"
        os.rename(paths.root, gone)
        remove_tree(gone)
        self._over_states.pop(job_id, None)

    # -- after a restart --------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Go on with what earlier servers have left, and remove what they were about to remove or to begin."""
        for folder in self._left(_REMOVED):
            remove_tree(folder)
        for folder in self._left(_OURS):
            paths = RunPaths(folder)
            if not paths.run_json.exists() and not _is_owned(paths):
                remove_tree(folder)
        for paths in reversed(self._newest_first()):
            if note_path(paths).exists() and not paths.record_json.exists():
                try:
                    self._take_up_one(paths)
                except ModelHubError as error:
                    log.error("job %s is left as it is: %s", paths.root.name, error)

    def _take_up_one(self, paths: RunPaths) -> None:
        begun = request.read(paths)
        on_slurm = config.on_slurm(begun.site)
        holder = owner.holder(paths.private)
        if holder is not None and holder.alive is not False:  # a dead one may be the server that wrote the run down
            if holder.alive and not on_slurm:
                self._turns.adopt(paths.root.name, holder.record)
        elif not (paths.progress_json.exists() or cancel_path(paths).exists()):
            if not (on_slurm and paths.order_json.exists()):
                self._start(paths, begun)

    def _left(self, prefix: str) -> Iterator[Path]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return
        yield from (self._folder / name for name in names if name.startswith(prefix))


def _digest(new: NewJob) -> str:
    return hashlib.sha256(json.dumps(new.facts(), sort_keys=True).encode()).hexdigest()


def _is_owned(paths: RunPaths) -> bool:
    try:
        holder = owner.holder(paths.private)
    except (TryAgainError, OSError):
        return False
    return holder is not None and holder.alive is not False


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
