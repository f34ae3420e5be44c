"""Which run a user means, by folder or by id."""

from __future__ import annotations

from pathlib import Path

from modelhub_hpc import slurm
from modelhub_hpc.cli.output import one_line
from modelhub_hpc.errors import ModelHubError, UsageError
from modelhub_hpc.record import RunPaths
from modelhub_hpc.runs import belongs, id_of, in_folder
from modelhub_hpc.runs.reading import is_run

RUNS = Path("runs")  # where `submit` begins runs that are given no folder


def find(named: Path) -> RunPaths:
    """The run that a user means by a folder or by an id. Raises UsageError that says where it was looked for."""
    paths = RunPaths(named.absolute())
    if is_run(paths):
        return paths
    tried = [f"{one_line(named)} is not the folder of a run: it has no run.json."]
    if len(named.parts) == 1 and named.name:
        found = _by_id(named.name, tried)
        if found is not None:
            return found
    raise UsageError("\n".join(tried))


def _by_id(run_id: str, tried: list[str]) -> RunPaths | None:
    paths = RunPaths((RUNS / run_id).absolute())
    if is_run(paths):
        return paths
    tried.append(f"Nor is it the id of a run: {one_line(RUNS.absolute())} holds none of that id,")
    here = (each for each in in_folder(RUNS) if id_of(each) == run_id)
    return next(here, None) or _by_job(run_id, tried)


def _by_job(run_id: str, tried: list[str]) -> RunPaths | None:
    if not slurm.available():
        tried.append("and there is no SLURM on this machine that could know it.")
        return None
    try:
        folders = slurm.folders(slurm.job_name(run_id))
    except ModelHubError as error:
        tried.append(f"and SLURM could not be asked: {one_line(error)}")
        return None
    tried.append(f"and SLURM has no job of yours named {one_line(slurm.job_name(run_id))}.")
    runs = (RunPaths(folder) for name, folder in folders.items() if belongs(name, run_id))
    return next((paths for paths in runs if id_of(paths) == run_id), None)
