"""A run repeated from its record: the same model, image, options and inputs, or a word of what is not the same."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modelhub_hpc import contribution, images, models, needs, run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InputError, InvalidError, count_of, shown
from modelhub_hpc.images import Image
from modelhub_hpc.images.image import parse
from modelhub_hpc.plan import Case, Found
from modelhub_hpc.plan.files import files_of, identity_of
from modelhub_hpc.plan.lazy import Mapped
from modelhub_hpc.plan.tables import Draft, Drafts
from modelhub_hpc.publication import hashing
from modelhub_hpc.request import RunRequest
from modelhub_hpc.runs.reading import Reading

_FEW = 5
# options that say where things are on a machine, which need not be the one of the run
PLACES = ("cache_dir", "library_dirs", "model_dirs", "registries", "scratch_dir")


@dataclass(frozen=True)
class Allowed:
    """What may be other than it was: then it is a run of its own, which says that it repeats the other."""

    model: bool = False
    image: bool = False
    inputs: bool = False


@dataclass(frozen=True)
class Repetition:
    """A run that would repeat another. model, image: as named by the user, else those of the run.

    moved: folders of inputs that lie elsewhere now, old -> new.
    """

    of: Reading
    asked: run.Asked
    model: str | None = None
    image: str | None = None
    moved: Mapping[str, str] = dataclasses.field(default_factory=dict)
    allowed: Allowed = Allowed()

    def plan(self) -> run.Planned:
        """The new run, of which nothing is on disk yet.

        Raises InvalidError where something is not as it was and may not be otherwise, and what run.plan raises.
        """
        then, site = self.of.request, self.asked.site
        model = self._model(then, site)
        needs.check(model, site)
        image = None if site.runtime == "host" else self._image(then, model, site)
        if image is not None:
            images.admit(image, site)
        self._require_same_image(then.image, image)
        if [spec.key for spec in model.inputs] != list(self.of.manifest.keys):
            raise InvalidError(f"{shown(model.name)} in {shown(model.path)} takes other inputs than that run had.")
        found = _Inputs(self.of, self.moved).found(self.allowed.inputs)
        planned = run.planned(self.asked, model, image, found)
        return dataclasses.replace(planned, run=dataclasses.replace(planned.run, repeats=then.run_id))

    def _model(self, then: RunRequest, site: SiteConfig) -> Contribution:
        here = list(_models(self.model, then.model, site))
        same = next((model for model in here if model.digest == then.model.digest), None)
        if same is None and not self.allowed.model:
            raise InvalidError(
                f"The model here is not the one of that run.\n"
                f"then: {shown(then.model.name)} {then.model.version}, files {then.model.digest}\n"
                f"here: {shown(here[0].name)} {here[0].version}, files {here[0].digest} in {shown(here[0].path)}\n"
                f"Bring it:  mh-hpc pull {shown(then.model.name)}@{then.model.version}, or name its folder: --model\n"
                "To run what is here all the same: --changed-model"
            )
        return same or here[0]

    def _image(self, then: RunRequest, model: Contribution, site: SiteConfig) -> Image:
        if self.image is not None:
            return images.find(self.image, site)
        if then.image is None:
            return images.find(model.image, site)
        tried = [InvalidError("")]
        for name in _image_names(then.image):
            try:
                return images.find(name, site)
            except InvalidError as error:
                tried.append(error)
        raise tried[-1]

    def _require_same_image(self, then: Image | None, now: Image | None) -> None:
        same = then is now is None or (then is not None and now is not None and _is_same(then, now))
        if not same and not self.allowed.image:
            raise InvalidError(
                "The image here is not the one of that run.\n"
                f"then: {_described(then)}\nhere: {_described(now)}\n"
                "Name the right one with --image, or run with this one all the same: --changed-image"
            )


def _models(named: str | None, then: Contribution, site: SiteConfig) -> Iterator[Contribution]:
    """The model in every place where it could be; InvalidError where there is none."""
    if named is not None:
        yield models.find(named, site)
        return
    found = 0
    if then.contrib_src.is_dir():
        found += 1
        yield contribution.read(then.path)
    for name in (f"{then.name}@{then.version}", then.name):
        try:
            yield models.find(name, site)
        except InvalidError:
            if name == then.name and not found:
                raise
        else:
            found += 1


def _image_names(then: Image) -> Iterator[str]:
    """What the image could be found by, the surest first; its name alone may have come to mean another."""
    if then.path.is_file():
        yield str(then.path)
    if not then.name.startswith("/"):
        repository = parse(then.name).repository
        for digest in (f"sha256:{then.sha256}", then.tree, then.digest):
            if digest:
                yield f"{repository}@{digest}"
        yield then.name


def _is_same(then: Image, now: Image) -> bool:
    """The same file, the same files in it, or made from the same source."""
    pins = (f"sha256:{then.sha256}", then.tree, then.digest)
    return any(pin and now.is_pinned_by(pin) for pin in pins)


def _described(image: Image | None) -> str:
    if image is None:
        return "none (--runtime host)"
    source = f", from {image.digest}" if image.digest else ""
    return f"{shown(image.name)} (SIF sha256:{image.sha256}{source})"


class _Inputs:
    """The inputs of a run, looked at again."""

    def __init__(self, of: Reading, moved: Mapping[str, str]) -> None:
        self._of = of
        self._moved = {os.path.abspath(old): os.path.abspath(new) for old, new in moved.items()}

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return dict(hashing.read(self._of.paths))

    def found(self, allow_changes: bool) -> Found:
        """The same cases as they are now. Raises InvalidError if some are not what they were and may not be."""
        drafts, changed = Drafts(), list[tuple[str, str]]()
        for case in self._of.manifest.stream():
            now, why = self._now(case)
            if why:
                changed.append((case.id, why))
            drafts.append(Draft(now.id, now.inputs, now.columns, now.input_bytes, now.input_mtime_ns, True))
        if changed and not allow_changes:
            raise InvalidError(_refusal(changed))
        return Found(Mapped(lambda at: _case(drafts[at]), range(len(drafts))), ())

    def _now(self, then: Case) -> tuple[Case, str]:
        """The case as it is now, and what has changed of it, if anything."""
        moved = then._replace(inputs=tuple((key, self._place(path)) for key, path in then.inputs))
        try:
            size, mtime_ns = identity_of(moved)
        except InputError as error:
            return moved._replace(input_bytes=0, input_mtime_ns=0), f"{error.kind}: {error}"
        now = moved._replace(input_bytes=size, input_mtime_ns=mtime_ns)
        if size != then.input_bytes:
            return now, f"changed: {size:,} bytes instead of {then.input_bytes:,}"
        if mtime_ns == then.input_mtime_ns or self._has_same_content(then, now):
            return now, ""
        return now, "changed: another content" if self._hashes else "perhaps changed: another time of change"

    def _has_same_content(self, then: Case, now: Case) -> bool:
        """By the digests that were taken of the inputs then."""
        files = [each for named in files_of(now) for each in hashing.files_in(named)]
        known = [self._hashes.get(self._former(each)) for each in files]
        return bool(files) and None not in known and all(file_digest(Path(f)) == d for f, d in zip(files, known))

    def _place(self, path: str) -> str:
        return _relocated(path, self._moved)

    def _former(self, path: str) -> str:
        return _relocated(path, {new: old for old, new in self._moved.items()})


def _relocated(path: str, moved: Mapping[str, str]) -> str:
    """
    >>> _relocated("/a/b/c", {"/a/b": "/x"}), _relocated("/a/bc", {"/a/b": "/x"}), _relocated("/a/b", {"/a/b": "/x"})
    ('/x/c', '/a/bc', '/x')
    """
    for old, new in moved.items():
        if path == old or path.startswith(os.path.join(old, "")):
            return os.path.normpath(new + path[len(old) :])
    return path


def _case(draft: Draft) -> Case:
    return Case(draft.name, draft.inputs, draft.columns, draft.input_bytes, draft.input_mtime_ns)


def _refusal(changed: Sequence[tuple[str, str]]) -> str:
    some = "\n".join(f"  {case}: {shown(why)}" for case, why in changed[:_FEW])
    more = f"\n  and {len(changed) - _FEW:,} more" if len(changed) > _FEW else ""
    return (
        f"The inputs of {count_of(len(changed), 'case')} are not those of that run.\n{some}{more}\n"
        "Where they lie elsewhere now: --inputs-root OLD=NEW. To run over what is there: --changed-inputs\n"
        "Times of change count where nobody has taken digests of that run's inputs (mh-hpc record RUN --hash-inputs)."
    )
