"""The commands of mh-hpc, their flags and exit codes.

Exit codes: 0 all done, 2 usage, 3 finished with failed cases, 4 invalid model, image or inputs, 5 machine not fit,
75 try again, 130 interrupted, 129 and 143 ended by SIGHUP and SIGTERM, 1 a bug.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from modelhub_hpc import __version__, config
from modelhub_hpc.cli.build import build
from modelhub_hpc.cli.config import config_group
from modelhub_hpc.cli.contributing import CONTRIBUTOR_COMMANDS
from modelhub_hpc.cli.doctor import doctor
from modelhub_hpc.cli.models import MODEL_COMMANDS
from modelhub_hpc.cli.options import FOR_ONE_OFFS, FOR_RUNS, json_option, site_flags, site_options
from modelhub_hpc.cli.output import Voice, make_streams_robust, many_lines, voice_of
from modelhub_hpc.cli.modelhub_run import modelhub_run
from modelhub_hpc.cli.pull import pull
from modelhub_hpc.cli.run_commands import RUN_COMMANDS
from modelhub_hpc.cli.sandbox import sandbox, shell
from modelhub_hpc.cli.serve import serve
from modelhub_hpc.errors import EXIT_BUG, EXIT_DONE, EXIT_INTERRUPTED, ModelHubError

# numpy, dask and rich are imported inside the commands that need them, so that --help and completion are quick

EXIT_PIPE = 141
_LATER = ("benchmark", "compare", "diff", "export", "images", "recipe", "record", "report", "rerun", "site")
_COMPLETE_VARIABLE = "_MH_HPC_COMPLETE"

_image = click.option(
    "--image", metavar="NAME|FILE", help="Use this image instead of the one the model names."
)
_folder = click.Path(path_type=Path)


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler  # which cannot be subscripted before Python 3.11


class _Stderr(_StreamHandler):
    """Writes to what sys.stderr is at the time: a progress bar replaces it while it shows."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass  # logging sets it once, to the stderr of that time


class _ReaderGone(Exception):
    """Nobody reads our output any more (`mh-hpc results RUN | head`), which is not an error."""


class _Commands(click.Group):
    """All commands; modules of some, which import much, are imported when one of them is asked for."""

    later = {name: f"modelhub_hpc.cli.{name}" for name in _LATER}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.later])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.later:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(importlib.import_module(self.later[cmd_name]), cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error  # click would end the process with the exit code of a bug


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="mh-hpc", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", count=True, help="Say more; twice for debugging.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and answers.")
@click.pass_context
def cli(context: click.Context, verbose: int, quiet: bool) -> None:
    """Run published deep-learning models over whole studies.

    Exit codes: 0 all done, 2 usage, 3 failed cases, 4 invalid model, image or inputs, 5 machine not fit,
    75 try again, 130 interrupted, 1 a bug.
    """
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    ours = logging.getLogger(
        "modelhub_hpc"
    )  # other libraries speak of their own doings, which are not the user's
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(level)
    context.obj = Voice(quiet=quiet)


@cli.command()
@click.argument("inputs", nargs=-1)
@click.option("--model", metavar="NAME|FOLDER", help="The model: a known name, or a contribution's folder.")
@click.option(
    "--inputs",
    "more",
    multiple=True,
    metavar="PATH",
    help="A folder, pattern, file, CSV or JSON; may be repeated.",
)
@click.option(
    "--outdir", type=_folder, help="The run folder; one that holds a run continues it. Default ./runs/ID."
)
@_image
@click.option("--resume", is_flag=True, help="Continue the run in --outdir; an error if there is none.")
@click.option("--retry-failed", is_flag=True, help="Also try the failed cases of the run again.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failed case.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and write nothing.")
@click.option("--wait", is_flag=True, help="SLURM: follow the run until it ends; Ctrl-C leaves it alone.")
@click.option("--plan-only", is_flag=True, help="Write the run folder, for jobs that are submitted by hand.")
@json_option
@site_options(FOR_RUNS)
def submit(
    inputs: tuple[str, ...], more: tuple[str, ...], as_json: bool, outdir: Path | None, **given: Any
) -> int:
    """Run a model over all INPUTS and keep every result in a run folder.

    The same command again continues the run: it keeps its options, but for flags that are given again.
    """
    from modelhub_hpc.cli.submit import Submission, submit

    flags = site_flags(given)
    asked = {
        name: given[name]
        for name in ("model", "image", "resume", "retry_failed", "fail_fast", "dry_run", "wait", "plan_only")
    }
    folder = outdir.absolute() if outdir else None
    wanted = Submission(inputs=(*inputs, *more), outdir=folder, flags=flags, command=_command(), **asked)
    return submit(wanted, voice_of(as_json))


@cli.command(hidden=True)
@click.argument("run", type=_folder)
@click.pass_obj
def drive(voice: Voice, run: Path) -> int:
    """Drive the run in folder RUN from here: what the job of a driver does."""
    from modelhub_hpc.cli.drive import drive

    return drive(run, voice)


@cli.command(hidden=True)
@click.argument("run", type=_folder)
def work(run: Path) -> int:
    """Compute a share of the run in folder RUN: what a job of an array does."""
    from modelhub_hpc.cli.drive import work

    return work(run)


@cli.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "-o", "--output", type=_folder, metavar="FOLDER", help="Write arrays to FOLDER/<case>/<output>.npy."
)
@click.option("--json/--table", "as_json", default=None, help="Default: a table on a terminal, else JSON.")
@_image
@site_options(FOR_ONE_OFFS)
def run(
    model: str,
    inputs: tuple[str, ...],
    output: Path | None,
    as_json: bool | None,
    image: str | None,
    **given: Any,
) -> int:
    """Predict a few INPUTS with MODEL here and now, without a run folder.

    The JSON is one object for one case, a list for several.
    """
    from modelhub_hpc.cli.oneoff import predict
    from modelhub_hpc.cli.submit import absolute
    from modelhub_hpc.run import Asked

    site = config.load({**site_flags(given), "workers": 1, "stage_image": False})
    asked = Asked(model, absolute(inputs), site, None, image, _command())
    voice = voice_of(not sys.stdout.isatty() if as_json is None else as_json)
    return predict(asked, output.absolute() if output else None, voice)


@cli.command()
@click.argument("source")
@click.option(
    "--name", metavar="NAME[:TAG]", help="What models call this image; default: what SOURCE calls it."
)
@click.option("--strict", is_flag=True, help="Refuse an image that is not certified.")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--no-https", is_flag=True, help="The registry speaks HTTP without TLS.")
@json_option
def convert(source: str, name: str | None, strict: bool, offline: bool, no_https: bool, as_json: bool) -> int:
    """Convert SOURCE into the image store and prove that it runs: for any user, offline, read-only.

    SOURCE: docker://[HOST/]REPOSITORY[:TAG][@DIGEST], docker-archive:FILE, oci:FOLDER, oci-archive:FILE, a .sif, an
    unpacked folder, or an Apptainer definition (.def). The same digest again takes no time.
    """
    from modelhub_hpc.cli.convert import convert_image
    from modelhub_hpc.convert import Terms

    terms = Terms(strict=strict, offline=offline, https=not no_https)
    return convert_image(source, name, config.load(), terms, voice_of(as_json))


for each in (*RUN_COMMANDS, *MODEL_COMMANDS, *CONTRIBUTOR_COMMANDS):
    cli.add_command(each)
cli.add_command(build)
cli.add_command(doctor)
cli.add_command(modelhub_run)
cli.add_command(pull)
cli.add_command(config_group)
cli.add_command(sandbox)
cli.add_command(serve)
cli.add_command(shell)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of SHELL, e.g. for: eval "$(mh-hpc completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "mh-hpc", _COMPLETE_VARIABLE).source())
    return EXIT_DONE


def _command() -> str:
    return shlex.join(["mh-hpc", *sys.argv[1:]])


def run_program() -> NoReturn:
    """`mh-hpc` as a program of its own, which ends without taking apart what it has loaded: that takes a while."""
    code = main()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # of a reader that is gone; what else could go wrong, main() has met
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    make_streams_robust()
    try:
        code = cli.main(arguments, "mh-hpc", complete_var=_COMPLETE_VARIABLE, standalone_mode=False)
        sys.stdout.flush()
        return int(code or EXIT_DONE)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return EXIT_INTERRUPTED
    except (BrokenPipeError, _ReaderGone):
        # what is still buffered would raise again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except ModelHubError as error:
        click.echo(f"Error: {many_lines(str(error))}", err=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        click.echo(
            "This is a bug in mh-hpc; please report it with the lines above and the command.", err=True
        )
        return EXIT_BUG
