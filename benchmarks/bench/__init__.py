"""What the benchmarks share: inputs, models, ways to run them, and words on the machine and its figures."""

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPO), str(REPO / "slurm/testcluster")]  # this checkout is measured, whatever is installed
