"""A worker in a SLURM job:  python -m modelhub_hpc.executors.worker tls://DRIVER:PORT --name NAME ...

It works in the run folder, takes chunks from its driver one at a time, and leaves when its walltime nears, when SLURM
says so, or when its driver is gone; then it finishes the chunk that it has, as long as it is let.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelhub_hpc import chunks, config, network, request
from modelhub_hpc.executors.scripts import OWN, security
from modelhub_hpc.executors.settings import DASK
from modelhub_hpc.processes import share_job
from modelhub_hpc.record import RunPaths
from modelhub_hpc.runfolder import privately
from modelhub_hpc.workplace import HERE

log = logging.getLogger("modelhub_hpc")

_LOOK_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until there is nothing to do; the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    given = _parser().parse_args(arguments)
    began = time.time()
    site = request.read(RunPaths(Path.cwd())).site
    name, slot = share_job(given.name, given.processes)
    if name is None:
        return slot  # the exit code of those that work
    HERE.name, HERE.slot, HERE.drain_s = name, slot, given.drain
    HERE.ends = config.job_end() or began + given.walltime
    with privately(site.group_readable):
        asyncio.run(_work(given, site.interface))
    with HERE.busy:  # the driver may be gone while a chunk is being computed: it counts all the same
        chunks.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelhub_hpc.executors.worker")
    parser.add_argument("driver")
    parser.add_argument("--name", required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--drain", type=float, required=True)
    parser.add_argument("--walltime", type=float, required=True)
    parser.add_argument("--interface")
    parser.add_argument("--protocol")
    parser.add_argument("--death-timeout", type=float, required=True)
    # what dask-jobqueue says of every worker, and is always the same with us
    for flag in ("--nthreads", "--memory-limit", "--tls-ca-file", "--tls-cert", "--tls-key"):
        parser.add_argument(flag)
    return parser


async def _work(given: argparse.Namespace, interface: str | None) -> None:
    import dask
    from distributed import Worker

    host, port = _place(given.driver)
    address = network.address_of(interface) if interface else network.address_towards(host)
    if network.refuses(host, port):
        # it listens before it submits jobs, so this one waited longer than its driver lived
        log.info("%s ends: its driver at %s is gone", HERE.name, given.driver)
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(DASK):
        worker = Worker(
            given.driver,
            nthreads=1,
            name=HERE.name,
            host=address,
            security=security(),
            memory_limit=0,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            local_directory=str(OWN / HERE.name),  # almost empty, and the driver sweeps it if this worker is killed
            death_timeout=given.death_timeout,
            startup_information={"node": lambda _: config.node()},
        )
        await _serve(worker)


async def _serve(worker: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, HERE.leave)
    loop.add_signal_handler(signal.SIGTERM, HERE.end)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # of a terminal that runs the driver
    async with worker:

        def pause() -> None:
            loop.call_soon_threadsafe(_take_no_more, worker)

        HERE.on_leave = pause
        log.info("%s on %s serves %s", HERE.name, config.node(), worker.scheduler.address)
        gone = asyncio.ensure_future(worker.finished())
        while not gone.done():
            await asyncio.wait([gone], timeout=_LOOK_S)
            # not before the driver has heard what became of the last chunk
            if HERE.must_leave() and not worker.state.executing and not gone.done():
                log.info("%s leaves: %.0f s of its walltime are left", HERE.name, HERE.ends - time.time())
                await worker.close_gracefully()
    log.info("%s is done", HERE.name)


async def leave() -> None:
    """What a driver has a worker do that it no longer needs: take no more chunks.

    A coroutine, since dask waits for anything else, or drops it.
    """
    HERE.leave()


def _take_no_more(worker: Any) -> None:
    from distributed.core import Status

    if worker.status == Status.running:
        worker.status = Status.paused  # which the scheduler hears at once


def _place(address: str) -> tuple[str, int]:
    from distributed.comm.addressing import get_address_host_port

    host, port = get_address_host_port(address)
    return str(host), int(port)


if __name__ == "__main__":
    raise SystemExit(main())
