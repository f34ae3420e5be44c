"""The image of a pulled model: a tag that has moved since is noticed before anything takes the old one's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelshop import FileServer, Shop
from pulling import home, layout, registry
from registry_server import RegistryServer

__all__ = ["home", "layout", "registry"]

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def shop(tmp_path: Path, registry: RegistryServer) -> Iterator[Shop]:
    with FileServer() as server:
        made = Shop(tmp_path / "shop", server)
        made.version["image"]["name"] = f"{registry.address}/lab/net:1"
        made.publish()
        yield made


def test_a_tag_that_has_moved(shop: Shop, registry: RegistryServer) -> None:
    shop.pull()
    source = f"docker://{registry.address}/lab/net:1"
    image = {"name": source.removeprefix("docker://"), "source": source, "digest": f"sha256:{'0' * 64}", "tree": ""}
    lock = {**shop.lock(), "image": image}
    (shop.place / "lock.json").write_text(json.dumps(lock))
    said = shop.pull("--again", "--no-https", image=True, code=4).err
    assert f"the image {source}: sha256:0000" in said and "--accept-changes" in said
    assert not list(shop.cache.rglob("*.sif")) and not list(shop.cache.rglob(".blobs/*"))
    assert shop.lock() == lock
    assert "is as it was" in shop.pull("--again").out  # without the image


def test_a_registry_that_is_not_there_leaves_the_rest_for_the_next_pull(shop: Shop) -> None:
    shop.version["image"]["name"] = "127.0.0.1:9/lab/net:1"
    shop.publish()
    said = shop.pull("--no-https", image=True, code=75).err
    assert "127.0.0.1:9 cannot be reached" in said and "--no-image" in said and not shop.place.exists()
    said = shop.pull("--offline", "--from", shop.source.folder, image=True, code=4).err
    assert "--offline allows no network" in said and not shop.place.exists()
    shop.pull()
