"""`mh-hpc submit --dry-run`: everything a run would do, without doing it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import config, executors, launch, plan, resources, slurm
from modelhub_hpc.cli.output import Voice, many_lines, number, one_line, size
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.inputs import extension
from modelhub_hpc.plan import Case, Chunk, Found, Manifest, Skipped
from modelhub_hpc.record import RunPaths, State
from modelhub_hpc.request import RunRequest

_SHOWN = 5


@dataclass(frozen=True)
class _Preview:
    """What is shown. cases: all of the run; state: of a run that was begun already; command: of one session.

    script: of a job of workers, "" where they are no SLURM jobs.
    """

    paths: RunPaths
    run: RunRequest
    cases: Sequence[Case]
    skipped: tuple[Skipped, ...]
    state: State | None
    command: list[str]
    script: str

    @property
    def workers(self) -> int:
        return config.worker_count(self.run.site)

    @property
    def chunks(self) -> list[Chunk] | None:
        """The chunk table as far as it is known before the first case is measured."""
        seconds, given = self.run.model.seconds_per_case, self.run.site.chunk_size
        if seconds is None and given is None and self.run.cases > 1:
            return None
        walltime_s = config.walltime_s(self.run.site)
        return plan.cut(self.run.cases, seconds, self.workers, given, walltime_s=walltime_s)

    @property
    def bytes(self) -> int:
        return sum(case.input_bytes for case in self.cases)

    @property
    def formats(self) -> dict[str, int]:
        names = Counter(extension(path) or "(none)" for case in self.cases for _, path in case.inputs)
        return dict(names.most_common())


def preview(paths: RunPaths, run: RunRequest, found: Found | None, state: State | None, voice: Voice) -> None:
    """Show the run; found: its cases if it is new, state: what is done of it if it is not."""
    cases = found.cases if found else Manifest.open(paths.manifest, paths.manifest_index).cases()
    gpus = config.gpus(run.site)
    scratch = config.scratch_dir(run.site) / "mh-hpc-SESSION"
    command = launch.command(run.session_spec(None, gpus), scratch)
    shown = _Preview(paths, run, cases, found.skipped if found else (), state, command, _script(run))
    if voice.json:
        voice.answer(_facts(shown))
    else:
        voice.columns(_rows(shown))
        if shown.script:
            voice.say(f"\nEvery job of workers runs this, in the run folder:\n\n{many_lines(shown.script)}")
        voice.say("A dry run: nothing was written.")


def _script(run: RunRequest) -> str:
    if not config.on_slurm(run.site):
        return ""
    if run.site.executor == "slurm":
        return executors.worker_script(run)
    text = (resources.folder("slurm") / "predict-array.sbatch").read_text(encoding="utf-8")
    options = "".join(f"#SBATCH {shlex.quote(option)}\n" for option in slurm.worker_options(run.site))
    return text.replace("#SBATCH", f"{options}#SBATCH", 1)


def _rows(shown: _Preview) -> list[tuple[str, str]]:
    run, site = shown.run, shown.run.site
    formats = ", ".join(f"{count:,} {name}" for name, count in shown.formats.items())
    rows = [
        ("model", f"{one_line(run.model.name)} {run.model.version} ({one_line(run.model.path)})"),
        ("image", _image_words(run)),
        ("cases", f"{len(shown.cases):,} ({size(shown.bytes)}: {formats})"),
        *(("skipped", f"{one_line(each.path)}: {one_line(each.reason)}") for each in shown.skipped[:_SHOWN]),
        *([("skipped", f"and {len(shown.skipped) - _SHOWN} more")] if len(shown.skipped) > _SHOWN else []),
        ("workers", _worker_words(shown)),
        *([("memory", _memory_words(site))] if site.mem_mb else []),
        ("chunks", _chunk_words(shown)),
        ("run folder", one_line(shown.paths.root)),
        ("session", one_line(shlex.join(shown.command))),
    ]
    if shown.state is not None:
        state = shown.state
        to_go = run.cases - state.done - state.failed
        rows.append(("standing", f"{state.done:,} done, {state.failed:,} failed, {to_go:,} to go"))
    return rows


def _image_words(run: RunRequest) -> str:
    if run.image is None:
        return "none (--runtime host)"
    staged = ", copied to each node" if run.site.stage_image else ""
    return f"{run.image.name} ({one_line(run.image.path)}){staged}"


def _worker_words(shown: _Preview) -> str:
    site = shown.run.site
    several = site.sessions_per_gpu > 1 and not config.shares_no_gpu(site)
    shared = f", {site.sessions_per_gpu} to a GPU" if several else ""
    if config.on_slurm(site):
        return f"up to {shown.workers} ({site.executor}), {config.workers_per_job(site)} in each job{shared}"
    gpus = ", ".join(config.gpus(site)) or "none"
    threads = number(config.thread_count(site), "thread")
    return f"{shown.workers} ({site.executor}), {threads} each, GPUs: {gpus}{shared}"


def _memory_words(site: SiteConfig) -> str:
    """What --mem comes to where several models are together."""
    together, where = config.workers_here(site), "a job" if config.on_slurm(site) else "all together"
    each = site.mem_mb or 0
    return f"{each:,} MiB for each worker" + (f", {each * together:,} MiB for {where}" if together > 1 else "")


def _chunk_words(shown: _Preview) -> str:
    chunks = shown.chunks
    if chunks is None:
        return f"about {plan.CHUNK_S:.0f} s of work each, cut once the first case is measured"
    largest = max(chunk.count for chunk in chunks)
    return f"{len(chunks):,} of up to {number(largest, 'case')}, the first of one case"


def _facts(shown: _Preview) -> dict[str, Any]:
    run, state, chunks = shown.run, shown.state, shown.chunks
    image: Path | None = run.image.path if run.image else None
    return {
        "dry_run": True,
        "run": str(shown.paths.root),
        "begun": state is not None,
        "model": {"name": run.model.name, "version": run.model.version, "path": str(run.model.path)},
        "image": str(image) if image else None,
        "cases": len(shown.cases),
        "done": state.done if state else 0,
        "failed": state.failed if state else 0,
        "bytes": shown.bytes,
        "formats": shown.formats,
        "skipped": [{"path": each.path, "reason": each.reason} for each in shown.skipped],
        "executor": run.site.executor,
        "workers": shown.workers,
        "workers_here": config.workers_here(run.site),
        "threads": config.thread_count(run.site),
        "mem_mb": run.site.mem_mb,
        "gpus": list(config.gpus(run.site)),
        "chunks": None if chunks is None else len(chunks),
        "command": shown.command,
        "job_script": shown.script or None,
    }
