"""A disk that is really full while a model is pulled: nothing counts, and with room again the pull goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelshop import PLACE, FileServer, Shop
from test_disk_full import BALLAST, FILL, LIST, SIZE_MB, Namespace, inside, small, unload

__all__ = ["small"]

ROOM_MB, LARGE = 6, 20_000_000


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with FileServer() as server:
        yield Shop(tmp_path / "shop", server)


def pull(namespace: Namespace, folder: Path) -> list[str]:
    return ["env", f"MH_HPC_CACHE_DIR={folder}", sys.executable, "-m", "modelhub_hpc.cli", "pull", "toy", "--no-image"]


@pytest.mark.parametrize("where", ["server", "git"])
def test_a_full_disk(
    where: str, shop: Shop, small: tuple[Namespace, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, folder = small
    monkeypatch.chdir(shop.folder)
    if where == "server":
        shop.server.files["/weights.bin"] = os.urandom(LARGE)
        shop.file(known=False)
    else:
        (shop.source.folder / PLACE).write_bytes(os.urandom(LARGE))
    shop.publish()
    inside(namespace, FILL, folder / BALLAST, (SIZE_MB - ROOM_MB) * 2**20)
    full = namespace.run(pull(namespace, folder))
    assert full.code == 75 and "No space left on device" in full.err and "MB free" in full.err, full.text
    assert "lock.json" not in inside(namespace, LIST, folder)
    unload(namespace, folder)
    again = namespace.run(pull(namespace, folder))
    assert again.code == 0 and "toy 1.0.0 is here" in again.out, again.text
    assert f"models/toy/1.0.0/{PLACE}" in inside(namespace, LIST, folder)
    if where == "server":
        assert shop.server.ranges_asked("/weights.bin")[1].startswith("bytes=")
