"""The command line: argv, printing and exit codes are here and nowhere else."""

from modelhub_hpc.cli.commands import cli, main, run_program

__all__ = ["cli", "main", "run_program"]
