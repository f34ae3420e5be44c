"""Where chunks run: in this process, in processes of this machine, or in SLURM jobs. The only one that knows dask.

All kinds are concurrent.futures executors. They dispatch and do not remember: none retries, blames or keeps results; a
worker's death is raised to the run loop, and the loop decides.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from modelhub_hpc import chunks, config, slurm
from modelhub_hpc.executors.pool import InlineExecutor, Pool, is_worker_lost, lost_worker
from modelhub_hpc.record import RunPaths
from modelhub_hpc.request import RunRequest

__all__ = ["Pool", "is_worker_lost", "lost_worker", "open_pool", "worker_script"]


@contextlib.contextmanager
def open_pool(run: RunRequest, paths: RunPaths) -> Iterator[Pool]:
    """The workers of a run; leaving the block ends them and their sessions.

    Workers of this machine end at once; those of SLURM finish the chunk that they have, and leave.
    """
    kind, workers = run.site.executor, min(config.worker_count(run.site), run.cases)
    if kind == "inline" or (kind == "local" and run.cases == 1):  # no worker process would be sooner ready than this
        try:
            yield Pool(InlineExecutor(), 1, chunks.hang_up)
        finally:
            chunks.close()
        return
    if kind == "local":
        from modelhub_hpc.executors.local import local_executor

        with local_executor(workers) as executor:
            yield Pool(executor, workers, executor.hang_up)
        return
    from modelhub_hpc.executors.cluster import slurm_pool

    folder = paths.private / "workers"
    shutil.rmtree(folder, ignore_errors=True)  # of a driver that was killed
    try:
        with slurm_pool(run, paths, folder) as pool:
            yield pool
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def worker_script(run: RunRequest) -> str:
    """The job script of a worker, as --dry-run shows it: the driver's address is not known yet."""
    from modelhub_hpc.executors import scripts

    return scripts.worker_script(run, "tls://DRIVER:PORT", slurm.job_name(run.run_id, "w1"))
