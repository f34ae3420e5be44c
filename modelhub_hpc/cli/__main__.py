"""`python -m modelhub_hpc.cli` is `mh-hpc`."""

import sys

from modelhub_hpc.cli import main

sys.exit(main())
