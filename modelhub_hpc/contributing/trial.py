"""Try a contribution in its container, on its own samples: what it promises, and what anybody must be able to rely on.

Every sample is predicted three times: twice in one process of the calling user, and once in another process, of another
user of this machine where that can be had. All without network, and with nothing but the usual folders to write to.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import apptainer, certify, config, contribution, images
from modelhub_hpc.aliases import is_plain
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import expected, sampledata, seen
from modelhub_hpc.contributing.expected import EXACT, Expected
from modelhub_hpc.contributing.sampledata import Sample
from modelhub_hpc.contributing.seen import Seen
from modelhub_hpc.contributing.verdicts import Check, Tally
from modelhub_hpc.contribution import Contribution
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.keeper import FIRST_POLL_S
from modelhub_hpc.launch import SessionSpec, Stranger
from modelhub_hpc.runfolder import dumps, replacing
from modelhub_hpc.session import Session, SessionError, StartError
from modelhub_hpc.wire import Reply, Request

PASSES = 3  # predictions of each sample
_APPTAINER_FAILED = 255
_NO_LIMIT_MB = 1 << 30  # with a limit, memory is looked at several times a second
_REPEAT = "Set the seeds, and leave out dropout and augmentation; or allow a tolerance in"
_UPDATE = "If the new outputs are right:  mh-hpc test DIR --update-expected"


@dataclass(frozen=True)
class Report:
    """measured: what is known of the model's cost, None where not all samples were predicted; written: files."""

    model: str
    image: str | None
    checks: tuple[Check, ...]
    measured: dict[str, Any] | None
    written: tuple[Path, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks)


Observer = Callable[[int, int, int], None]  # predictions made, failed, to make


def test(folder: Path, image: str | None, site: SiteConfig, update: bool, observe: Observer) -> Report:
    """Try the contribution in a folder; update: make what it gives now the expected outputs, if nothing is wrong.

    Writes measured.json into the folder, and nothing else unless update. Raises InvalidError for what cannot be
    tried, UnfitError where no container starts here.
    """
    model = contribution.read(folder.absolute())
    samples = sampledata.find(model)
    if not samples:
        raise InvalidError(f"{model.name} has no samples in {sampledata.FOLDER}: there is nothing to try it on.")
    wanted = {sample.name: expected.read(model.contrib_src, sample.name) for sample in samples}
    trial = _Trial(model, samples, wanted, _place(model, image, site), site, update, observe)
    trial.run()
    written = trial.keep() if update and trial.all_predicted and not trial.tally.problems else []
    measured = trial.measured() if trial.all_predicted else None
    if measured is not None:
        path = model.path / "measured.json"
        with replacing(path) as stream:
            stream.write(dumps(measured, indent=2) + "\n")
        written.append(path)
    name = trial.image.name if trial.image else None
    return Report(model.name, name, tuple(trial.tally.checks()), measured, tuple(written))


def _place(model: Contribution, image: str | None, site: SiteConfig) -> images.Image | None:
    """The image to try the model in; None on the host."""
    if site.runtime == "host":
        return None
    apptainer.program()
    place = images.find(image or model.image, site)
    images.admit(place, site)
    images.check(place)
    return place


class _Trial:
    """The three predictions of all samples, compared as they come; first: the outputs of the first, by sample."""

    def __init__(
        self,
        model: Contribution,
        samples: Sequence[Sample],
        wanted: Mapping[str, Expected | None],
        image: images.Image | None,
        site: SiteConfig,
        update: bool,
        observe: Observer,
    ) -> None:
        self.image = image
        self.first: dict[str, tuple[Seen, ...]] = {}
        self.tally = Tally(
            image is not None,
            {
                "outputs": ", ".join(f"{each.name} ({each.type})" for each in model.outputs),
                "repeats": "bit for bit, in one process and in two",
                "offline": "no network is there, and none is missed",
                "read-only": "it writes to no other folders than it may",
                "no root": "it needs no rights that users do not have",
            },
        )
        self._model, self._samples, self._site = model, samples, site
        self._wanted = {} if update else wanted
        usual = expected.USUAL if update else EXACT
        self._tolerance = {name: each.tolerance if each else usual for name, each in wanted.items()}
        self._observe = observe
        self._made = self._failed = self._peak_mb = 0
        self._seconds: list[float] = []
        self._start_s, self._engine = 0.0, ""

    @property
    def all_predicted(self) -> bool:
        return len(self.first) == len(self._samples)

    def run(self) -> None:
        before = _state(self._model.contrib_src)
        with self._session("starts", None) as session:
            if self._pass(session, self._samples, self._compare_with_promises, "predicts"):
                self._pass(session, self._sound(), self._compare_again, "predicts")
        if self.first:
            self._as_another()
        changed = {path for path, _ in _state(self._model.contrib_src).items() ^ before.items()}
        for path in sorted(changed)[:1]:
            what = f"it wrote to {path}, beside its code, where containers have nothing to write to"
            self.tally.add("read-only", "", what, "Write to /output, /tmp or $HOME, or not at all.")
        count = len(self._samples)
        self.tally.predicted = len(self.first)
        self.tally.details["predicts"] = f"{len(self.first)} of {count} samples"
        self.tally.details["expected"] = f"{self.tally.counts['expected']} of {count} samples were compared"

    def _sound(self) -> list[Sample]:
        """The samples whose first prediction did not fail."""
        return [each for each in self._samples if each.name in self.first]

    # -- predictions ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self, check: str, stranger: Stranger | None) -> Iterator[Session | None]:
        """A session; None where the model does not start, which is then a problem of that check."""
        session, began = Session(self._spec(stranger)), time.monotonic()
        try:
            session.__enter__()
        except StartError as error:
            if error.is_of_the_machine:
                raise
            self.tally.failed(check, "", str(error).splitlines()[0], str(error))
            yield None
            return
        if check == "starts":
            self._note_start(session, time.monotonic() - began)
        try:
            yield session
            if check == "starts":
                time.sleep(1.2 * FIRST_POLL_S)  # for a last look at its memory, which a short session would end without
        finally:
            session.close()
            self._peak_mb = max(self._peak_mb, session.peak_mb)

    def _note_start(self, session: Session, seconds: float) -> None:
        assert session.ready is not None
        self._start_s, self._engine = seconds, session.ready.engine
        self.tally.details["starts"] = f"in {seconds:.1f} s, Python {session.ready.python}"

    def _spec(self, stranger: Stranger | None) -> SessionSpec:
        place = (self.image.path, self.image.interpreter) if self.image else (None, config.PYTHON)
        spec = SessionSpec.of(self._site, self._model, *place, gpus=config.gpus(self._site)[:1])
        return dataclasses.replace(spec, network=False, mem_mb=spec.mem_mb or _NO_LIMIT_MB, stranger=stranger)

    def _pass(
        self, session: Session | None, samples: Sequence[Sample], judge: Callable[[Sample, Reply], None], check: str
    ) -> bool:
        """Predict samples, one after the other; False where one ended the session: those after it are not tried."""
        if session is None:
            return False
        waiting = collections.deque(samples)
        try:
            for reply in session.predict(self._request(session, sample) for sample in samples):
                sample = waiting.popleft()
                if reply.error is None:
                    judge(sample, reply)
                else:
                    kind = "outputs" if reply.kind == "output" else check
                    self.tally.failed(kind, sample.name, reply.error, reply.traceback)
                self._tell(reply.error is not None)
        except SessionError as error:
            self.tally.failed(check, waiting[0].name, str(error), error.evidence.text())
            self._tell(failed=True)
            return False
        return True

    def _request(self, session: Session, sample: Sample) -> Request:
        return Request(sample.name, tuple((key, self._shown(session, path)) for key, path in sample.inputs))

    def _shown(self, session: Session, path: Path) -> str:
        """The path of a sample as the model sees it."""
        if self.image is None or not is_plain(str(path)):
            return session.aliases.visible((("", str(path)),))[0][1]
        return f"/contrib_src/{path.relative_to(self._model.contrib_src)}"

    def _tell(self, failed: bool) -> None:
        self._made += 1
        self._failed += failed
        self._observe(self._made, self._failed, PASSES * len(self._samples))

    def _as_another(self) -> None:
        """The third prediction of each sample, in another process and, where that can be had, of another user."""
        if self.image is not None:
            stranger, who = certify.find_stranger(config.scratch_dir(self._site))
            self.tally.details["another user"] = who
            if stranger is not None and self._as_stranger(stranger):
                self.tally.counts["another user"] += 1
                return
        with self._session("repeats", None) as session:
            self._pass(session, self._sound(), self._compare_with_first, "repeats")

    def _as_stranger(self, stranger: Stranger) -> bool:
        """False where no container starts as another user."""
        try:
            with self._session("another user", stranger) as session:
                self._pass(session, self._sound(), self._compare_with_first, "another user")
        except StartError as error:
            if error.evidence.code != _APPTAINER_FAILED:
                raise
            # some hosts let nobody make a user namespace within another
            self.tally.details["another user"] = "a container as another user does not start here"
            return False
        return True

    # -- judgements -------------------------------------------------------------------------------------------------

    def _compare_with_promises(self, sample: Sample, reply: Reply) -> None:
        outputs = self.first[sample.name] = seen.keep(reply.outputs)
        for what, mend in seen.broken_promises(outputs, self._model.outputs):
            self.tally.add("outputs", sample.name, what, mend)
        wanted = self._wanted.get(sample.name)
        if wanted is not None:
            self.tally.counts["expected"] += 1
            for what in expected.differences(outputs, wanted.outputs, wanted.tolerance):
                self.tally.add("expected", sample.name, what, _UPDATE)

    def _compare_again(self, sample: Sample, reply: Reply) -> None:
        self._seconds.append(reply.seconds)  # without what a model does but once
        self._compare_with_first(sample, reply)

    def _compare_with_first(self, sample: Sample, reply: Reply) -> None:
        outputs, before = seen.keep(reply.outputs), self.first[sample.name]
        self.tally.counts["repeats"] += 1
        if any(expected.differences(outputs, before, EXACT)):
            self.tally.details["repeats"] = "within the tolerance, in one process and in two"
            for what in expected.differences(outputs, before, self._tolerance[sample.name]):
                mend = f"{_REPEAT} {sampledata.FOLDER}/expected/{sample.name}.json"
                self.tally.add("repeats", sample.name, what, mend)

    # -- what is left of it -----------------------------------------------------------------------------------------

    def keep(self) -> list[Path]:
        """Make what the model gave the expected outputs; the files."""
        folder, given = self._model.contrib_src, self.first.items()
        return [path for name, outputs in given for path in expected.write(folder, name, outputs)]

    def measured(self) -> dict[str, Any]:
        """What the model costs on this machine: seconds of the median prediction, MiB of the largest process tree."""
        image = self.image
        return {
            "seconds_per_case": round(statistics.median(self._seconds), 6) if self._seconds else None,
            "memory_mb": self._peak_mb,
            "start_s": round(self._start_s, 3),
            "image": image.name if image else None,
            "image_digest": (image.digest or f"sha256:{image.sha256}") if image else None,
            "engine": self._engine,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": _machine(self._site),
        }


def _machine(site: SiteConfig) -> str:
    """What kind of machine this is; not which."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpus = config.gpus(site)[:1]
    return f"{names[0] if names else platform.machine()}, {config.cores()} cores" + (", 1 GPU" if gpus else "")


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files, byte-code aside."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            with contextlib.suppress(OSError):
                info = os.lstat(os.path.join(place, name))
                found[os.path.relpath(os.path.join(place, name), folder)] = info.st_size, info.st_mtime_ns
    return found
