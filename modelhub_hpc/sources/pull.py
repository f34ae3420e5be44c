"""Fetch an image from a registry: its digest first, then its layers, which survive whatever interrupts them.

A layer grows as <sha256>.part and gets its name when all of it is there and has that digest. Two processes that fetch
the same layer write the same bytes to the same places, so that they need no lock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.origin import Blob, Origin
from modelhub_hpc.runfolder import PART, drop, link_first, storage, sync_folder
from modelhub_hpc.sources import manifests, reference
from modelhub_hpc.sources.distribution import Remote
from modelhub_hpc.sources.layout import Layout
from modelhub_hpc.sources.reference import Reference
from modelhub_hpc.sources.web import Interrupted, Patience, persevere

Progress = Callable[[int, int], None]

_AT_ONCE = 2
_MOST_NESTED = 3


def resolve(source: str, name: str, https: bool, patience: Patience | None = None) -> Origin:
    """What the registry has under that name for this machine. Raises InvalidError, UsageError or TryAgainError."""
    wanted = reference.parse(name)
    remote = Remote(wanted, https, patience or Patience())
    try:
        digest, manifest = _manifest(remote)
        settings, layers = manifests.contents(manifest, str(wanted))
        config = manifests.image_config(remote.document(settings.digest), str(wanted))
    finally:
        remote.close()
    pinned, size = f"docker://{wanted.pinned(digest)}", manifests.unpacked_bytes(layers, compressed=True)
    return Origin(source, pinned, digest, config, size, "docker", settings, layers)


def unseen(source: str, name: str) -> Origin:
    """What can be said offline: only the digest, if the name has one. Raises InvalidError if it has not."""
    wanted = reference.parse(name)
    if not wanted.digest:
        raise _needs_network(wanted)
    return Origin(source, f"docker://{wanted.pinned(wanted.digest)}", wanted.digest, None, 0)


def fetch(
    origin: Origin,
    folder: Path,
    blobs: Path,
    https: bool,
    progress: Progress,
    patience: Patience | None = None,
) -> str:
    """Fetch the layers that `blobs` lacks and name them in a layout in the new `folder`; that, as Apptainer takes it.

    progress: bytes there and in all. Raises InvalidError; TryAgainError or UnfitError, after which the same call
    goes on where this one ended.
    """
    wanted = reference.parse(origin.pinned.removeprefix("docker://"))
    if origin.settings is None:
        raise _needs_network(wanted)
    remote = Remote(wanted, https, patience or Patience())
    layout = Layout(folder)
    try:
        settings = remote.document(origin.settings.digest)
        _Pull(remote, blobs, layout, origin.files, progress, patience or Patience()).run()
    finally:
        remote.close()
    return layout.finish(settings, origin.layers)


def forget(origin: Origin, blobs: Path) -> None:
    """Drop the layers that were fetched; what still uses one has a link of its own."""
    for layer in origin.files:
        drop(blobs / layer.hex)


def _manifest(remote: Remote) -> tuple[str, manifests.Json]:
    """The manifest of the image for this machine, and its digest."""
    wanted, what = remote.reference.wanted, str(remote.reference)
    for _ in range(_MOST_NESTED):
        data = remote.manifest(wanted)
        found = manifests.parse(data, f"What {remote.host} sends for {what}")
        if not manifests.is_index(found):
            break
        wanted = manifests.choose(manifests.descriptors(found, what), what).blob.digest
    return manifests.digest_of(data), found


def _needs_network(wanted: Reference) -> InvalidError:
    return InvalidError(
        f"{wanted} is in a registry, and --offline allows no network.\n"
        "See what is here: mh-hpc images. Or bring it as a file: docker-archive:FILE, oci-archive:FILE."
    )


class _Pull:
    """The layers of one image on their way."""

    def __init__(
        self,
        remote: Remote,
        blobs: Path,
        layout: Layout,
        layers: tuple[Blob, ...],
        tell: Progress,
        patience: Patience,
    ) -> None:
        self._remote = remote
        self._blobs = blobs
        self._layout = layout
        self._layers = layers
        self._tell = tell
        self._patience = patience
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._there = {layer: 0 for layer in layers}
        self._total = sum(layer.size for layer in layers)

    def run(self) -> None:
        """Largest first, some at once; the first that fails ends the others."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            largest_first = sorted(self._layers, key=lambda layer: -layer.size)
            pending = [pool.submit(self._obtain, layer) for layer in largest_first]
            try:
                for future in as_completed(pending):
                    future.result()
            finally:  # on Ctrl-C too nobody waits for a thread that waits for the network
                self._ended.set()
                self._remote.close()
                pool.shutdown(wait=False, cancel_futures=True)

    def _obtain(self, layer: Blob) -> None:
        """Put a layer into the layout."""
        kept, part = self._blobs / layer.hex, self._blobs / f"{layer.hex}{PART}"
        if kept.exists() and not _is_whole(kept, layer):
            drop(kept)
        while not self._linked(layer, kept):
            resumed = part.exists()
            self._download(layer, part)
            if _is_whole(part, layer):
                _keep(part, kept, layer)
            elif part.exists():
                found = file_digest(part)
                drop(part)
                if not resumed:  # what an earlier attempt left could have been damaged since
                    raise manifests.mismatch(f"A layer from {self._remote.host}", layer.digest, found)
        self._count(layer, layer.size)

    def _linked(self, layer: Blob, kept: Path) -> bool:
        try:
            self._layout.link(layer, kept)
        except FileNotFoundError:
            return False
        return True

    def _download(self, layer: Blob, part: Path) -> None:
        """Bring the part to its full size, with patience for a connection that breaks."""
        with storage(part, layer.size), open(part, "ab"):
            pass
        try:
            persevere(
                lambda: self._receive(layer, part), lambda: _size(part), self._patience, self._ended
            )
        except FileNotFoundError:
            return  # another process has just finished it
        except Interrupted as error:
            raise self._interrupted(error) from error

    def _receive(self, layer: Blob, part: Path) -> None:
        begun = _size(part)
        if begun >= layer.size:
            return
        with (
            self._remote.blob(layer.digest, begun) as (start, blocks),
            open(part, "rb+", buffering=0) as stream,
        ):
            stream.seek(start)
            for block in blocks:
                with storage(part, layer.size):
                    stream.write(block)
                self._count(layer, stream.tell())
                if stream.tell() > layer.size or self._ended.is_set():
                    break
            if stream.tell() < layer.size:
                raise Interrupted(f"{self._remote.host} broke off")

    def _count(self, layer: Blob, there: int) -> None:
        with self._lock:
            self._there[layer] = there
            self._tell(sum(self._there.values()), self._total)

    def _interrupted(self, error: Interrupted) -> Interrupted:
        reason, there = str(error).splitlines()[0], sum(self._there.values()) / 1e6
        return Interrupted(
            f"{reason}\n{there:.1f} of {self._total / 1e6:.1f} MB are here and stay; "
            "the same command goes on from there."
        )


def _size(part: Path) -> int:
    """As much as anything if another process has just finished the layer."""
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return sys.maxsize


def _is_whole(file: Path, layer: Blob) -> bool:
    try:
        return file_digest(file) == layer.hex
    except FileNotFoundError:
        return False


def _keep(part: Path, kept: Path, layer: Blob) -> None:
    with storage(part, layer.size):
        try:
            with open(part, "rb+") as stream:
                os.fsync(stream.fileno())
            link_first(part, kept)
        except FileNotFoundError:
            return  # another process was first
        drop(part)
        sync_folder(kept.parent)
