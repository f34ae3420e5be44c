"""Workers that are SLURM jobs: dask-jobqueue hosts the scheduler and writes scripts, a supervisor keeps them coming."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from modelhub_hpc import network, slurm
from modelhub_hpc.driver import last_words, note_job
from modelhub_hpc.errors import MachineError, ModelHubError
from modelhub_hpc.executors.pool import Pool
from modelhub_hpc.executors.scripts import TLS, job_settings, jobqueue, security, worker_script
from modelhub_hpc.executors.settings import DASK
from modelhub_hpc.executors.supervisor import Hands, Supervisor
from modelhub_hpc.executors.worker import leave
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runfolder import Json, privately, write_synced
from modelhub_hpc.session import StartError

log = logging.getLogger(__name__)

_LOG_S = 3.0  # by which SLURM's last words may come after the end of a job
_CLOSE_S = 30


class SlurmPool(Pool):
    """Workers that come and go."""

    def __init__(self, executor: Executor, cluster: Any, client: Any, supervisor: Supervisor, paths: RunPaths) -> None:
        super().__init__(executor, 0)
        self._cluster = cluster
        self._client = client
        self._supervisor = supervisor
        self._paths = paths

    def ready(self) -> int:
        return len(self._cluster.scheduler.running)

    def expect(self, chunks: int) -> None:
        self._supervisor.expect(chunks)

    def delivered(self) -> None:
        self._supervisor.proved = True

    def trouble(self) -> ModelHubError | None:
        return self._supervisor.trouble

    def set_aside(self, error: ModelHubError) -> bool:
        """Go on without a node that fails, unless it is the model that fails."""
        if isinstance(error, StartError):
            of_the_model = not (error.sudden or error.is_of_the_machine)
            if of_the_model and not self._supervisor.proved:
                return False
        elif not isinstance(error, MachineError):
            return False
        return self._supervisor.exclude(error.node, str(error).splitlines()[0])

    def ending(self, worker: str) -> slurm.Ending | None:
        job_id = self._supervisor.job_of(worker)
        if job_id is None:
            return None
        deadline = time.monotonic() + _LOG_S
        while True:
            found = slurm.ending(job_id, last_words(self._paths, job_id))
            if found.for_memory or found.out_of_time or found.taken_away or time.monotonic() > deadline:
                return found
            time.sleep(_LOG_S / 3)

    def facts(self) -> dict[str, Json]:
        return {"slurm": self._supervisor.facts()}


@contextlib.contextmanager
def slurm_pool(run: RunRequest, paths: RunPaths, folder: Path) -> Iterator[Pool]:
    """Workers in SLURM jobs, fed from here. The process works in the run folder, as its jobs do.

    folder: for certificates; nobody without them can talk to the scheduler or a worker. They are read while this is
    opened, by names from the run folder on, since dask takes a name with a line break for a certificate.
    Raises UsageError or UnfitError where SLURM cannot be asked for such workers.
    """
    import dask
    from distributed import Client

    settings = job_settings(run)  # which may be refused, before anything is started
    interface = run.site.interface
    host = network.address_of(interface) if interface else network.address_towards(slurm.cluster().controller)
    os.chdir(paths.root)
    _make_certificate(folder)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it reaches the run loop
    options = {"host": host, "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with dask.config.set({**DASK, "temporary-directory": str(folder)}), contextlib.ExitStack() as stack:
        cluster = stack.enter_context(
            jobqueue().SLURMCluster(
                security=security(), scheduler_options=options, silence_logs=logging.CRITICAL, **settings
            )
        )
        client = stack.enter_context(
            Client(cluster, security=security(), timeout=_CLOSE_S)  # type: ignore[no-untyped-call]
        )
        supervisor = Supervisor(run.site, run.run_id, _hands(run, paths, cluster, client), _next_number(paths))
        cluster.scheduler.add_plugin(_roll_call(supervisor), name="roll-call")
        # a chunk that goes out again is another task: dask would answer with what became of the first
        pool = SlurmPool(client.get_executor(pure=False), cluster, client, supervisor, paths)
        supervisor.start()
        try:
            yield pool
        finally:
            supervisor.stop()


def _hands(run: RunRequest, paths: RunPaths, cluster: Any, client: Any) -> Hands:
    def submit(name: str, excluded: tuple[str, ...]) -> str:
        script = worker_script(run, cluster.scheduler_address, name)
        keep_off = [f"--exclude={','.join(excluded)}"] if excluded else []
        return slurm.submit([f"--job-name={name}", *keep_off], script, paths.root)

    def note(job_id: str, name: str) -> None:
        note_job(paths, job_id, "worker", name)

    def workers() -> dict[str, str]:
        states = list(cluster.scheduler.workers.values())
        return {str(state.name): str(state.extra.get("node", "")) for state in states}

    def idle() -> set[str]:
        return {str(state.name) for state in list(cluster.scheduler.workers.values()) if not state.processing}

    def have_leave(names: set[str]) -> None:
        addresses = [s.address for s in list(cluster.scheduler.workers.values()) if str(s.name) in names]
        if addresses:
            # a worker that hangs never answers, and nobody waits for it
            threading.Thread(target=_tell, args=(client, addresses), daemon=True).start()

    return Hands(submit, note, workers, idle, have_leave, lambda job_id: last_words(paths, job_id))


def _tell(client: Any, addresses: list[str]) -> None:
    try:
        client.run(leave, workers=addresses, wait=False, on_error="ignore")
    except Exception as error:  # the run may have ended meanwhile, and its client with it
        log.debug("not told to leave: %s: %r", addresses, error)


def _next_number(paths: RunPaths) -> int:
    """Workers are numbered through all drivers of a run, so that no two jobs have one name."""
    names = (re.search(r'-w(\d+)"', path.read_text()) for path in paths.jobs.glob("*.json"))
    return 1 + max((int(match[1]) for match in names if match), default=0)


def _make_certificate(folder: Path) -> None:
    """A key and certificate that only this driver and its workers have."""
    from distributed.security import Security

    ours = Security.temporary()  # type: ignore[no-untyped-call]
    (folder / TLS.name).mkdir(parents=True, mode=0o700)
    write_synced(folder / TLS.name / "cert.pem", str(ours.tls_ca_file).encode())
    with privately():  # whatever the group may read of a run
        write_synced(folder / TLS.name / "key.pem", str(ours.tls_scheduler_key).encode())


def _roll_call(supervisor: Supervisor) -> Any:
    from distributed.diagnostics.plugin import SchedulerPlugin

    class RollCall(SchedulerPlugin):
        """Tell the supervisor when a worker has gone."""

        def remove_worker(self, *_: Any, **__: Any) -> None:
            supervisor.wake()

    return RollCall()
