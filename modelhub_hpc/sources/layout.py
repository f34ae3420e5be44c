"""The folder that Apptainer is given: an OCI layout with one image, whatever the source was.

Apptainer then needs no network, meets no path that it could misread, and can take no other image than the one
that was resolved. A last layer of ours keeps the image's links from leading it out of the tree.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from modelhub_hpc.errors import InvalidError
from modelhub_hpc.origin import Blob
from modelhub_hpc.runfolder import storage
from modelhub_hpc.sources import manifests
from modelhub_hpc.sources.manifests import MANIFESTS, digest_of
from modelhub_hpc.unpacked.guard import guard_layer

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_COMPRESSIONS = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


class Layout:
    """An OCI layout in the making, in a new folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs/sha256"
        with storage(folder):
            self._blobs.mkdir(parents=True)

    def path(self, blob: Blob) -> Path:
        """Where a layer belongs."""
        return self._blobs / blob.hex

    def link(self, blob: Blob, file: Path) -> None:
        """Put a layer in its place. Raises FileNotFoundError if the file has gone."""
        target = self.path(blob)
        try:
            os.link(file, target)
        except FileExistsError:
            return  # images may have one layer twice
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            with storage(target, blob.size):
                shutil.copyfile(file, target)

    def finish(self, settings: bytes, layers: Sequence[Blob]) -> str:
        """Write what names the layers, which are all in place; the layout as `apptainer build` takes it."""
        guard = guard_layer()
        last = self._put(guard)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFESTS[0],
            "config": {"mediaType": _CONFIG, **self._put(_with_layer(settings, guard, len(layers)))},
            "layers": [*(self._layer(blob) for blob in layers), {"mediaType": _LAYER, **last}],
        }
        entry = {"mediaType": MANIFESTS[0], **self._put(json.dumps(manifest).encode("ascii"))}
        with storage(self._folder):
            index = json.dumps({"schemaVersion": 2, "manifests": [entry]})
            (self._folder / "index.json").write_text(index, encoding="ascii")
            (self._folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="ascii")
        # without a tag: there is one image, and not every Apptainer splits a tag from a path
        return f"oci:{self._folder}"

    def _layer(self, blob: Blob) -> dict[str, object]:
        """As the file is: Docker's own name for zstd means nothing to Apptainer."""
        file = self.path(blob)
        return {"mediaType": _LAYER + _compression(file), "digest": blob.digest, "size": file.stat().st_size}

    def _put(self, data: bytes) -> dict[str, object]:
        blob = Blob(digest_of(data), len(data))
        with storage(self.path(blob), blob.size):
            self.path(blob).write_bytes(data)
        return {"digest": blob.digest, "size": blob.size}


def _with_layer(settings: bytes, layer: bytes, before: int) -> bytes:
    """An image's configuration when it gets one more layer, a tar that is not compressed."""
    contents = [*manifests.diff_ids(settings, "the image"), digest_of(layer)]
    if len(contents) != before + 1:
        raise InvalidError(
            f"The image has {before} layers, and its configuration tells of {len(contents) - 1}."
        )
    document = manifests.parse(settings, "The configuration of the image")
    return json.dumps({**document, "rootfs": {"type": "layers", "diff_ids": contents}}).encode("ascii")


def _compression(file: Path) -> str:
    with open(file, "rb") as stream:
        head = stream.read(4)
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), "")
