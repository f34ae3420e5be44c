"""How dask is to behave: it dispatches, and neither retries, blames, moves nor shows anything."""

from __future__ import annotations

from typing import Any

# http routes closed: even with TLS they would show task keys in clear
DASK: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.daemon": True,
    "distributed.worker.use-file-locking": False,  # which network file systems may not have
    "distributed.nanny.pre-spawn-environ": {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"},
    "distributed.admin.system-monitor.gil.enabled": False,
}
