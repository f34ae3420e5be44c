"""What goes into a deployment image and what it says of itself; tests/integration builds and runs real ones."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grounds import REPO

from modelhub_hpc import contribution, deployment
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.deployment import card, layout, staging
from modelhub_hpc.errors import InvalidError, TryAgainError, UsageError
from modelhub_hpc.images import Image
from modelhub_hpc.contribution import Contribution

DIGITS = REPO / "registry/contributions/digits-cnn"
GOLDEN = REPO / "tests/golden/deployment.txt"
IMAGE = Image("modelhub/keras:1", Path("/x.sif"), "a" * 64, 1000, "python3", digest="sha256:" + "b" * 64)
HOSTILE = "a\n%post\n  touch /x $(id) `id` \"'\\ \x1b[31m\u202e {{ x }} \udc80"

Contribute = Callable[..., Path]


@pytest.fixture
def contribute(tmp_path: Path) -> Contribute:
    """Write a contribution whose config.json is that of digits-cnn, changed by a function."""

    def write(change: Callable[[dict[str, Any]], object] = lambda _: None, init: object = None) -> Path:
        folder = tmp_path / "contribution"
        (folder / "init").mkdir(parents=True)
        (folder / "contrib_src/model").mkdir(parents=True)
        config = json.loads((DIGITS / "contrib_src/model/config.json").read_bytes())
        change(config)
        (folder / "contrib_src/model/config.json").write_text(json.dumps(config))
        (folder / "contrib_src/inference.py").write_text("")
        (folder / "init/init.json").write_text(json.dumps(init or {"docker_id": "a/b:1"}))
        return folder

    return write


def card_of(model: Contribution) -> card.Card:
    return card.read(model, IMAGE, REPO / "engine")


# -- the card and the labels -----------------------------------------------------------------------


def test_everything_written_into_an_image_is_as_reviewed() -> None:
    """MH_TEST_UPDATE_GOLDEN=1 rewrites the golden file; the diff is then to be reviewed."""
    facts = card_of(dataclasses.replace(contribution.read(DIGITS), digest="c" * 64))
    texts = layout.texts("python3", card.help_text(facts, "digits.sif"), card.labels(facts))
    written = "".join(f"==> {name}\n{text}\n" for name, text in texts.items())
    if os.environ.get("MH_TEST_UPDATE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8")


def test_a_flat_configuration_without_licence_and_with_a_citation(contribute: Contribute) -> None:
    def flatten(config: dict[str, Any]) -> None:
        config["model"]["io"]["input"] = {
            "format": ["image/png"],
            "dim_limits": [{"min": 1, "max": 1}, {"max": 9}, {}],
        }
        config["publication"] = {"title": "On T.", "authors": ["A. B", "C. D"], "year": 2016, "source": "J",
                                 "bibtex": "@a{doi={10.1000/xyz.1}}", "url": "https://x.org"}  # fmt: skip

    facts = card_of(contribution.read(contribute(flatten)))
    text = card.help_text(facts, "m.sif")
    assert "no licence given" in text and "A. B, C. D. On T. J. 2016. https://x.org" in text
    assert "image/png; channels or z, then y, x: 1 x at most 9 x any." in text
    assert card.labels(facts)["org.modelhub-hpc.doi"] == "10.1000/xyz.1"
    assert "org.modelhub-hpc.licence" not in card.labels(facts)


def test_several_inputs_are_named_in_the_examples(contribute: Contribute) -> None:
    def several(config: dict[str, Any]) -> None:
        one = {"format": ["application/nii-gzip"], "dim_limits": []}
        config["model"]["io"]["input"] = {"format": ["application/json"], "t1": one, "t2": one}

    text = card.help_text(card_of(contribution.read(contribute(several))), "m.sif")
    assert (
        "  apptainer run m.sif t1=FILE t2=FILE  " in text and "Input         t1: application/nii-gzip" in text
    )


def test_no_word_of_a_card_is_anything_but_a_word(contribute: Contribute) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["id"] = config["meta"]["name"] = config["model"]["description"] = HOSTILE
        config["model"]["io"]["output"][0]["description"] = HOSTILE
        config["modelhub"]["version"] = HOSTILE
        config["meta"]["task"] = {"not": ["text"]}
        config["publication"] = {"title": HOSTILE, "authors": HOSTILE, "year": None}

    facts = card_of(contribution.read(contribute(spoil)))
    labels, text = card.labels(facts), card.help_text(facts, HOSTILE)
    assert all(value.isprintable() and value.isascii() for value in labels.values())
    assert all(character == "\n" or character.isprintable() for character in text)
    plain = layout.texts("python3", "", {})
    with_card = layout.texts("python3", text, labels)
    changed = {name for name in plain if plain[name] != with_card[name]}
    assert changed == {".singularity.d/runscript.help", ".singularity.d/labels.json"}
    assert json.loads(with_card[".singularity.d/labels.json"]) == labels


def test_parts_of_the_wrong_kind_are_left_out(contribute: Contribute) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["publication"], config["modelhub"]["version"] = "a book", "0"

    text = card.help_text(card_of(contribution.read(contribute(spoil))), "m.sif")
    assert text.startswith("digits-cnn\n==========\n") and "\nCite" not in text


@pytest.mark.parametrize(
    "text, name",
    [
        ("Permission is hereby granted, free of charge, to any person", "MIT"),
        ("CC BY-NC-SA 4.0", "CC-BY-NC-SA-4.0"),
        ("MIT licence; parts under the GNU GENERAL PUBLIC LICENSE\n   Version 3", ""),
        ("", ""),
    ],
)
def test_a_licence_is_named_only_where_there_is_no_doubt(text: str, name: str) -> None:
    assert card.licence_name(text) == name


@pytest.mark.parametrize("interpreter", ["python", "/opt/my python/bin/python3", "/opt/$(id)'/python"])
def test_scripts_start_the_interpreter_as_it_is_called(interpreter: str, tmp_path: Path) -> None:
    program = layout.script(interpreter, "run").replace("exec ", "printf '%s\\n' ")
    out = subprocess.run(["sh", "-c", program, "sh", "a b", "$x"], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == [interpreter, "/framework/start.py", "run", "a b", "$x"]


# -- the files -------------------------------------------------------------------------------------


def test_a_copy_is_open_to_all_and_always_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "model/sub").mkdir(parents=True)
    (source / "model/weights ä\n.bin").write_bytes(b"w" * 3_000_000)
    (source / "model/weights ä\n.bin").chmod(0o600)
    (source / "tool.sh").write_text("#!/bin/sh\n")
    (source / "tool.sh").chmod(0o700)
    (source / "model/again").symlink_to(source / "tool.sh")
    (source / "model").chmod(0o700)
    target.mkdir()
    items = staging.listing(source)
    staging.copy(items, source, target)
    staging.open_to_all(target)
    assert (target / "model/weights ä\n.bin").read_bytes() == b"w" * 3_000_000
    modes = {str(p.relative_to(target)): oct(p.stat().st_mode)[-3:] for p in target.rglob("*")}
    assert modes == {"model": "755", "model/sub": "755", "tool.sh": "755",
                     "model/again": "755", "model/weights ä\n.bin": "644"}  # fmt: skip
    assert os.readlink(target / "model/again") == "../tool.sh"
    assert (target / "tool.sh").stat().st_mtime == 946_684_800
    assert sum(item.bytes for item in items) == 3_000_000 + len("#!/bin/sh\n")


def test_what_editors_and_caches_leave_stays_behind(tmp_path: Path) -> None:
    left = ["__pycache__/a.pyc", ".git/config", "a.pyc", "a.py~", ".a.py.swp", "#a#", ".#a",
            ".ipynb_checkpoints/x", ".DS_Store"]  # fmt: skip
    for name in [*left, "inference.py", ".hidden", "git/x"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [item.path for item in staging.listing(tmp_path)] == ["git", ".hidden", "inference.py", "git/x"]


def test_what_cannot_be_part_of_an_image_is_named_with_its_reason(tmp_path: Path) -> None:
    top = tmp_path / "contrib_src"
    top.mkdir()
    (top / "out").symlink_to("/etc/passwd")
    (top / "beside").symlink_to(tmp_path)
    (top / "nowhere\n").symlink_to("gone")
    (top / "circle").symlink_to("circle")
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / "socket"))
        with pytest.raises(InvalidError) as caught:
            staging.listing(top)
    said = str(caught.value)
    assert "out: a link that leads out of the folder, to /etc/passwd" in said
    assert f"beside: a link that leads out of the folder, to {tmp_path}" in said
    assert r"nowhere\n: a link to gone, which leads to nothing" in said and "circle: a link" in said
    assert "pipe: neither file" in said and "socket: neither file" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_closed_files_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("")
    (tmp_path / "weights").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InvalidError, match="(?s)weights: you may not read it.*closed: Permission denied"):
        staging.listing(tmp_path)


def test_a_file_that_became_a_link_meanwhile_is_not_followed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a")
    items = staging.listing(source)
    (source / "a").unlink()
    (source / "a").symlink_to("/etc/passwd")
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError):
        staging.copy(items, source, tmp_path / "target")


# -- the tree --------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What Apptainer unpacks, as far as it matters here."""
    folder = tmp_path / "tree"
    (folder / ".singularity.d/env").mkdir(parents=True)
    folder.chmod(0o700)
    return folder


def test_an_old_engine_is_replaced_and_not_mixed_with(tree: Path) -> None:
    (tree / "framework/modelhubapi").mkdir(parents=True)
    (tree / "framework/modelhubapi/old.py").write_text("")
    (tree / "framework/modelhubapi").chmod(0)
    (tree / "working").mkdir()
    layout.clear(tree)
    assert list((tree / "framework").iterdir()) == []
    assert {"framework", "contrib_src", "scif", "output", "working", "temp"} <= set(os.listdir(tree))
    assert tree.stat().st_mode & 0o777 == 0o755


def test_links_of_the_environment_lead_nowhere_on_this_machine(tree: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "keep").write_text("mine")
    for name in ("framework", "contrib_src", "scif", "output", ".singularity.d/labels.json"):
        (tree / name).symlink_to(victim)
    (tree / ".singularity.d/runscript").symlink_to(victim / "keep")
    layout.clear(tree)
    layout.write(tree, layout.texts("python3", "card", {}))
    assert [path.name for path in victim.iterdir()] == ["keep"] and (victim / "keep").read_text() == "mine"
    assert (tree / ".singularity.d/runscript").read_text().startswith("#!/bin/sh\n")
    assert (tree / "scif/apps/serve/scif/runscript").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", [".singularity.d", ".singularity.d/env"])
def test_a_tree_that_apptainer_did_not_make_is_refused(tree: Path, tmp_path: Path, name: str) -> None:
    (tree / name).rename(tmp_path / "away")
    (tree / name).symlink_to(tmp_path / "away")
    with pytest.raises(InvalidError, match=f"/{name} is no folder"):
        layout.clear(tree)


# -- the plan --------------------------------------------------------------------------------------


def plan(folder: Path, target: Path, replace: bool = False) -> deployment.Plan:
    return deployment.plan(str(folder), None, target, replace, SiteConfig(cache_dir=target.parent / "cache"))


def test_files_kept_elsewhere_must_be_there(contribute: Contribute, tmp_path: Path) -> None:
    names = ["/contrib_src/model/a.h5", "contrib_src/model/config.json"]
    external = [{"src_url": "https://x.org/a", "dest_file_path": name} for name in names]
    folder = contribute(init={"docker_id": "a/b:1", "external_contrib_files": external})
    with pytest.raises(InvalidError, match="model/a.h5  from  https://x.org/a\nDownload"):
        plan(folder, tmp_path / "m.sif")


@pytest.mark.parametrize("name", ["there.sif", "folder", "gone/m.sif"])
def test_a_target_that_cannot_be_is_usage(contribute: Contribute, tmp_path: Path, name: str) -> None:
    (tmp_path / "there.sif").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="-o"):
        plan(contribute(), tmp_path / name)
    assert (tmp_path / "there.sif").read_text() == "mine"


def test_a_missing_environment_says_what_to_convert(contribute: Contribute, tmp_path: Path) -> None:
    (tmp_path / "there.sif").write_text("mine")
    with pytest.raises(InvalidError, match="(?s)'a/b:1'.*mh-hpc convert"):
        plan(contribute(), tmp_path / "there.sif", replace=True)


def test_no_room_is_told_with_numbers_before_anything_is_written(
    contribute: Contribute, tmp_path: Path
) -> None:
    model = contribution.read(contribute())
    vast = dataclasses.replace(IMAGE, bytes=10**18)
    planned = deployment.Plan(model, vast, tmp_path / "m.sif", False, (), card_of(model))
    with pytest.raises(TryAgainError, match=r"takes up to 1000000000000 MB, and \d+ MB are free in .*\n.*-o"):
        deployment.build(planned, SiteConfig(cache_dir=tmp_path / "cache"))
    assert os.listdir(tmp_path) == ["contribution"]


def test_the_default_name_is_the_models(contribute: Contribute) -> None:
    names = ["digits-cnn", "A b/$(x)", "...", "é" * 3, "x" * 300]
    assert [deployment._file_name(name) for name in names] == [
        "digits-cnn.sif", "A-b---x.sif", "model.sif", "model.sif", "x" * 100 + ".sif"]  # fmt: skip
