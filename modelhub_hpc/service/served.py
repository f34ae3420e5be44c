"""What a server serves: models by name, their sessions, and what goes when it ends."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, config, images, models, needs, processes, resources
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.digests import tree_digest
from modelhub_hpc.errors import MachineError, ModelHubError, UsageError, shown
from modelhub_hpc.plan import safe_name
from modelhub_hpc.predict import Predictor
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest
from modelhub_hpc.service import jobseats, rest
from modelhub_hpc.service.jobs import Jobs
from modelhub_hpc.service.sessions import LocalSeat, Queue, Seat, SessionPool, Sweeper
from modelhub_hpc.service.settings import ServiceSettings
from modelhub_hpc.workplace import HERE

log = logging.getLogger(__name__)

_KIND = "mh-hpc-serve"
_slot = threading.Lock()
KEEP_S = 3600.0  # an array that nobody has fetched by then
KEEP_BYTES = 8 * 2**30  # of a model's arrays; the oldest go


@dataclass(frozen=True)
class ServedModel:
    """A model as clients know it. rest: the engine's RequestHandler for it; outputs: arrays that clients may fetch."""

    name: str
    contribution: Contribution
    sessions: SessionPool
    rest: Any
    outputs: Path


class Service:
    """The models of a server. Close it: sessions are processes."""

    def __init__(self, settings: ServiceSettings, models: Mapping[str, Contribution]) -> None:
        """models: by their names in addresses. Raises InvalidError or UnfitError for one that cannot run."""
        self.settings = settings
        queue = Queue(settings.max_waiting + settings.sessions * len(models))
        engine = tree_digest(resources.folder("engine"))
        self.stopping = threading.Event()
        terms = (settings, queue, engine, self.stopping)
        self.models = {name: _serve(name, model, *terms) for name, model in models.items()}
        contributions = {name: model.contribution for name, model in self.models.items()}
        self.jobs = Jobs(settings.jobs, settings.jobs_site, contributions, settings.roots)
        self._sweeper = Sweeper(self._sweep)

    def close(self) -> None:
        """End all sessions; requests that a session works on are answered first."""
        self._sweeper.close()
        self.jobs.close()
        for model in self.models.values():
            model.sessions.close()

    def _sweep(self) -> None:
        for model in self.models.values():
            model.sessions.end_idle()
            _forget_old(model.outputs)


def _forget_old(folder: Path) -> None:
    """Keep what is new, and no more of it than there is room for."""
    kept = 0
    found = [(path.stat(), path) for path in folder.iterdir()]
    for info, path in sorted(found, key=lambda each: -each[0].st_mtime):
        kept += info.st_size
        if kept > KEEP_BYTES or time.time() - info.st_mtime > KEEP_S:
            path.unlink()


@contextlib.contextmanager
def private_folder(site: SiteConfig) -> Iterator[Path]:
    """A folder for a server's life, after removing those of servers that were killed. Raises MachineError.

    It is of this machine, or in the current folder where jobs have to see it.
    """
    base = Path.cwd() if site.executor == "slurm" else config.scratch_dir(site)
    try:
        for left in processes.ended_folders(base, _KIND):
            processes.remove_tree(left)
        folder = processes.private_folder(base, _KIND)
    except OSError as error:
        message = f"No folder can be made in {base}: {error.strerror}. Choose another: --scratch-dir or TMPDIR."
        raise MachineError(message, config.node()) from error
    try:
        yield folder
    finally:
        processes.remove_tree(folder)


def find(names: Sequence[str], site: SiteConfig) -> dict[str, Contribution]:
    """The models of these names; without names all that are here, as long as their images are, too."""
    if not names:
        every = {name: models.find(name, site) for name in models.here(site)}
        return {name: model for name, model in every.items() if _can_run(model, site)}
    found = {safe_name(Path(name).name): models.find(name, site) for name in names}
    if len(found) < len(names):
        raise UsageError("Two of the models have one name; serve them by two servers.")
    return found


def _can_run(model: Contribution, site: SiteConfig) -> bool:
    try:
        needs.check(model, site)
        if site.runtime != "host":
            images.find(model.image, site)
    except ModelHubError as error:
        log.warning("%s is not served: %s", shown(model.name), str(error).splitlines()[0])
        return False
    return True


def _serve(
    name: str,
    model: Contribution,
    settings: ServiceSettings,
    queue: Queue,
    engine: str,
    stopping: threading.Event,
) -> ServedModel:
    needs.check(model, settings.site)
    requests, outputs = (settings.folder / kind / name for kind in ("requests", "outputs"))
    for folder in (requests, outputs):
        folder.mkdir(parents=True, mode=0o700)
    samples = model.contrib_src / "sample_data"
    run = _run(model, settings, engine, (requests, samples) if samples.is_dir() else (requests,))
    seats = _seats(run, settings.folder / "workers" / name, settings.queue_s, stopping)
    sessions = SessionPool(seats, settings.sessions, queue, settings.idle_s)
    return ServedModel(name, model, sessions, rest.handler(model, sessions, requests, outputs, settings), outputs)


def _seats(
    run: RunRequest, folder: Path, queue_s: float, stopping: threading.Event
) -> Callable[[int], Seat]:
    """What makes a place for a session of the run: here, or in a job."""
    if run.site.executor != "slurm":
        return lambda number: LocalSeat(_predictor(run, number))
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    return jobseats.SlurmSeats(run, RunPaths(folder), queue_s, stopping).take


def _predictor(run: RunRequest, number: int) -> Predictor:
    """One of several of this process; each has its own share of the GPUs."""
    with _slot:
        HERE.slot = number
        return Predictor(run, None)


def _run(model: Contribution, settings: ServiceSettings, engine: str, roots: tuple[Path, ...]) -> RunRequest:
    """The sessions' terms, which are those of a run without cases."""
    site = replace(
        settings.site,
        workers=settings.sessions,
        min_workers=0,
        max_input_mb=min(settings.site.max_input_mb, 8 * settings.max_upload_bytes // 2**20),
    )
    image = None if site.runtime == "host" else images.find(model.image, site)
    if image is not None:
        images.admit(image, site)
    return RunRequest(
        run_id=f"serve-{safe_name(model.name)}",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command="mh-hpc serve",
        software=__version__,
        engine=engine,
        model=model,
        image=image,
        site=site,
        inputs=(),
        roots=roots,
        plan="",
        cases=0,
    )
