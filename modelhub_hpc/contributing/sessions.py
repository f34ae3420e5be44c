"""How a contribution is started to be looked at: as in a run, but for what is measured and proven."""

from __future__ import annotations

from pathlib import Path

from modelhub_hpc import config
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.images import Image
from modelhub_hpc.launch import SessionSpec, Stranger

_NO_LIMIT_MB = 1 << 30  # with a limit, memory is looked at several times a second


def spec(contrib_src: Path, image: Image | None, site: SiteConfig, stranger: Stranger | None = None) -> SessionSpec:
    """A session without network, and without any file but the contribution's. image: None on the host."""
    return SessionSpec(
        runtime="apptainer" if image else "host",
        image=image.path if image else None,
        interpreter=image.interpreter if image else config.PYTHON,
        contrib_src=contrib_src,
        roots=(),
        gpus=config.gpus(site)[:1],
        threads=config.thread_count(site),
        scratch=config.scratch_dir(site),
        logs=None,
        start_timeout_s=site.start_timeout_s,
        case_timeout_s=site.case_timeout_s,
        mem_mb=config.model_mb(site) or _NO_LIMIT_MB,
        max_log_mb=site.max_log_mb,
        network=False,
        seccomp=site.seccomp,
        stranger=stranger,
    )
