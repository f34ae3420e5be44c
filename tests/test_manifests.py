"""What Docker and OCI write about images, read with suspicion; the names of images in registries."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from modelhub_hpc.errors import InvalidError, UsageError
from modelhub_hpc.origin import Blob
from modelhub_hpc.platforms import Platform, this_machine
from modelhub_hpc.sources import manifests, reference, resolve
from modelhub_hpc.sources.manifests import Descriptor

HERE = this_machine().architecture


@pytest.mark.parametrize(
    "there, machine, chosen",
    [
        (["linux/amd64", "linux/arm64/v8"], "linux/arm64/v8", 1),
        (["windows/amd64", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", 1),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", 2),
        (["unknown/unknown", "linux/ppc64le"], "linux/ppc64le", 1),
        (["linux/arm64"], "linux/arm64/v8", 0),
    ],
)
def test_the_platform_that_fits(there: list[str], machine: str, chosen: int) -> None:
    entries = [Descriptor("", Blob("", n), Platform(*each.split("/"))) for n, each in enumerate(there)]
    assert manifests.choose(entries, "x", Platform(*machine.split("/"))).blob.size == chosen


def test_attestations_are_no_images() -> None:
    digest = {"digest": f"sha256:{'0' * 64}", "size": 1}
    attestation = {**digest, "platform": {"os": "unknown", "architecture": "unknown"}}
    found = manifests.descriptors({"manifests": [digest, attestation]}, "x")
    assert [str(each.platform) for each in found] == ["unknown"] and not found[0].platform.os


def test_no_platform_that_fits() -> None:
    entries = [
        Descriptor("", Blob("", 0), Platform(*each))
        for each in (("windows", "amd64"), ("linux", "arm", "v7"))
    ]
    with pytest.raises(
        InvalidError, match=re.escape("it has only windows/amd64, arm/v7; this machine is amd64.")
    ):
        manifests.choose(entries, "x", Platform("linux", "amd64"))


def test_schema_1_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidError, match="schema 1.*(\n.*)*push it again"):
        manifests.contents({"schemaVersion": 1, "name": "x", "fsLayers": []}, "old")


@pytest.mark.parametrize(
    "config", [{"Cmd": 1}, {"Env": {"A": "1"}}, {"Env": [1]}, {"Labels": ["a"]}, {"User": 0}, [1]]
)
def test_configurations_of_another_form(config: Any) -> None:
    with pytest.raises(InvalidError, match="has not the form"):
        manifests.image_config(json.dumps({"architecture": HERE, "config": config}).encode(), "x")


def test_a_configuration_may_say_little() -> None:
    assert manifests.image_config(b'{"config": null}', "x").cmd == ()
    assert manifests.image_config(b'{"config": {"Cmd": "run me"}}', "x").cmd == ("run me",)


@pytest.mark.parametrize(
    "text, host, repository, tag",
    [
        ("keras", "", "keras", "latest"),
        ("modelhub/keras-modelhub:1.0.0", "", "modelhub/keras-modelhub", "1.0.0"),
        ("localhost/a:B_c", "localhost", "a", "B_c"),
        ("localhost:5000/a/b", "localhost:5000", "a/b", "latest"),
        ("127.0.0.1:5000/a/b.c__d/e-f:1", "127.0.0.1:5000", "a/b.c__d/e-f", "1"),
        ("[::1]:5000/a", "[::1]:5000", "a", "latest"),
    ],
)
def test_names_in_a_registry(text: str, host: str, repository: str, tag: str) -> None:
    found = reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == (host, repository, tag, "")
    digest = f"sha256:{'0' * 64}"
    pinned = reference.parse(f"{text}@{digest}")
    assert (pinned.digest, pinned.wanted) == (digest, digest)
    assert reference.parse(found.pinned(digest)).wanted == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "a:",
        "a@sha256:1",
        "a b",
        "-a",
        "a/../b",
        "a?x",
        "h:5000/",
        "a:b:c",
        "http://h/a",
        "a\n",
        "a#b",
        "h:p/a",
    ],
)
def test_what_is_no_name_in_a_registry(text: str) -> None:
    with pytest.raises(UsageError, match="lower case"):
        resolve(f"docker://{text}")
