"""`mh-hpc compare`: runs of several models over the same cases, without a reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import Voice, number, one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, EXIT_FAILED_CASES, UsageError, shown

if TYPE_CHECKING:
    from modelhub_hpc.evaluation.comparison import Compared
    from modelhub_hpc.evaluation.contestants import Contestant
    from modelhub_hpc.runs.reading import Reading

_path = click.Path(path_type=Path)
_METHODS = {"none": (), "majority": ("majority",), "staple": ("staple",), "both": ("majority", "staple")}
_MOST_REASONS = 10


@click.command()
@click.argument("runs", type=_path, nargs=-1, required=True, metavar="RUN RUN [RUN ...]")
@click.option("--output", "outputs", multiple=True, metavar="NAME", help="The output to compare; once for each name.")
@click.option("--by", metavar="COLUMN", help="Cases belong together by this column of the manifests [their ids].")
@click.option("--map", "renamed", type=_path, metavar="FILE", help='What labels are called in common: '
              '{"RUN": {"NUMBER or NAME": "NAME"}}, JSON; RUN as the tables call it.')
@click.option("--to", "folder", type=_path, metavar="DIR", help="Tables as CSV, Markdown and LaTeX; masks as NIfTI.")
@click.option("--consensus", type=click.Choice(list(_METHODS)), help="Of masks, with --to [majority].")
@json_option
def compare(
    runs: tuple[Path, ...],
    outputs: tuple[str, ...],
    by: str | None,
    renamed: Path | None,
    folder: Path | None,
    consensus: str | None,
    as_json: bool,
) -> int:
    """Compare what models gave for the same cases, two by two, without a reference.

    Each RUN is a folder or an id. Label lists: top-1 agreement and kappa. Vectors: correlation and RMSE. Masks: Dice
    and volumes of each structure that two models have by the same name; with --to a consensus of all and maps of where
    they disagree. Exit code 3: some cases could not be compared, which is told.
    """
    from modelhub_hpc.cli.progress import counting
    from modelhub_hpc.cli.runs import find
    from modelhub_hpc.evaluation.comparison import Comparison, kind_of, places
    from modelhub_hpc.evaluation.contestants import Contestant
    from modelhub_hpc.evaluation.together import Cases
    from modelhub_hpc.models.known import entry_of
    from modelhub_hpc.runs import reading

    voice = voice_of(as_json)
    given = [reading.read(find(run).root) for run in runs]
    names = _names(given)
    kind = kind_of(given, outputs)
    if consensus not in (None, "none") and (folder is None or kind != "masks"):
        raise UsageError("--consensus is of masks, and goes into a folder: --to DIR")
    contestants = [
        Contestant(name, run, place, entry_of(run.request.model))
        for name, run, place in zip(names, given, places(given, kind, outputs))
    ]
    target = folder.absolute() if folder else None
    methods = _METHODS[consensus or "majority"]
    comparison = Comparison(contestants, kind, _renamed(renamed, names), by, target, methods)
    cases = Cases(contestants, by)
    with counting(voice, "Comparing cases", len(cases)) as progress:
        found = comparison.run(progress, cases)
    _tell(found, contestants, target, voice)
    return EXIT_FAILED_CASES if found.left_out else EXIT_DONE


def _names(runs: Sequence[Reading]) -> list[str]:
    """What the runs are called: like their models, with what tells them apart where that is needed."""
    if len(runs) < 2:
        raise UsageError("There is nothing to compare with: name two runs or more.")
    if len({run.paths.root.resolve() for run in runs}) < len(runs):
        raise UsageError("A run is named twice.")
    models = [run.request.model for run in runs]
    for names in (
        [model.name for model in models],
        [f"{model.name}@{model.version}" for model in models],
        [run.request.run_id for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(run.paths.root) for run in runs]  # copies of a run


def _renamed(file: Path | None, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    import json

    if file is None:
        return {}
    try:
        given = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"--map {shown(file)}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--map {shown(file)} is no JSON: {one_line(error, 200)}") from error
    sound = isinstance(given, dict) and all(isinstance(labels, dict) for labels in given.values())
    if not sound or not all(isinstance(name, str) for labels in given.values() for name in labels.values()):
        raise UsageError(f'--map {shown(file)} should be like  {{"{shown(names[0])}": {{"1": "lesion"}}}}')
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UsageError(f"--map {shown(file)}: there is no run {shown(unknown[0])!r}, but {shown(', '.join(names))}.")
    found: Mapping[str, Mapping[str, str]] = given
    return found


def _tell(found: Compared, contestants: Sequence[Contestant], folder: Path | None, voice: Voice) -> None:
    if voice.json:
        voice.answer(_facts(found, contestants, folder))
        return
    for table in found.tables:
        voice.say(table.title)
        voice.columns([list(map(one_line, row)) for row in (table.header, *table.rows)])
        voice.say("")
    for note in found.notes:
        voice.say(one_line(note))
    voice.say(f"{number(found.cases, 'case')} compared.")
    reasons = Counter((each.model, each.why) for each in found.left_out)
    for (model, why), count in reasons.most_common(_MOST_REASONS):
        voice.warn(f"  {one_line(model)}, {number(count, 'case')} left out: {one_line(why)}")
    if len(reasons) > _MOST_REASONS:
        voice.warn(f"  ... and {len(reasons) - _MOST_REASONS:,} more reasons")
    if folder is not None:
        files = ", ".join(f"{count:,} {kind}" for kind, count in found.written.items())
        voice.say(f"Tables{' and masks' if files else ''}: {one_line(folder)}{f' ({files})' if files else ''}")


def _facts(found: Compared, contestants: Sequence[Contestant], folder: Path | None) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "runs": [
            {"name": each.name, "run": str(each.reading.paths.root), "output": each.output.name} for each in contestants
        ],
        "cases": found.cases,
        "left_out": [vars(each) for each in found.left_out],
        **{table.name: list(table.records) for table in found.tables},
        "notes": list(found.notes),
        "to": str(folder) if folder else None,
        "written": dict(found.written),
    }
