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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelhub_hpc import apptainer, certify, config, contribution, images
from modelhub_hpc.aliases import is_plain
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.contributing import expected, reasons, sampledata, seen
from modelhub_hpc.contributing.expected import EXACT, Expected
from modelhub_hpc.contributing.reasons import Reason
from modelhub_hpc.contributing.sampledata import Sample
from modelhub_hpc.contributing.seen import Seen
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
_WORDS = 2000  # characters of evidence
# what is checked, in the order in which it is told
CHECKS = (
    "starts",
    "predicts",
    "outputs",
    "expected",
    "repeats",
    "offline",
    "read-only",
    "no root",
    "another user",
)
_OF_CONTAINERS = ("offline", "read-only", "no root", "another user")


@dataclass(frozen=True)
class Problem:
    """What is wrong. sample: "" where it is of all; evidence: a traceback, say."""

    check: str
    sample: str
    what: str
    mend: str
    evidence: str = ""


@dataclass(frozen=True)
class Check:
    """ok: None for what was not tried."""

    name: str
    ok: bool | None
    detail: str
    problems: tuple[Problem, ...]


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
    place = None
    if site.runtime != "host":
        apptainer.program()
        place = images.find(image or model.image, site)
        images.admit(place, site)
        images.check(place)
    trial = _Trial(model, samples, {} if update else wanted, place, site, observe)
    trial.run()
    written = trial.keep() if update and trial.all_predicted and not trial.problems else []
    measured = trial.measured() if trial.all_predicted else None
    if measured is not None:
        path = model.path / "measured.json"
        with replacing(path) as stream:
            stream.write(dumps(measured, indent=2) + "\n")
        written.append(path)
    return Report(model.name, place.name if place else None, tuple(trial.checks()), measured, tuple(written))


@dataclass
class _Trial:
    model: Contribution
    samples: Sequence[Sample]
    wanted: dict[str, Expected | None]
    image: images.Image | None
    site: SiteConfig
    observe: Observer
    problems: list[Problem] = field(default_factory=list)
    first: dict[str, tuple[Seen, ...]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    seconds: list[float] = field(default_factory=list)
    start_s: float = 0.0
    peak_mb: int = 0
    engine: str = ""
    exact: bool = True
    _made: int = 0

    @property
    def all_predicted(self) -> bool:
        return len(self.first) == len(self.samples)

    def run(self) -> None:
        before = _state(self.model.contrib_src)
        with self._session("", None) as session:
            if self._pass(session, self._compare_with_promises):
                self._pass(session, self._compare_again)
        if self.first:
            self._as_another()
        for path in sorted(set(_state(self.model.contrib_src).items()) ^ set(before.items())):
            what = f"it wrote to {path[0]}, beside its code, where containers have nothing to write to"
            self._add("read-only", "", what, "Write to /output, /tmp or $HOME, or not at all.")
            break

    # -- predictions ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self, check: str, stranger: Stranger | None) -> Iterator[Session | None]:
        """A session; None where the model does not start, which is then a problem (of that check, if one is named)."""
        session, began = Session(self._spec(stranger)), time.monotonic()
        try:
            session.__enter__()
        except StartError as error:
            if error.is_of_the_machine:
                raise
            self._failed(check or "starts", "", str(error).splitlines()[0], str(error))
            yield None
            return
        if not check:
            self.start_s = time.monotonic() - began
            assert session.ready is not None
            self.engine = session.ready.engine
            self.details["starts"] = f"in {self.start_s:.1f} s, Python {session.ready.python}"
        try:
            yield session
            if not check:
                time.sleep(1.2 * FIRST_POLL_S)  # for a last look at its memory, which a short session would end without
        finally:
            session.close()
            self.peak_mb = max(self.peak_mb, session.peak_mb)

    def _spec(self, stranger: Stranger | None) -> SessionSpec:
        place = (self.image.path, self.image.interpreter) if self.image else (None, config.PYTHON)
        spec = SessionSpec.of(self.site, self.model, *place, gpus=config.gpus(self.site)[:1])
        return dataclasses.replace(spec, network=False, mem_mb=spec.mem_mb or _NO_LIMIT_MB, stranger=stranger)

    def _pass(self, session: Session | None, judge: Callable[[Sample, Reply], None], check: str = "predicts") -> bool:
        """Predict all samples, one after the other; False where one ended the session: those after it are not tried."""
        if session is None:
            return False
        waiting = collections.deque(self.samples)
        try:
            for reply in session.predict(self._request(session, sample) for sample in self.samples):
                sample = waiting.popleft()
                if reply.error is None:
                    judge(sample, reply)
                else:
                    kind = "outputs" if reply.kind == "output" else check
                    self._failed(kind, sample.name, reply.error, reply.traceback)
                self._tell()
        except SessionError as error:
            self._failed(check, waiting[0].name, str(error), error.evidence.text())
            self._tell()
            return False
        return True

    def _request(self, session: Session, sample: Sample) -> Request:
        return Request(sample.name, tuple((key, self._shown(session, path)) for key, path in sample.inputs))

    def _shown(self, session: Session, path: Path) -> str:
        """The path of a sample as the model sees it."""
        if self.image is None or not is_plain(str(path)):
            return session.aliases.visible((("", str(path)),))[0][1]
        return f"/contrib_src/{path.relative_to(self.model.contrib_src)}"

    def _tell(self) -> None:
        self._made += 1
        self.observe(self._made, len(self.problems), PASSES * len(self.samples))

    def _as_another(self) -> None:
        """The third prediction of each sample, in another process and, where that can be had, of another user."""
        stranger, who = certify.find_stranger(config.scratch_dir(self.site)) if self.image else (None, "")
        try:
            with self._session("another user" if stranger else "repeats", stranger) as session:
                self._pass(session, self._compare_with_first, "another user" if stranger else "repeats")
        except StartError as error:
            if stranger is None or error.evidence.code != _APPTAINER_FAILED:
                raise
            # some hosts let nobody make a user namespace within another
            who, stranger = "a container as another user does not start here", None
            with self._session("repeats", None) as session:
                self._pass(session, self._compare_with_first, "repeats")
        if self.image:
            self.details["another user"] = who
        self.done["another user"] += stranger is not None

    # -- judgements -------------------------------------------------------------------------------------------------

    def _compare_with_promises(self, sample: Sample, reply: Reply) -> None:
        outputs = self.first[sample.name] = seen.keep(reply.outputs)
        for what, mend in seen.broken_promises(outputs, self.model.outputs):
            self._add("outputs", sample.name, what, mend)
        for note in reply.notes:
            self._add("outputs", sample.name, note, "Look for NaN in what the net gives.")
        wanted = self.wanted.get(sample.name)
        if wanted is not None:
            self.done["expected"] += 1
            for what in expected.differences(outputs, wanted.outputs, wanted.tolerance):
                mend = "If the new outputs are right:  mh-hpc test DIR --update-expected"
                self._add("expected", sample.name, what, mend)

    def _compare_again(self, sample: Sample, reply: Reply) -> None:
        self.seconds.append(reply.seconds)  # without what a model does but once
        self._compare_with_first(sample, reply)

    def _compare_with_first(self, sample: Sample, reply: Reply) -> None:
        wanted = self.wanted.get(sample.name)
        outputs, before = seen.keep(reply.outputs), self.first.get(sample.name)
        if before is None:
            return  # the first prediction failed, which has been said
        self.done["repeats"] += 1
        exact = not any(expected.differences(outputs, before, EXACT))
        self.exact = self.exact and exact
        tolerance = wanted.tolerance if wanted else EXACT
        for what in () if exact else expected.differences(outputs, before, tolerance):
            more = f"; or allow it in {sampledata.FOLDER}/expected/{sample.name}.json"
            self._add("repeats", sample.name, what, f"Set the seeds, leave out dropout and augmentation{more}.")

    def _failed(self, check: str, sample: str, error: str, evidence: str) -> None:
        """A failure is charged to the surroundings where these are the reason; else to `check`."""
        reason = reasons.find(f"{error}\n{evidence}") if self.image else None
        reason = reason or Reason(check, error, "The traceback says where.")
        if check == "another user":
            reason = Reason(check, f"works for you, but not for another user: {reason.what}", reason.mend)
        elif reason.check != check:
            self._add(check, sample, error, reason.mend, evidence)
        self._add(reason.check, sample, reason.what, reason.mend, evidence)

    def _add(self, check: str, sample: str, what: str, mend: str, evidence: str = "") -> None:
        self.problems.append(Problem(check, sample, what, mend, evidence[-_WORDS:]))

    # -- what is said -----------------------------------------------------------------------------------------------

    def checks(self) -> Iterator[Check]:
        count = len(self.samples)
        told = {
            "predicts": f"{len(self.first)} of {count} samples",
            "outputs": ", ".join(f"{each.name} ({each.type})" for each in self.model.outputs),
            "expected": f"{self.done['expected']} of {count} samples have expected outputs",
            "repeats": "bit for bit, in one process and in two" if self.exact else "within the tolerance",
            "offline": "no network is there, and none is missed",
            "read-only": "it writes to no other folders than it may",
            "no root": "it needs no rights that users do not have",
            **self.details,
        }
        for name in CHECKS:
            problems = tuple(each for each in self.problems if each.check == name)
            verdict = self._verdict(name, bool(problems))
            detail = problems[0].what if problems else told.get(name, "")
            if verdict is None and name not in self.details and name != "expected":
                detail = "not tried"
            yield Check(name, verdict, detail, problems)

    def _verdict(self, name: str, problems: bool) -> bool | None:
        if problems:
            return False
        if name in ("expected", "repeats", "another user"):
            return True if self.done[name] else None
        if name in _OF_CONTAINERS and self.image is None:
            return None
        return None if not self.first and name != "starts" else True

    def keep(self) -> list[Path]:
        """Make what the model gave the expected outputs; the files."""
        folder, given = self.model.contrib_src, self.first.items()
        return [path for name, outputs in given for path in expected.write(folder, name, outputs)]

    def measured(self) -> dict[str, Any]:
        """What the model costs on this machine: seconds of the median prediction, MiB of the largest process tree."""
        image = self.image
        return {
            "seconds_per_case": round(statistics.median(self.seconds), 6) if self.seconds else None,
            "memory_mb": self.peak_mb,
            "start_s": round(self.start_s, 3),
            "image": image.name if image else None,
            "image_digest": (image.digest or f"sha256:{image.sha256}") if image else None,
            "engine": self.engine,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": _machine(self.site),
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
