"""Find a model by name or folder."""

from __future__ import annotations

import difflib
from pathlib import Path

from modelhub_hpc import contribution, resources
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.models import pulled


def find(model: str, site: SiteConfig) -> Contribution:
    """The model of that name, or in that folder; InvalidError with near names if there is none.

    What has a slash is a folder's path, if there is one. NAME is looked for in the folders of model_dirs, among those
    that travel with this package, and among those that were pulled, the newest version of them. NAME@VERSION is the
    pulled one of that version, else the one of that version in those folders.
    """
    if "/" in model and (Path(model) / "contrib_src").is_dir():
        return contribution.read(Path(model).absolute())
    name, version = pulled.parse(model)
    brought = pulled.find(model, site)
    if version and brought:
        return contribution.read(brought.path)
    places = [*site.model_dirs, shipped()]
    for path in (*(place / name for place in places), *([brought.path] if brought else []), Path(model)):
        if (path / "contrib_src").is_dir():
            found = contribution.read(path.absolute())
            if version in ("", found.version) or path == Path(model):
                return found
    raise _unknown(model, places, site)


def shipped() -> Path:
    """The folder of the contributions that travel with this package."""
    return resources.folder("registry") / "contributions"


def here(site: SiteConfig) -> list[str]:
    """The names of all models that are on this machine, in order."""
    return _known([*site.model_dirs, shipped()], site)


def _known(places: list[Path], site: SiteConfig) -> list[str]:
    brought = {each.name for each in pulled.everything(site)}
    return sorted({path.parent.name for place in places for path in place.glob("*/contrib_src")} | brought)


def _unknown(model: str, places: list[Path], site: SiteConfig) -> InvalidError:
    name, version = pulled.parse(model)
    searched = [*places, pulled.folder(site)]
    there = f"\nSearched: {', '.join(map(shown, searched))}; a contribution's folder can be named too."
    if version and (others := pulled.versions(name, site)):
        here = ", ".join(each.version for each in others)
        return InvalidError(
            f"'{shown(name)}' is here in version {here}, and not in {shown(version)}.\n"
            f"Bring it:  mh-hpc pull {shown(model)}{there}"
        )
    known = _known(places, site)
    near = difflib.get_close_matches(Path(name).name, known, n=1)
    guess = f"Did you mean '{near[0]}'?" if near else f"Known models: {', '.join(known) or '(none)'}"
    return InvalidError(f"There is no model '{shown(model)}'. {guess}{there}")
