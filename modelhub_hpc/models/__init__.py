"""Find a model by name or folder."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from modelhub_hpc import contribution, resources
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError


def find(model: str, folders: Sequence[Path]) -> Contribution:
    """The model of that name, or in that folder; InvalidError with near names if there is none.

    folders: places with contributions, searched in order before the ones that travel with this package.
    """
    places = [*folders, resources.folder("registry") / "contributions"]
    for path in (*(place / model for place in places), Path(model)):
        if (path / "contrib_src").is_dir():
            return contribution.read(path.absolute())
    known = sorted({p.parent.name for place in places for p in place.glob("*/contrib_src")})
    near = difflib.get_close_matches(Path(model).name, known, n=1)
    guess = f"Did you mean '{near[0]}'?" if near else f"Known models: {', '.join(known) or '(none)'}"
    raise InvalidError(
        f"There is no model '{model}'. {guess}\n"
        f"Searched: {', '.join(str(p) for p in places)}; a contribution's folder can be named too."
    )
