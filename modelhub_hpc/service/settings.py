"""What an endpoint may do and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.config import SiteConfig

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class ServiceSettings:
    """Times in seconds, sizes in bytes.

    site, jobs_site: the options of sessions and those of jobs, which differ in where they compute.
    token: what a client has to know; None: nothing, everybody who reaches the port is let in.
    folder: for this server's life alone, closed to others; workers of SLURM have to see it.
    jobs: where the run folders of jobs lie; they stay.
    roots: folders of this machine whose files a job may name; () for none.
    hosts: names under which the server may be addressed, without ports; None for any.
    origins: of pages on other servers that may use this one.
    url_inputs: whether inputs may be fetched from addresses of the public internet.
    sessions: processes per model at most; max_waiting: predictions that may wait for one, over all models;
    idle_s: after which a model without requests is ended; streams: of events at a time, each of which takes a thread.
    receive_s: in which a request has to be here, beside the time that its bytes take.
    queue_s: which a prediction waits for a job of SLURM to start.
    """

    site: SiteConfig
    jobs_site: SiteConfig
    token: str | None
    folder: Path
    jobs: Path
    roots: tuple[Path, ...] = ()
    hosts: frozenset[str] | None = LOOPBACK
    origins: tuple[str, ...] = ()
    url_inputs: bool = False
    sessions: int = 1
    max_waiting: int = 32
    max_upload_bytes: int = 512 * 2**20
    idle_s: float = 900.0
    streams: int = 8
    receive_s: float = 30.0
    queue_s: float = 120.0
