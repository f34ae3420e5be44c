"""`mh-hpc recipe`: a Dockerfile becomes an Apptainer definition, with notes on what could not be said the same way.

Text in, text out: nothing is built, read or fetched. spython holds and writes the definition. Its own parser of
Dockerfiles is not used, since it reads line by line: it drops continued ENV lines (or ends in an IndexError), does
not export ENV to later commands, takes flags and the JSON form of COPY for file names and an exec-form RUN for a
command, lets `cd` and variables of one RUN reach the next, loses the quotes of CMD and ENTRYPOINT, writes
HEALTHCHECK's options as a test, and mixes up stages without a name.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelhub_hpc.dockerfiles import post
from modelhub_hpc.dockerfiles.definition import part_of
from modelhub_hpc.dockerfiles.instructions import read
from modelhub_hpc.dockerfiles.parts import Note, Part
from modelhub_hpc.dockerfiles.stages import needed, stages, target_of
from modelhub_hpc.dockerfiles.variables import for_shell

__all__ = ["Note", "Recipe", "convert"]


@dataclass(frozen=True)
class Recipe:
    """An Apptainer definition made from a Dockerfile."""

    definition: str
    notes: tuple[Note, ...]


def convert(text: str, build_args: Mapping[str, str] | None = None, target: str | None = None) -> Recipe:
    """The definition that makes the same image as a Dockerfile, fit for ModelHub's engine and for any user.

    build_args: values for ARGs, and for variables that only the base image knows; target: the stage to stop at.
    Raises modelhub_hpc.errors.InvalidError with the line of what Apptainer cannot do, or of what is no Dockerfile.
    """
    given = build_args or {}
    found = stages(read(text), given)
    parts = [part_of(stage, found, given) for stage in needed(found, target_of(found, target))]
    _finish(parts[-1], text)
    for part in parts:
        post.refuse_foreign_words(_said(part))
    notes = sorted(
        {note for part in parts for note in part.notes}, key=lambda note: (note.line, note.message)
    )
    return Recipe(_header(notes) + _written(parts), tuple(notes))


def _finish(last: Part, text: str) -> None:
    """What makes an environment for ModelHub of it."""
    last.post.append(textwrap.indent(f"{post.READABLE}\nrm -rf {post.CONTEXT}", "    "))
    facts = {
        "org.opencontainers.image.base.name": last.stage.base,
        "org.modelhub-hpc.dockerfile": f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}",
        "org.modelhub-hpc.cwd": last.workdir,
    }
    last.labels.update({name: value for name, value in facts.items() if value})
    last.post.append(textwrap.indent(post.labels(last.labels), "    "))


def _said(part: Part) -> Iterator[str]:
    """All text of people that gets into the definition."""
    yield from (part.stage.base, *part.post, *_runscript(part), *(note.message for note in part.notes))
    yield from (" ".join(pair) for pair in part.labels.items())
    yield from (" ".join(pair) for pairs in (part.files, *part.files_from.values()) for pair in pairs)


def _header(notes: Sequence[Note]) -> str:
    lines = ["Made from a Dockerfile by `mh-hpc recipe`. In the folder that is Docker's build context:"]
    lines += ["    apptainer build --fakeroot image.sif THIS_FILE"]
    for note in notes:
        lines += ["", *textwrap.wrap(f"line {note.line}, {note.name}: {note.message}", 108)]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _written(parts: Sequence[Part]) -> str:
    from spython.main.parse.writers.singularity import SingularityWriter  # type: ignore[import-untyped]

    text: str = SingularityWriter({part.stage.name: _as_spython(part) for part in parts}).convert()
    # it always writes a %runscript, one without quotes, and a %startscript: ours takes their place
    body = _laid_out(text.partition("\n%runscript\n")[0])
    script = "".join(f"{line}\n" for line in _runscript(parts[-1]))
    return f"{body}\n" + (f"\n%runscript\n{script}" if script else "")


def _laid_out(body: str) -> str:
    """Blank lines between sections, and lines of sections indented; %post comes as it is wanted."""
    spaced = re.sub(r"^(%|Bootstrap:)", r"\n\1", body, flags=re.MULTILINE)
    stages = re.sub(r"^(Stage: .*)\n+", r"\1\n\n", spaced, flags=re.MULTILINE)
    section = r"^(%(?:files|labels|environment)\b.*\n)((?:.+(?:\n|\Z))+)"
    return re.sub(section, lambda m: m[1] + textwrap.indent(m[2], "    "), stages, flags=re.MULTILINE)


def _as_spython(part: Part) -> Any:
    from spython.main.parse.recipe import Recipe as Spython  # type: ignore[import-untyped]

    made = Spython()
    made.fromHeader = part.stage.base
    made.files = [list(pair) for pair in part.files]
    made.layer_files = {name: [list(pair) for pair in pairs] for name, pairs in part.files_from.items()}
    # the writer halves every run of line feeds
    made.install = [entry.replace("\n", "\n\n") for entry in part.post]
    made.environ = [f"{name}={for_shell(value)}" for name, value in part.environment.items()]
    return made


def _runscript(part: Part) -> Iterator[str]:
    """What `apptainer run` does; nothing where the base image says it."""
    if part.entrypoint is None and part.command is None:
        return
    yield f"OCI_ENTRYPOINT='{_quoted(part.entrypoint or ())}'"
    yield f"OCI_CMD='{_quoted(part.command or ())}'"
    if part.workdir:
        yield f"    cd {shlex.quote(part.workdir)} || exit"
    if part.accepts_arguments:
        yield "    # arguments take the place of CMD"
        yield '    [ $# -gt 0 ] || eval "set -- $OCI_CMD"'
    else:
        yield "    set --"
    yield '    eval "exec $OCI_ENTRYPOINT \\"\\$@\\""'


def _quoted(argv: Sequence[str]) -> str:
    """Words in double quotes, as Apptainer itself writes them inside of single ones."""
    words = (re.sub(r'([\\"$`])', r"\\\1", word).replace("'", "'\\''") for word in argv)
    return " ".join(f'"{word}"' for word in words)
