"""What `mh-hpc benchmark` does: the runs by `submit`, one after the other, then scores, tables and figures of them."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, config, models, run
from modelhub_hpc.cli import progress as display
from modelhub_hpc.cli.output import Voice, one_line
from modelhub_hpc.cli.submit import Submission, absolute, submit
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES, EXIT_TRY_AGAIN, UnfitError, UsageError, shown
from modelhub_hpc.evaluation import classification, figures, ranking, segmentation, truth
from modelhub_hpc.evaluation import classification_tables, segmentation_tables
from modelhub_hpc.evaluation.contestants import Contestant, folder_of, is_mask, labels_of, place_of
from modelhub_hpc.evaluation.ranking import Floats
from modelhub_hpc.evaluation.regions import plan, scheme_of
from modelhub_hpc.evaluation.tables import Table, write_csv
from modelhub_hpc.models.entry import Entry
from modelhub_hpc.models.known import entry_of
from modelhub_hpc.plan import safe_name
from modelhub_hpc.runfolder import dumps, replacing, storage
from modelhub_hpc.runs import reading

FORMAT = 1
_NEEDED = {"matplotlib": "matplotlib", "scipy": "scipy", "surface_distance": "surface-distance"}


@dataclass(frozen=True)
class Wanted:
    """A benchmark as given. known: the table of labels or references; flags: options of the site that were given."""

    models: tuple[str, ...]
    data: tuple[str, ...]
    known: Path
    outputs: tuple[str, ...]
    outdir: Path
    flags: Mapping[str, Any]
    command: str


def classify(wanted: Wanted, voice: Voice) -> int:
    """Run the models and measure their label lists; the exit code."""
    _prepare(wanted)
    known = truth.read(wanted.known, truth.LABELS, absolute(wanted.data))
    contestants, code = _run(wanted, _entered(wanted, _is_label_list, "a label list"), voice)
    if not contestants:
        return code
    scores, notes = classification.score(contestants, known)
    folders = _folders(wanted)
    tables = classification_tables.tables_of(contestants, scores, classification.pairs(scores))
    _write_tables(tables, folders["tables"])
    for name, rows in (
        ("recall", classification_tables.recalls(scores)),
        ("confusion", classification_tables.confusions(scores)),
        ("cases", classification_tables.cases(scores)),
    ):
        write_csv(folders["tables"] / f"{name}.csv", rows)
    figures.write(figures.accuracy(_panels(contestants, scores)), folders["figures"], "accuracy")
    _conclude("classify", wanted, contestants, tables, notes, {}, voice)
    return max(code, EXIT_FAILED_CASES) if any(each.problems for each in scores) else code


def segment(wanted: Wanted, regions: str | None, case: str | None, seed: int, voice: Voice) -> int:
    """Run the models and measure their masks; the exit code."""
    _prepare(wanted)
    scheme = scheme_of(regions)
    known = truth.read(wanted.known, truth.REFERENCES, absolute(wanted.data))
    entered = _entered(wanted, is_mask, "a mask")
    planned = plan(scheme, [(each.name, labels_of(each.output, each.entry)) for each in entered])
    contestants, code = _run(wanted, entered, voice)
    if not contestants:
        return code
    study = segmentation.Study(tuple(contestants), known, planned)
    if case is not None and case not in study.entrants:
        raise UsageError(f"--case {shown(case)}: the cases with a reference are {truth.few(list(study.entrants))}.")
    with display.counting(voice, "Measuring cases", len(study.entrants)) as progress:
        scores = segmentation.score(study, progress)
    ranks = ranking.case_ranks(scores.penalties())
    folders = _folders(wanted)
    tables = segmentation_tables.tables_of(scores, ranks, ranking.differences(ranks, seed))
    _write_tables(tables, folders["tables"])
    write_csv(folders["tables"] / "cases.csv", segmentation_tables.cases(scores, ranks))
    drawn = _draw(study, scores, ranks, case, folders["figures"])
    more = {"unit": scores.unit, "left_out": dict(scores.left_out), "seed": seed, "case_drawn": drawn}
    _conclude("segment", wanted, contestants, tables, [*planned.notes, *scores.notes], more, voice)
    lacking = scores.left_out or any(any(each.problems) for each in scores.cases)
    return max(code, EXIT_FAILED_CASES) if lacking else code


def _draw(
    study: segmentation.Study, scores: segmentation.Scores, ranks: Floats, case: str | None, folder: Path
) -> str:
    """The ranking, and outlines on a case; the name of that case."""
    best = segmentation_tables.order(ranks)
    names = [scores.models[place] for place in best]
    figures.write(figures.ranking(names, ranks[:, best], ranks.mean(axis=0)[best]), folder, "ranking")
    drawn = scores.middling if case is None else case
    figures.write(figures.contours(names, study.drawing(drawn, best)), folder, "contours")
    return drawn


def _write_tables(tables: Sequence[Table], folder: Path) -> None:
    for table in tables:
        table.write(folder)


def _folders(wanted: Wanted) -> dict[str, Path]:
    """Those for the results, which are made."""
    found = {name: wanted.outdir / name for name in ("tables", "figures")}
    for folder in found.values():
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
    return found


def _prepare(wanted: Wanted) -> None:
    """Say what is lacking before hours of computing rather than after them, and where matplotlib may keep its fonts."""
    lacking = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if lacking:
        raise UnfitError(f"Benchmarks need {' and '.join(lacking)}. Install it:  pip install 'modelhub-hpc[results]'")
    config.keep_fonts(config.load(wanted.flags))


@dataclass(frozen=True)
class _Entered:
    """A model before it has run. given: as the user named it; place: of the output to judge."""

    name: str
    given: str
    place: int
    output: OutputSpec
    entry: Entry | None


def _entered(wanted: Wanted, suits: Callable[[OutputSpec], bool], kind: str) -> list[_Entered]:
    """The models that are asked for; kind: what suits, in words. Raises what is wrong with any of them."""
    site = config.load(wanted.flags)
    found = {name: (given, models.find(given, site)) for name, given in _named(wanted.models).items()}
    strange = set(wanted.outputs) - {output.name for _, model in found.values() for output in model.outputs}
    if strange:
        raise UsageError(f"--output {shown(min(strange))}: none of the models has an output of that name.")
    entered = []
    for name, (given, model) in found.items():
        place = place_of(model, wanted.outputs, suits, kind)
        entered.append(_Entered(name, given, place, model.outputs[place], entry_of(model)))
    return entered


def _run(wanted: Wanted, entered: Sequence[_Entered], voice: Voice) -> tuple[list[Contestant], int]:
    """Every model's run, complete; and the exit code of the worst. No models where one was not completed."""
    worst, contestants = EXIT_DONE, list[Contestant]()
    for each in entered:
        folder = folder_of(wanted.outdir, safe_name(each.name, 80))
        voice.say(f"{one_line(each.name)}:")
        code = submit(_submission(wanted, each.given, folder), _Aside(voice.json, voice.quiet))
        if code not in (EXIT_DONE, EXIT_FAILED_CASES) or not _is_complete(folder):
            voice.warn("The same command goes on with the benchmark.")
            return [], code or EXIT_TRY_AGAIN
        worst = max(worst, code)
        contestants.append(Contestant(each.name, reading.read(folder), each.place, each.entry))
        voice.say("")
    return contestants, worst


def _is_complete(folder: Path) -> bool:
    """It is not where somebody has left it to SLURM."""
    current = reading.read(folder)
    state = run.survey(current.paths, current.request)
    return state.done + state.failed == current.request.cases


class _Aside(Voice):
    """Runs speak as they do otherwise, but the answer is the benchmark's."""

    def answer(self, value: Any) -> None:
        pass


def _named(given: Sequence[str]) -> dict[str, str]:
    """Models as given, by the names that they have in tables: those of their folders."""
    found: dict[str, str] = {}
    for each in given:
        for model in [each] if os.path.isdir(each) else each.split(","):
            name = os.path.basename(os.path.normpath(model.strip())) if model.strip() else ""
            if not name or name in found:
                what = f"two models that are called {shown(name)}" if name else "a model without a name"
                raise UsageError(f"--models names {what}: {shown(', '.join(given))}.")
            found[name] = model.strip()
    return found


def _submission(wanted: Wanted, model: str, folder: Path) -> Submission:
    return Submission(
        model=model,
        inputs=wanted.data,
        outdir=folder,
        image=None,
        resume=False,
        retry_failed=False,
        fail_fast=False,
        dry_run=False,
        plan_only=False,
        wait=True,
        flags=wanted.flags,
        command=wanted.command,
    )


def _is_label_list(output: OutputSpec) -> bool:
    return output.type == "label_list"


def _panels(
    contestants: Sequence[Contestant], scores: Sequence[classification.Score]
) -> list[tuple[str, list[figures.Bar]]]:
    panels = []
    for top in classification_tables.METRICS:
        bars = []
        for contestant, score in zip(contestants, scores):
            found, card = classification_tables.accuracies(contestant, score, top)
            bars.append(figures.Bar(contestant.name, found, card.reported if card else None))
        if any(bar.found for bar in bars):
            panels.append((f"Top-{top}", bars))
    return panels


def _conclude(
    kind: str,
    wanted: Wanted,
    contestants: Sequence[Contestant],
    tables: Sequence[Table],
    notes: Sequence[str],
    more: Mapping[str, Any],
    voice: Voice,
) -> None:
    """Write benchmark.json, and say it all."""
    facts = {
        "format": FORMAT,
        "kind": kind,
        "software": __version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": wanted.command,
        "data": list(absolute(wanted.data)),
        "known": {"path": str(wanted.known.absolute()), "sha256": file_digest(wanted.known)},
        "models": [_model_facts(each) for each in contestants],
        "tables": {table.name: list(table.records) for table in tables},
        "conventions": [note for table in tables for note in table.notes],
        "notes": list(notes),
        **more,
    }
    with replacing(wanted.outdir / "benchmark.json") as stream:
        stream.write(dumps(facts, indent=2) + "\n")
    if voice.json:
        voice.answer(facts)
    for table in tables:
        voice.say(table.title)
        voice.columns([list(map(one_line, row)) for row in (table.header, *table.rows)])
        for note in table.notes:
            voice.say(one_line(note))
        voice.say("")
    for note in notes:
        voice.warn(f"Note: {one_line(note)}")
    voice.say(f"Tables, figures and runs: {one_line(wanted.outdir)}")


def _model_facts(contestant: Contestant) -> dict[str, Any]:
    request = contestant.reading.request
    return {
        "name": contestant.name,
        "id": request.model.id,
        "version": request.model.version,
        "digest": request.model.digest,
        "image": request.image.name if request.image else None,
        "image_sha256": request.image.sha256 if request.image else None,
        "output": contestant.output.name,
        "run": str(contestant.reading.paths.root),
        "run_id": request.run_id,
    }
