"""From a Docker image, or whatever Apptainer builds from, to a SIF of which it is known that it runs.

resolve -> (same digest there already? done) -> fetch -> unpack -> audit -> mend -> pack -> certify -> publish
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import __version__, apptainer, certify, resources
from modelhub_hpc.certify import Check
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.digests import file_digest, tree_digest
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.images import CERTIFICATE, Image, store
from modelhub_hpc.origin import Origin
from modelhub_hpc.processes import remove_tree
from modelhub_hpc.runfolder import storage
from modelhub_hpc.sources import fetch, forget, resolve
from modelhub_hpc.sources.reference import parse
from modelhub_hpc.unpacked.audit import Audit, audit
from modelhub_hpc.unpacked.fingerprint import fingerprint
from modelhub_hpc.unpacked.mend import mend
from modelhub_hpc.unpacked.recorded import LABEL
from modelhub_hpc.unpacked.unpack import unpack

Json = dict[str, Any]
# what is going on, and how far it is: bytes done and in all, (0, 0) where nobody knows
Observer = Callable[[str, int, int], None]

FORMAT = 1
_DOCKER = "docker://"
# the layers and the tree, or the tree and the SIF
_SPACE_PER_BYTE = 2.0
_MAX_LABELS = 2**20


@dataclass(frozen=True)
class Terms:
    """How to convert. strict: refuse what is not certified; https: False for a registry without TLS."""

    strict: bool = False
    offline: bool = False
    https: bool = True


@dataclass(frozen=True)
class Converted:
    """An image of the store, its certificate, and whether it was made just now."""

    image: Image
    certificate: Json
    new: bool


def convert(source: str, name: str | None, site: SiteConfig, terms: Terms, observe: Observer) -> Converted:
    """Convert `source` into the store under `name`, whole or not at all; once per digest, whoever asks.

    name: None for the one the source suggests. Raises InvalidError (a source that cannot be used, or with
    terms.strict an image that is not certified), UnfitError or TryAgainError.
    """
    wanted = name or default_name(source)
    if terms.offline and (known := _known_name(source, wanted, site)):
        return _checked(known, terms)
    observe("Looking at the source", 0, 0)
    origin = _identified(resolve(source, offline=terms.offline, https=terms.https))
    if there := _there(origin, wanted, site):
        return _checked(there, terms)
    with store.claim(
        origin.digest or f"path {os.path.abspath(source)}",
        site,
        lambda who: observe(f"Waiting for {who}", 0, 0),
    ):
        if there := _there(origin, wanted, site):
            return _checked(there, terms)
        with store.workspace(site, int(origin.bytes * _SPACE_PER_BYTE)) as folder:
            converted = _Conversion(origin, wanted, site, terms, folder, observe).run()
    forget(origin, store.blobs(site))
    return converted


def default_name(source: str) -> str:
    """What a source suggests to call its image: repository and tag without the registry, or the file's name.

    >>> default_name("docker://127.0.0.1:5000/lab/net:2"), default_name("docker-archive:/a/net.tar")
    ('lab/net:2', 'net')
    """
    if source.startswith(_DOCKER):
        named = parse(source.removeprefix(_DOCKER))
        return f"{named.repository}:{named.tag}" if named.tag else named.repository
    name = Path(source).name
    if name == source:  # no folder in it, but perhaps a word in front, such as docker-archive:
        name = name.rpartition(":")[2]
    return name.removesuffix(".gz").rpartition(".")[0].replace(":", "-") or name


def _identified(origin: Origin) -> Origin:
    """A SIF is known by its content."""
    if origin.kind == "sif":
        return dataclasses.replace(origin, digest=f"sha256:{file_digest(Path(origin.source))}")
    return origin


def _known_name(source: str, name: str, site: SiteConfig) -> Image | None:
    if not source.startswith(_DOCKER):
        return None
    try:
        return store.find(name, site)
    except InvalidError:
        return None  # the source says, in its own words, that it needs the network


def _there(origin: Origin, name: str, site: SiteConfig) -> Image | None:
    """The image of that digest, known by the wanted name from now on."""
    image = store.find_digest(origin.digest, site) if origin.digest else None
    return store.alias(image, name, site) if image else None


def _checked(image: Image, terms: Terms) -> Converted:
    certificate = store.certificate(image) or {}
    if terms.strict:
        _refuse_uncertified(image.name, certificate)
    return Converted(image, certificate, new=False)


@dataclass(frozen=True)
class _Conversion:
    """One conversion in its workspace, a private folder on the store's file system."""

    origin: Origin
    name: str
    site: SiteConfig
    terms: Terms
    folder: Path
    observe: Observer

    def run(self) -> Converted:
        tree = self._unpack()
        self.observe("Auditing and mending", 0, 0)
        with storage(self.folder):
            found = mend(tree, audit(tree, self.origin.config))
            _write_labels(tree, self._labels(found))
            content = self._pack(tree)
        self.observe("Proving that it runs for another user, offline and read-only", 0, 0)
        checks = certify.certify(self._sif, found.interpreter, self.site)
        certificate = self._certificate(found, content, checks)
        if self.terms.strict:
            _refuse_uncertified(self.name, certificate)
        with storage(self.folder):
            apptainer.embed(self._sif, CERTIFICATE, _dumps(certificate), self.folder)
        image = store.publish(self._image(found, content), certificate, self.site)
        return Converted(image, certificate, new=True)

    @property
    def _sif(self) -> Path:
        return self.folder / "image.sif"

    @property
    def _shareable(self) -> Origin:
        """The origin as others may read it in the image: without the folders of whoever converted it."""
        if self.origin.kind == "docker":
            return self.origin
        file = os.path.basename(os.path.abspath(self.origin.source.removeprefix(f"{self.origin.kind}:")))
        name = f"{self.origin.kind}:{file}"
        pin = f"@{self.origin.digest}" if self.origin.digest else ""
        return dataclasses.replace(self.origin, source=name, pinned=f"{name}{pin}")

    def _unpack(self) -> Path:
        """Make the tree of files, owned by this user."""

        def pulled(done: int, total: int) -> None:
            self.observe("Fetching the layers", done, total)

        what = fetch(
            self.origin, self.folder, store.blobs(self.site), https=self.terms.https, progress=pulled
        )
        self.observe("Unpacking", 0, 0)
        tree = self.folder / "tree"
        if what.endswith(".def"):
            # its %post needs to play root, whose files only a SIF gives back to this user
            made = self.folder / "definition.sif"
            apptainer.build(made, what, self.folder, fakeroot=os.getuid() != 0)
            what = str(made)
        unpack(tree, what, self.folder)
        remove_tree(self.folder / "oci")
        return tree

    def _pack(self, tree: Path) -> str:
        """Pack the tree while its fingerprint is taken: both read the same files."""
        self.observe("Packing", 0, 0)
        with ThreadPoolExecutor(1) as beside:
            content = beside.submit(fingerprint, tree)
            apptainer.build(self._sif, str(tree), self.folder)
            return content.result()

    def _labels(self, found: Audit) -> dict[str, str]:
        facts = {
            "image": self.name,
            "source": self._shareable.pinned,
            "digest": self.origin.digest,
            "interpreter": found.interpreter,
            "python": found.python,
            "cwd": found.cwd,
            "converter": f"modelhub-hpc {__version__}",
        }
        return {f"{LABEL}{key}": value for key, value in facts.items() if value}

    def _image(self, found: Audit, content: str) -> Image:
        return Image(
            name=self.name,
            path=self._sif,
            sha256=file_digest(self._sif),
            bytes=self._sif.stat().st_size,
            interpreter=found.interpreter or "python3",
            digest=self.origin.digest,
            tree=content,
            cwd=found.cwd,
            python=found.python,
        )

    def _certificate(self, found: Audit, content: str, checks: tuple[Check, ...]) -> Json:
        return {
            "format": FORMAT,
            "image": self.name,
            "certified": certify.is_certified(checks) and not _open(found),
            "origin": dataclasses.asdict(self._shareable),
            "tree": content,
            "audit": dataclasses.asdict(found),
            "checks": [dataclasses.asdict(check) for check in checks],
            "made": {
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "modelhub_hpc": __version__,
                "engine": tree_digest(resources.folder("engine")),
                "apptainer": apptainer.version(),
            },
        }


def _open(found: Audit) -> list[str]:
    return [finding.message for finding in found.findings if finding.state == "open"]


def _refuse_uncertified(name: str, certificate: Mapping[str, Any]) -> None:
    if certificate.get("certified"):
        return
    reasons = [f["message"] for f in certificate.get("audit", {}).get("findings", ()) if f["state"] == "open"]
    reasons += [f"{c['name']}: {c['detail']}" for c in certificate.get("checks", ()) if c["ok"] is False]
    listed = "\n".join(f"  - {reason}" for reason in reasons or ["it has no certificate"])
    raise InvalidError(f"{name} is not certified, which --strict asks for:\n{listed}")


def _write_labels(tree: Path, labels: Mapping[str, str]) -> None:
    """Add labels to the tree, whose folders and files may be links to anywhere on this machine."""
    folder = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        private = os.open(".singularity.d", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        raise InvalidError(f"The image's folder /.singularity.d is none: {error.strerror}") from error
    finally:
        os.close(folder)
    try:
        given = _read_labels(private)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("labels.json", dir_fd=private)
        written = os.open("labels.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=private)
        with open(written, "wb") as stream:
            os.fchmod(written, 0o644)  # whatever the umask
            stream.write(_dumps({**given, **labels}))
    finally:
        os.close(private)


def _read_labels(folder: int) -> Json:
    """The labels that Apptainer wrote; none where something else lies in their place."""
    try:
        descriptor = os.open("labels.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with open(descriptor, "rb") as stream:
            found = json.loads(stream.read(_MAX_LABELS))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _dumps(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode("ascii") + b"\n"
