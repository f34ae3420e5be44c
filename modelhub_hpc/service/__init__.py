"""The endpoint: models over HTTP, for old clients of ModelHub, for programs, and for people with a browser.

Nothing of a model runs in the server's process: each has warm sessions of its own (sessions.py), in containers of this
machine or in jobs of SLURM.
"""

from __future__ import annotations

from modelhub_hpc.service.served import Service, ServedModel
from modelhub_hpc.service.settings import ServiceSettings

__all__ = ["ServedModel", "Service", "ServiceSettings"]
