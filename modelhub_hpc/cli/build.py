"""`mh-hpc build`: one SIF with environment, engine and model, for those who have nothing but Apptainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import json_option
from modelhub_hpc.cli.output import Voice, number, one_line, size, voice_of
from modelhub_hpc.errors import EXIT_DONE

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.deployment import Built, Plan


@click.command()
@click.argument("model", metavar="MODEL|FOLDER")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: ./<model>.sif"
)
@click.option("--image", metavar="NAME|FILE", help="Use this image instead of the one the model names.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists; containers that run from it go on.")
@click.option(
    "--dry-run", is_flag=True, help="Check everything, show what would be built, and write nothing."
)
@json_option
def build(
    model: str, output: Path | None, image: str | None, force: bool, dry_run: bool, as_json: bool
) -> int:
    """Build one SIF file with MODEL, its environment and the engine: `apptainer run FILE INPUT` predicts.

    It needs nothing but Apptainer where it runs. `apptainer run-help FILE` says what it is and can do.
    """
    from modelhub_hpc import deployment
    from modelhub_hpc.cli import progress

    voice = voice_of(as_json)
    site = config.load()
    planned = deployment.plan(model, image, output, force, site)
    if dry_run:
        _show(planned, None, voice)
        return EXIT_DONE
    with progress.waiting(voice, f"Building {one_line(planned.target)}"):
        built = deployment.build(planned, site)
    _show(planned, built, voice)
    return EXIT_DONE


def _show(planned: Plan, built: Built | None, voice: Voice) -> None:
    if voice.json:
        voice.answer(_facts(planned, built))
        return
    files = [item for item in planned.items if not item.folder]
    words = {
        "model": f"{planned.model.name} {planned.model.version} from {planned.model.contrib_src}",
        "environment": f"{planned.image.name}, {planned.image.path} ({size(planned.image.bytes)})",
        "holds": f"{number(len(files), 'file')} of the model, {size(planned.bytes)}; engine {planned.card.engine}",
    }
    voice.columns((name, one_line(text)) for name, text in words.items())
    if built:
        voice.say(f"{one_line(built.path)} ({size(built.bytes)}) is ready:")
        voice.say(f"  apptainer test {one_line(built.path.name)}")
        voice.say(f"  apptainer run-help {one_line(built.path.name)}")
    else:
        voice.say(f"It would become {one_line(planned.target)}. Nothing was written.")


def _facts(planned: Plan, built: Built | None) -> dict[str, Any]:
    model, image = planned.model, planned.image
    done = {"bytes": built.bytes, "sha256": built.sha256} if built else {}
    return {
        "path": str(planned.target),
        "built": built is not None,
        **done,
        "model": {"name": model.name, "id": model.id, "version": model.version, "digest": model.digest},
        "image": {"name": image.name, "path": str(image.path), "sha256": image.sha256},
        "files": [item.path for item in planned.items if not item.folder],
        "labels": dict(planned.labels),
    }
