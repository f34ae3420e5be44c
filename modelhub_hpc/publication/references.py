"""What whoever publishes a run has to cite, as BibTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelhub_hpc.models import citation
from modelhub_hpc.models.entry import Entry
from modelhub_hpc.request import RunRequest

_KEY = re.compile(r"@\w+\s*\{\s*([^\s,{}]+)\s*,")

_MODELHUB = r"""@misc{modelhub-2019,
  title = {{ModelHub.AI}: Dissemination Platform for Deep Learning Models},
  author = {Hosny, Ahmed and Schwier, Michael and Berger, Christoph and {\"O}rnek, Evin P and Turan, Mehmet and
    Tran, Phi V and Weninger, Leon and Isensee, Fabian and Maier-Hein, Klaus H and McKinley, Richard and
    Lu, Michael T and Hoffmann, Udo and Menze, Bjoern and Bakas, Spyridon and Fedorov, Andriy and Aerts, Hugo JWL},
  year = {2019},
  eprint = {1911.13218},
  archivePrefix = {arXiv},
  url = {https://arxiv.org/abs/1911.13218},
}"""

_APPTAINER = r"""@article{singularity-2017,
  title = {Singularity: Scientific containers for mobility of compute},
  author = {Kurtzer, Gregory M. and Sochat, Vanessa and Bauer, Michael W.},
  journal = {PLoS ONE},
  volume = {12},
  number = {5},
  pages = {e0177459},
  year = {2017},
  doi = {10.1371/journal.pone.0177459},
}"""

_SLURM = r"""@inproceedings{slurm-2003,
  title = {{SLURM}: Simple {Linux} Utility for Resource Management},
  author = {Yoo, Andy B. and Jette, Morris A. and Grondona, Mark},
  booktitle = {Job Scheduling Strategies for Parallel Processing},
  series = {Lecture Notes in Computer Science},
  volume = {2862},
  pages = {44--60},
  year = {2003},
  publisher = {Springer},
  doi = {10.1007/10968987_3},
}"""


@dataclass(frozen=True)
class References:
    """BibTeX entries, None where there is nothing to cite: a model of unknown origin, a container that was not used."""

    model: str | None
    modelhub: str
    software: str
    apptainer: str | None
    slurm: str | None

    def text(self) -> str:
        """CITATION.bib."""
        given = (self.model, self.modelhub, self.software, self.apptainer, self.slurm)
        return "\n\n".join(each for each in given if each) + "\n"


def of_run(run: RunRequest, entry: Entry | None, on_slurm: bool) -> References:
    """What this run has made use of; entry: what is known of its model."""
    model = citation.bibtex(entry) if entry else None
    return References(
        model.strip() if model else None,
        _MODELHUB,
        _software(run.software),
        _APPTAINER if run.image else None,
        _SLURM if on_slurm else None,
    )


def _software(version: str) -> str:
    return f"""@software{{modelhub-hpc,
  title = {{modelhub-hpc: published deep-learning models over whole studies}},
  author = {{{{The modelhub-hpc developers}}}},
  version = {{{version}}},
}}"""


def mark(bibtex: str | None) -> str:
    """How a text for pandoc cites an entry, with the space before it; "" for none.

    >>> mark("@misc{vgg-2014,\\n title = {x},\\n}"), mark(None)
    (' [@vgg-2014]', '')
    """
    key = _KEY.search(bibtex or "")
    return f" [@{key[1]}]" if key else ""
