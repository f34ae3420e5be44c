"""Images from a real registry are pulled whatever breaks on the way, and nothing is pulled twice."""

from __future__ import annotations

import dataclasses
import hashlib
import signal
import subprocess
import time
from pathlib import Path

import pytest
import requests
from driving import eventually
from pulling import (
    BYTES,
    HASTY,
    NOISE,
    OVERHEAD,
    QUICK,
    Place,
    fetching,
    home,
    layout,
    place,
    registry,
    resolve,
)
from registry_server import Answers, Proxy, RegistryServer
from test_disk_full import BALLAST, FILL, LIST, SIZE_MB, Namespace, inside, small, unload

from modelhub_hpc.errors import InvalidError, TryAgainError
from modelhub_hpc.origin import Origin
from modelhub_hpc.sources import pull
from modelhub_hpc.sources.web import BLOCK

__all__ = ["home", "layout", "place", "registry", "small"]

pytestmark = pytest.mark.usefixtures("home")


def at(proxy: Proxy, origin: Origin) -> Origin:
    """The same image by way of a proxy."""
    return dataclasses.replace(origin, pinned=f"docker://{proxy.address}/lab/net:1@{origin.digest}")


def size(origin: Origin) -> int:
    return sum(layer.size for layer in origin.layers)


def test_connections_that_break_are_taken_up_again(registry: RegistryServer, place: Place) -> None:
    """Each is cut after a quarter of a layer; what was read is not fetched twice."""
    origin = resolve(registry.address)
    with Proxy(registry.port) as proxy:
        proxy.cut_after = BYTES // 4
        place.fetch(at(proxy, origin))
        cuts = 12  # at most
        assert size(origin) <= proxy.answered < size(origin) + cuts * BLOCK + OVERHEAD
    assert not place.parts()


def test_a_registry_that_ends_meanwhile(registry: RegistryServer, place: Place) -> None:
    """The error says how much is there; the same call goes on from it."""
    origin = resolve(registry.address)
    with Proxy(registry.port) as proxy:
        proxy.end_after = BYTES
        with pytest.raises(TryAgainError) as caught:
            place.fetch(at(proxy, origin))
    there = sum(path.stat().st_size for path in place.blobs.iterdir())
    assert BYTES // 2 < there <= BYTES and place.parts()
    said = f"{there / 1e6:.1f} of {size(origin) / 1e6:.1f} MB are here and stay; the same command goes on from there."
    assert said in str(caught.value) and proxy.address in str(caught.value)
    with Proxy(registry.port) as proxy:
        place.fetch(at(proxy, origin))
        assert proxy.answered < size(origin) - there + OVERHEAD
    assert not place.parts()


def test_a_registry_that_dies(tmp_path: Path, layout: Path, place: Place) -> None:
    """The process itself is killed while a layer is on its way, and comes back."""
    with RegistryServer(tmp_path) as server, Proxy(server.port) as proxy:
        server.push(layout, "lab/net", "1")
        origin = at(proxy, resolve(server.address))

        def kill(done: int, total: int) -> None:
            if done > BYTES // 4:
                server.stop()

        proxy.cut_after = BYTES // 3
        with pytest.raises(TryAgainError, match="are here and stay"):
            pull.fetch(origin, tmp_path / "oci", place.blobs, False, kill, QUICK)
        proxy.cut_after = None
        server.start()
        place.fetch(origin)


def test_a_connection_on_which_nothing_comes(registry: RegistryServer, place: Place) -> None:
    origin = resolve(registry.address)
    with Proxy(registry.port) as proxy:
        proxy.stall_after = 1000
        began_s = time.monotonic()
        with pytest.raises(TryAgainError, match=f"{proxy.address} does not answer(\n.*)*are here and stay"):
            place.fetch(at(proxy, origin), HASTY)
        assert time.monotonic() - began_s < 20


def test_a_layer_that_is_not_what_was_asked_for(tmp_path: Path, layout: Path, place: Place) -> None:
    """A file of the registry was damaged: refused with both digests, and nothing of it stays."""
    with RegistryServer(tmp_path) as server:
        server.push(layout, "lab/net", "1")
        origin = resolve(server.address)
        stored = server.stored(origin.layers[0].digest)
        data = bytearray(stored.read_bytes())
        data[1000] ^= 1
        stored.write_bytes(data)
        with pytest.raises(InvalidError) as caught:
            place.fetch(origin)
        assert f"it should be {origin.layers[0].digest}" in str(caught.value)
        assert f"it is     sha256:{hashlib.sha256(data).hexdigest()}" in str(caught.value)
        assert not any(name.startswith(origin.layers[0].hex) for name in place.names())


@pytest.mark.parametrize("what", ["part", "part that is too long", "whole"])
def test_what_was_damaged_since_is_fetched_again(registry: RegistryServer, place: Place, what: str) -> None:
    origin = resolve(registry.address)
    layer = origin.layers[0]
    left = {"part": NOISE[:1000], "whole": NOISE, "part that is too long": NOISE * 2}[what]
    (place.blobs / (layer.hex if what == "whole" else f"{layer.hex}.part")).write_bytes(left)
    place.fetch(origin)
    assert not place.parts()


def test_what_is_there_is_not_fetched_again(registry: RegistryServer, place: Place) -> None:
    origin = resolve(registry.address)
    place.fetch(origin)
    with Proxy(registry.port) as proxy:
        place.fetch(at(proxy, origin))
        assert proxy.answered < OVERHEAD


class NoRanges(Answers):
    """A registry that knows no ranges, as caches in front of one may."""

    def __init__(self, registry: RegistryServer) -> None:
        super().__init__()
        self._url = f"http://{registry.address}"

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        body = requests.get(self._url + path, headers={"Accept": headers["accept"]}, timeout=30).content
        return 200, {}, body


def test_a_registry_without_ranges(registry: RegistryServer, place: Place) -> None:
    origin = resolve(registry.address)
    with NoRanges(registry) as server:
        (place.blobs / f"{origin.layers[0].hex}.part").write_bytes(
            registry.stored(origin.layers[0].digest).read_bytes()[:1000]
        )
        place.fetch(dataclasses.replace(origin, pinned=f"docker://{server.address}/lab/net@{origin.digest}"))
        asked = [headers for path, headers in server.asked if path.endswith(origin.layers[0].hex)]
        assert ["range" in headers for headers in asked] == [True]


def test_several_processes_fetch_one_image(registry: RegistryServer, tmp_path: Path) -> None:
    """Without a lock; nothing is there in the end that does not belong."""
    source = f"docker://{registry.address}/lab/net:1"
    running = [subprocess.Popen(fetching(source, tmp_path, str(n))) for n in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    origin = resolve(registry.address)
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == {layer.hex for layer in origin.layers}
    for n in range(4):
        for layer in origin.layers:
            data = (tmp_path / str(n) / "oci/blobs/sha256" / layer.hex).read_bytes()
            assert hashlib.sha256(data).hexdigest() == layer.hex


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_ended(registry: RegistryServer, tmp_path: Path, place: Place, number: int) -> None:
    """While nothing comes: at once, and what was there is not fetched again."""
    with Proxy(registry.port) as proxy:
        proxy.stall_after = BYTES // 2
        source = f"docker://{proxy.address}/lab/net:1"
        with subprocess.Popen(fetching(source, tmp_path), stderr=subprocess.DEVNULL) as process:
            assert eventually(lambda: place.parts() > BYTES // 2, 30.0)
            process.send_signal(number)
            began_s = time.monotonic()
            assert process.wait(30) != 0
            assert time.monotonic() - began_s < 10
    there = place.parts()
    with Proxy(registry.port) as proxy:
        origin = resolve(registry.address)
        place.fetch(at(proxy, origin))
        assert proxy.answered < size(origin) - there + OVERHEAD


def test_a_full_disk(registry: RegistryServer, small: tuple[Namespace, Path]) -> None:
    namespace, folder = small
    inside(namespace, FILL, folder / BALLAST, SIZE_MB * 2**20 - BYTES)
    argv = fetching(f"docker://{registry.address}/lab/net:1", folder)
    full = namespace.run(argv)
    assert full.code == 75, full.text
    assert (
        "No space left on device" in full.out and str(folder / "blobs") in full.out and "MB free" in full.out
    )
    unload(namespace, folder)
    again = namespace.run([*argv[:-1], "again"])
    assert again.code == 0, again.text
    assert ".part" not in inside(namespace, LIST, folder)
