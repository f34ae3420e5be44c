"""`mh-hpc submit`: begin a run or go on with one, show how it goes, and say how it ended."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import arrays, config, driver, models, request, resources, run, slurm
from modelhub_hpc.cli import progress as display
from modelhub_hpc.cli.handover import follow, tell
from modelhub_hpc.cli.output import Voice, many_lines, number, one_line
from modelhub_hpc.cli.preview import preview
from modelhub_hpc.cli.results import result_table
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES, UsageError
from modelhub_hpc.plan import Skipped, chunk_table
from modelhub_hpc.record import CaseResult, RunPaths, State, iter_results
from modelhub_hpc.request import Order, Retry, RunRequest
from modelhub_hpc.run import Options, Outcome, Progress, Stop
from modelhub_hpc.runfolder import privately, read_json
from modelhub_hpc.runs.handover import hand_over
from modelhub_hpc.runs.reading import Reading, is_run, result_facts

_FEW = 10  # cases whose results are shown at the end
_FIRST_FAILURES = 3
# which have no flags
_OF_THE_JOBS = (
    "job_prologue",
    "controller_partition",
    "controller_time",
    "controller_mem_mb",
    "controller_sbatch_args",
    "drain_s",
    "poll_s",
)


@dataclass(frozen=True)
class Submission:
    """A submit command as given. flags: the options of the site that were given, by their config names."""

    model: str | None
    inputs: tuple[str, ...]
    outdir: Path | None
    image: str | None
    resume: bool
    retry_failed: bool
    fail_fast: bool
    dry_run: bool
    plan_only: bool
    wait: bool
    flags: Mapping[str, Any]
    command: str


def submit(wanted: Submission, voice: Voice) -> int:
    """Carry the command out; the exit code."""
    paths = RunPaths(wanted.outdir) if wanted.outdir else None
    if paths and is_run(paths):
        return _go_on(wanted, paths, voice)
    if wanted.resume:
        place = (
            f"{one_line(paths.root)} is not the folder of a run" if paths else "--resume needs --outdir RUN"
        )
        raise UsageError(f"Nothing to resume: {place}.")
    return _begin(wanted, voice)


def _begin(wanted: Submission, voice: Voice) -> int:
    if not wanted.model or not wanted.inputs:
        raise UsageError("A new run needs a model and inputs:  mh-hpc submit --model NAME --inputs FOLDER")
    site = config.load(wanted.flags)
    asked = run.Asked(
        wanted.model, absolute(wanted.inputs), site, wanted.outdir, wanted.image, wanted.command
    )
    return begin(run.plan(asked), wanted, voice)


def begin(planned: run.Planned, wanted: Submission, voice: Voice) -> int:
    """Begin a run as the command wants it, and have it computed; the exit code."""
    site = planned.run.site
    if wanted.dry_run:
        run.refuse_foreign(planned.paths)
        preview(planned.paths, planned.run, planned.found, None, voice)
        return EXIT_DONE
    if config.on_slurm(site):
        slurm.refuse(planned.paths.root, site.executor)
        slurm.judge(site)  # before there is a run folder that nobody can compute
    with privately(site.group_readable):
        begun, paths = run.begin(planned), planned.paths
    _tell_found(begun, paths, planned.found.skipped, voice)
    del planned  # the cases are in the manifest now, and a million of them need not stay in memory for the run
    if wanted.plan_only:
        return _planned_only(paths, begun, voice)
    return _carry_out(paths, begun, (), wanted, voice)


def _planned_only(paths: RunPaths, begun: RunRequest, voice: Voice) -> int:
    """Leave a run that an array submitted by hand can compute."""
    with privately(begun.site.group_readable):
        count = arrays.plan_only(paths, begun)
    script = resources.folder("slurm") / "predict-array.sbatch"
    # before the command, since --export ends a value at a comma
    variables = " ".join(map(_assignment, driver.variables(begun.site)))
    # a run's array, as the ones that it submits itself: status and cancel know it by its name
    folder = [f"--chdir={paths.root}", slurm.output(paths.root), f"--job-name={slurm.job_name(begun.run_id, 'a0')}"]
    command = ["sbatch", *folder, "--array=0-N%M", *slurm.worker_options(begun.site), str(script)]
    voice.say(f"{number(count, 'chunk')} to compute. Submit an array of jobs over them by hand:")
    voice.say(f"  {variables} {shlex.join(command)}")
    if voice.json:
        voice.answer({"run": str(paths.root), "run_id": begun.run_id, "cases": begun.cases, "chunks": count})
    return EXIT_DONE


def _assignment(variable: str) -> str:
    """NAME=VALUE for a shell, on one line."""
    name, value = variable.split("=", 1)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"{name}=$'{escaped}'" if "\n" in value else f"{name}={shlex.quote(value)}"


def _carry_out(
    paths: RunPaths, current: RunRequest, retries: tuple[Retry, ...], wanted: Submission, voice: Voice
) -> int:
    """Have the run computed: from here until it ends, or by SLURM."""
    limit = 0 if wanted.fail_fast else current.site.max_failures
    with privately(current.site.group_readable):
        if not config.on_slurm(current.site):
            return _drive(paths, current, Options(retries, limit), voice)
        handed = hand_over(paths, current, Order(current.site, retries, limit))
    if handed.over is not None:
        return _conclude(paths, current, _outcome(paths, current, handed.over.code), voice)
    tell(handed, dataclasses.replace(voice, json=voice.json and not wanted.wait))
    if not wanted.wait:
        return EXIT_DONE
    code = follow(handed, voice)
    return EXIT_DONE if code is None else _conclude(paths, current, _outcome(paths, current, code), voice)


def _tell_found(begun: RunRequest, paths: RunPaths, skipped: Sequence[Skipped], voice: Voice) -> None:
    voice.say(f"{number(begun.cases, 'case')} for {begun.model.name} in {one_line(paths.root)}")
    for each in skipped[:_FIRST_FAILURES]:
        voice.say(f"  skipped {one_line(each.path)}: {one_line(each.reason)}")
    if len(skipped) > _FIRST_FAILURES:
        voice.say(f"  and more: {one_line(paths.skipped)}")


def _go_on(wanted: Submission, paths: RunPaths, voice: Voice) -> int:
    then = request.read(paths)
    _compare(wanted, then)
    current = run.resume(paths, site_of(then.site, wanted.flags))
    state = run.survey(paths, current)
    if wanted.dry_run:
        preview(paths, current, None, state, voice)
        return EXIT_DONE
    again = state.failed if wanted.retry_failed else 0
    to_go = current.cases - state.done - state.failed + again
    voice.say(standing(current.cases, state, wanted.retry_failed))
    if to_go:
        if config.on_slurm(current.site):
            slurm.refuse(paths.root, current.site.executor)
            slurm.judge(current.site)
        retries = run.retries(state) if wanted.retry_failed else ()
        return _carry_out(paths, current, retries, wanted, voice)
    if not _concluded(paths, state):
        # the last driver died before it wrote the tables; without chunks to do, inline starts no process
        current = dataclasses.replace(current, site=dataclasses.replace(current.site, executor="inline"))
        with privately(current.site.group_readable):
            return _drive(paths, current, Options(), voice)
    voice.say("The run is complete.")
    return _conclude(paths, current, _outcome(paths, current, EXIT_FAILED_CASES if state.failed else 0), voice)


def _outcome(paths: RunPaths, current: RunRequest, code: int) -> Outcome:
    """How a run stands that was driven from elsewhere."""
    state, told = run.survey(paths, current), read_json(paths.progress_json)
    before, seconds, workers = (told.get(name, 0) for name in ("before", "seconds", "workers"))
    progress = Progress(current.cases, state.done, state.failed, before, seconds, workers)
    stopped = None
    if progress.settled < progress.total:
        stopped = read_json(paths.record_json).get("stopped") or "its driver has ended"
    return Outcome(progress, stopped, None, code)


def standing(total: int, state: State, retry: bool = False) -> str:
    """Where a run stands, e.g. "842 of 899 done, 57 to go" or "840 of 899 done, 2 failed, 57 to go"."""
    to_go = total - state.done - state.failed
    failed = f", {state.failed:,} failed" if state.failed else ""
    again = f" and {state.failed:,} to try again" if retry and state.failed else ""
    return f"{state.done:,} of {total:,} done{failed}, {to_go:,} to go{again}"


def _compare(wanted: Submission, then: RunRequest) -> None:
    """A run goes on with its own model, inputs and image: UsageError with both values where others are named."""
    if wanted.model is not None:
        path = models.find(wanted.model, config.load(wanted.flags)).path
        _same("--model", str(path), str(then.model.path))
    if wanted.inputs:
        _same("--inputs", _listed(absolute(wanted.inputs)), _listed(then.inputs))
    if wanted.image is not None:
        image = then.image
        names = {image.name, str(image.path)} if image else set()
        if not names & {wanted.image, os.path.abspath(wanted.image)}:
            _same("--image", wanted.image, image.name if image else "none (--runtime host)")


def _same(flag: str, now: str, then: str) -> None:
    if now != then:
        raise UsageError(
            f"This run was begun with another {flag}.\nthen: {then}\nnow:  {now}\n"
            f"Leave {flag} out to go on with the run, or name a new folder with --outdir."
        )


def _listed(inputs: tuple[str, ...]) -> str:
    return " ".join(shlex.quote(each) for each in sorted(set(inputs)))


def absolute(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Inputs as they mean the same from anywhere; an empty one is left for the search to refuse."""
    return tuple(os.path.abspath(each) if each else each for each in inputs)


def site_of(then: SiteConfig, flags: Mapping[str, Any], also: Sequence[str] = ()) -> SiteConfig:
    """The options that a run was begun with, and over them the flags of now. also: further options to take from now.

    max_failures is not a property of the run but of one attempt at it, and the signatures that a site requires
    are those of today: neither is ever taken over. How the site has its jobs started has no flags, so what is
    configured now mends what was wrong then.
    """
    now, origins = config.load_with_origins(flags)
    today = [name for name in _OF_THE_JOBS if origins[name] != config.DEFAULT]
    given = {name: getattr(now, name) for name in (*flags, *today, *also, "max_failures", "require_signature")}
    return dataclasses.replace(then, **given)


def _concluded(paths: RunPaths, state: State) -> bool:
    """Whether record.json tells of the results that are there now."""
    record = read_json(paths.record_json)
    counts = record.get("counts", {})
    now = (state.done, state.failed)
    return record.get("stopped", "") is None and (counts.get("done"), counts.get("failed")) == now


def _drive(paths: RunPaths, current: RunRequest, options: Options, voice: Voice) -> int:
    stop = Stop()
    workers = config.worker_count(current.site)
    with display.signals(stop, workers, resume_command(paths)), display.reporter(voice) as observe:
        outcome = run.execute(paths, current, options, observe, stop)
    return _conclude(paths, current, outcome, voice)


def resume_command(paths: RunPaths) -> str:
    return f"mh-hpc resume {shlex.quote(str(paths.root))}"


def retry_command(paths: RunPaths) -> str:
    return f"mh-hpc retry {shlex.quote(str(paths.root))} --failed"


def _conclude(paths: RunPaths, current: RunRequest, outcome: Outcome, voice: Voice) -> int:
    failures = []
    if outcome.progress.failed:
        failures = first_failures(paths, current, run.survey(paths, current))
    few = outcome.stopped is None and outcome.progress.total <= _FEW
    results = list(Reading(paths, current).results()) if few else []
    if voice.json:
        shown = [result_facts(result) for result in results] if few else None
        voice.answer({**_facts(paths, current, outcome, failures), "results": shown})
    _tell(paths, outcome, failures, voice)
    if few:
        voice.say("")
        voice.columns(result_table(current, results))
    if outcome.error is not None:
        voice.warn(f"Error: {many_lines(str(outcome.error))}")
    elif outcome.stopped is not None:
        voice.warn(f"Stopped: {many_lines(outcome.stopped)}")
    if outcome.stopped is not None:
        voice.warn(f"To continue:\n  {resume_command(paths)}")
    return outcome.code


def first_failures(paths: RunPaths, current: RunRequest, state: State) -> list[CaseResult]:
    """The first failed cases, reading only the chunks that hold them."""
    chunks = chunk_table(paths.chunks_json) or []
    failed, count = state.failed_by_chunk, _FIRST_FAILURES
    some = [chunk for chunk in chunks if chunk.index in failed][:count]
    found = (r for r in iter_results(paths, current.run_id, current.plan, some) if r.error)
    return [result for result, _ in zip(found, range(count))]


def _tell(paths: RunPaths, outcome: Outcome, failures: list[CaseResult], voice: Voice) -> None:
    progress = outcome.progress
    voice.say("")
    rows = [
        ("cases", f"{progress.total:,}"),
        ("done", f"{progress.done:,}"),
        ("failed", f"{progress.failed:,}"),
    ]
    if progress.settled < progress.total:
        rows.append(("to go", f"{progress.total - progress.settled:,}"))
    if progress.rate > 0:
        rows.append(("speed", f"{progress.rate:.1f} cases/s, {number(progress.workers, 'worker')}"))
    folder = shlex.quote(str(paths.root))
    voice.columns([*rows, ("run", folder), ("results", f"mh-hpc results {folder}")])
    for result in failures:
        assert result.error is not None
        voice.say(f"  {result.case_id}: {result.error.kind}: {one_line(result.error.message, 200)}")
    if failures:
        voice.say(f"all failures: mh-hpc results {folder} --failed")
        voice.say(f"try again:    {retry_command(paths)}")


def _facts(
    paths: RunPaths, current: RunRequest, outcome: Outcome, failures: list[CaseResult]
) -> dict[str, Any]:
    progress = outcome.progress
    return {
        "run": str(paths.root),
        "run_id": current.run_id,
        "model": current.model.name,
        "cases": progress.total,
        "done": progress.done,
        "failed": progress.failed,
        "to_go": progress.total - progress.settled,
        "seconds": round(progress.seconds, 3),
        "cases_per_second": progress.rate,
        "stopped": str(outcome.error) if outcome.error else outcome.stopped,
        "failures": [failure_facts(result) for result in failures],
        "resume": resume_command(paths),
    }


def failure_facts(result: CaseResult) -> dict[str, Any]:
    assert result.error is not None
    return {"case": result.case_id, "kind": result.error.kind, "message": result.error.message}
