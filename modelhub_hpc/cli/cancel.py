"""`mh-hpc cancel`: end what drives a run, and all of its jobs; what is done stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelhub_hpc import request
from modelhub_hpc.cli.output import Voice, number, one_line
from modelhub_hpc.cli.progress import waiting
from modelhub_hpc.cli.runs import find
from modelhub_hpc.cli.submit import resume_command
from modelhub_hpc.errors import EXIT_DONE, EXIT_TRY_AGAIN, ModelHubError
from modelhub_hpc.record import RunPaths
from modelhub_hpc.runs.ending import Ending
from modelhub_hpc.runs.look import Counts, settled


def cancel(named: Sequence[Path], voice: Voice) -> int:
    """End these runs, one after the other; the exit code: the highest of theirs."""
    runs = dict.fromkeys(find(each) for each in named)  # all of them, before anything is ended
    endings = [_cancel(paths, voice) for paths in runs]
    if voice.json:
        voice.answer([_facts(ending, counts) for ending, counts, _ in endings])
    return max(code for *_, code in endings)


def _cancel(paths: RunPaths, voice: Voice) -> tuple[Ending, Counts, int]:
    of = request.read(paths)
    ending = Ending.of_run(paths, of)
    try:
        with waiting(voice, f"Ending {one_line(of.run_id)}"):
            ending.end()
        code = EXIT_TRY_AGAIN if ending.left else EXIT_DONE
    except ModelHubError as error:
        code = error.exit_code
        ending.left.append(str(error))
    counts = settled(paths, of)
    _tell(ending, counts, voice)
    return ending, counts, code


def _tell(ending: Ending, counts: Counts, voice: Voice) -> None:
    name = one_line(ending.of.run_id)
    if ending.process is not None:
        voice.say(f"{name}: told {ending.process.describe()} to end.")
    for kind in dict.fromkeys(ending.jobs.values()):
        ids = [each for each, its in ending.jobs.items() if its == kind]
        voice.say(f"{name}: ended {number(len(ids), kind)}: job {', '.join(ids)}.")
    if not (ending.process or ending.jobs or ending.left):
        voice.say(f"{name}: nothing to cancel, since nothing drives it and it has no jobs.")
    if ending.clearing:
        voice.say(f"{name}: SLURM is still clearing away job {', '.join(ending.clearing)}.")
    for each in ending.left:
        voice.warn(f"{name}: not ended: {each}")
    voice.say(counts.describe() + (f". To continue:\n  {resume_command(ending.paths)}" if counts.to_go else ""))


def _facts(ending: Ending, counts: Counts) -> dict[str, Any]:
    process = ending.process
    return {
        "run": str(ending.paths.root),
        "run_id": ending.of.run_id,
        "ended": [{"job": job_id, "kind": kind} for job_id, kind in ending.jobs.items()],
        "told": {"host": process.host, "pid": process.pid} if process else None,
        "left": ending.left,
        "done": counts.done,
        "failed": counts.failed,
        "to_go": counts.to_go,
        "resume": resume_command(ending.paths),
    }
