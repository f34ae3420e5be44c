"""`python -m modelhub_hpc.cli` is `mh-hpc`."""

from modelhub_hpc.cli import run_program

run_program()
