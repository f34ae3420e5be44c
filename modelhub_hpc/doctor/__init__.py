"""Look at this machine, and say of each thing that a run needs whether it is there and how to mend it."""

from modelhub_hpc.doctor.check import Check
from modelhub_hpc.doctor.machine import checks

__all__ = ["Check", "checks"]
