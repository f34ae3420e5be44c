"""Write a definition for each published environment of environments.json, and their table in README.md.

In a clone of the repository:  PYTHONPATH=. python3 recipes/make_recipes.py
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhub_hpc.dockerfiles.post import READABLE

HERE = Path(__file__).resolve().parent

TEMPLATE = """\
# Made by make_recipes.py from environments.json: change those, not this file.
#
# From         {image}
# which is on  {chain}
# Python       {python}, started as `{interpreter}`
# Holds        {holds}{gpu_note}
# Models       {models}
#
# The same result as `mh-hpc convert docker://{image}`, for sites that build images
# from definitions only, or add something of their own to %post. As an ordinary user:
#
#     apptainer build --fakeroot {recipe}.sif {recipe}.def
#     mh-hpc convert {recipe}.sif --name {image}
#
# Where no image registry can be reached, from what `docker save` wrote elsewhere:
#
#     apptainer build --fakeroot --build-arg bootstrap=docker-archive --build-arg base=FILE.tar \\
#         {recipe}.sif {recipe}.def
Bootstrap: {{{{ bootstrap }}}}
From: {{{{ base }}}}

%arguments
    bootstrap=docker
    base={image}

%labels
    org.modelhub-hpc.environment {image}
    org.modelhub-hpc.cwd /contrib_src
    org.modelhub-hpc.interpreter {interpreter}

%post
{readable}

%environment
    # the image's own value, which gives way to that of whoever starts the container
    export PYTHONPATH=/usr/local:/framework/:/contrib_src/

%runscript
OCI_CMD='"{interpreter}" "run.py"'
    # Docker starts in the image's working folder, Apptainer in that of the caller
    cd /contrib_src || exit
    [ $# -gt 0 ] || eval "set -- $OCI_CMD"
    exec "$@"

%test
    {interpreter} -c 'import h5py, numpy, PIL, SimpleITK'
"""


@dataclass(frozen=True)
class Environment:
    """A published Docker environment; chain: the images below it, lowest last; holds: as far as it is known."""

    recipe: str
    image: str
    chain: Sequence[str]
    python: str
    holds: str
    gpu: bool
    models: Sequence[str]

    @property
    def interpreter(self) -> str:
        return "python" if self.python.startswith("2") else "python3"

    def definition(self) -> str:
        facts = {**vars(self), "chain": " on ".join(self.chain), "models": ", ".join(self.models)}
        return TEMPLATE.format(
            **facts,
            interpreter=self.interpreter,
            gpu_note="; its models need a GPU" if self.gpu else "",
            readable=textwrap.indent(READABLE, "    "),
        )

    def row(self) -> str:
        gpu = ", GPU" if self.gpu else ""
        cells = (
            f"`{self.recipe}.def`",
            f"`{self.image}`",
            self.python,
            self.holds + gpu,
            ", ".join(self.models),
        )
        return f"| {' | '.join(cells)} |"


def environments() -> list[Environment]:
    return [
        Environment(**each) for each in json.loads((HERE / "environments.json").read_text(encoding="utf-8"))
    ]


def files() -> Iterator[tuple[Path, str]]:
    """Every file that follows from environments.json, with its text."""
    for each in environments():
        yield HERE / f"{each.recipe}.def", each.definition()
    readme = HERE / "README.md"
    table = "\n".join(each.row() for each in environments())
    text = readme.read_text(encoding="utf-8")
    yield (
        readme,
        re.sub(r"(?s)(<!-- environments -->\n.*?\|\n\|[-|]+\|\n).*?(?=\n\n)", lambda m: m[1] + table, text),
    )


if __name__ == "__main__":
    for path, text in files():
        path.write_text(text, encoding="utf-8")
