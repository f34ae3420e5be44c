"""The recipes that ship: generated, complete, and taken by Apptainer."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from builds import QUICKLY, apptainer, small
from grounds import REPO

from modelhub_hpc.apptainer import start_argv
from modelhub_hpc.images import Image

RECIPES = REPO / "recipes"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_recipes", RECIPES / "make_recipes.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


MAKE = generator()
ENVIRONMENTS = {each.recipe: each for each in MAKE.environments()}
PUBLISHED = sorted(ENVIRONMENTS)
MOUNT_POINTS = ("framework", "contrib_src", "output", "working", "temp", "data", "input")
DEFINITIONS = sorted(path.stem for path in RECIPES.glob("*.def"))


def test_definitions_and_table_are_what_the_environments_give() -> None:
    """Run recipes/make_recipes.py after a change of environments.json."""
    stale = [path.name for path, text in MAKE.files() if path.read_text(encoding="utf-8") != text]
    assert not stale
    assert set(DEFINITIONS) == {*PUBLISHED, "onnxruntime", "pytorch"}


def test_every_published_environment_is_there_once() -> None:
    """23 models of the published registry run in 14 images."""
    environments = MAKE.environments()
    models = [model for each in environments for model in each.models]
    assert len({each.image for each in environments}) == len(environments) == 14
    assert len(set(models)) == len(models) == 23
    assert all(each.chain[-1].startswith(("ubuntu:", "nvidia/cuda:")) for each in environments)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_definition_says_what_it_is(name: str) -> None:
    text = (RECIPES / f"{name}.def").read_text(encoding="utf-8")
    assert re.search(r"^    org\.modelhub-hpc\.environment \S+$", text, re.MULTILINE)
    assert re.search(r"""^OCI_CMD='"python3?" "run.py"'$""", text, re.MULTILINE)
    assert "bootstrap=docker\n" in text and "%test" in text
    assert f"`{name}.def`" in (RECIPES / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def base(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the published images: no folders to mount on, and weights that only root may read."""
    folder = small(image.path, tmp_path_factory.mktemp("base") / "rootfs", python=True)
    for mount_point in MOUNT_POINTS:
        (folder / mount_point).rmdir()
    (folder / "root/weights").mkdir(mode=0o700)
    (folder / "root/weights/w.txt").write_text("weights\n")
    (folder / "root/weights/w.txt").chmod(0o600)
    (folder / "root").chmod(0o700)
    (folder / "usr/bin/python").symlink_to("python3")
    return folder


@pytest.fixture(scope="module")
def small_base(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(image.path, tmp_path_factory.getbasetemp() / "small")


def built(name: str, base: Path, target: Path, *flags: str) -> Path:
    arguments = ("--build-arg", "bootstrap=localimage", "--build-arg", f"base={base}")
    apptainer("build", "--fakeroot", *flags, *arguments, target, RECIPES / f"{name}.def")
    return target


@pytest.mark.apptainer
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_builds(name: str, small_base: Path, tmp_path: Path) -> None:
    """On another base than its own, which only a registry has; its %test asks for what that holds."""
    tree = built(name, small_base, tmp_path / "tree", "--sandbox", "--notest")
    assert all((tree / mount_point).is_dir() for mount_point in MOUNT_POINTS)
    labels = json.loads((tree / ".singularity.d/labels.json").read_bytes())
    assert labels["org.modelhub-hpc.environment"] == ENVIRONMENTS[name].image


@pytest.mark.slow
@pytest.mark.apptainer
def test_a_recipe_mends_what_keeps_its_image_from_running(base: Path, tmp_path: Path) -> None:
    sif = built("keras-1.0.2", base, tmp_path / "x.sif", *QUICKLY)
    look = f"cat /root/weights/w.txt; cd / && ls -d {' '.join(MOUNT_POINTS)} | wc -l"
    assert apptainer("exec", "--containall", sif, "sh", "-c", look) == "weights\n7\n"
    assert apptainer("run", "--containall", sif, "pwd") == "/contrib_src\n"
    assert start_argv(sif) == ("python", "run.py")
    started = subprocess.run(
        ["apptainer", "run", "--containall", sif], capture_output=True, text=True, check=False
    )
    assert "can't open file '/contrib_src/run.py'" in started.stderr


@pytest.mark.apptainer
def test_building_leaves_the_host_alone(small_base: Path, tmp_path: Path) -> None:
    """A build shows /tmp of the host to %post, where this user's private files lie."""
    private = Path("/tmp") / f"mh-private-{os.getpid()}"
    private.mkdir(mode=0o700)
    try:
        built("caffe-1.0.0", small_base, tmp_path / "tree", "--sandbox", "--notest")
        assert private.stat().st_mode & 0o777 == 0o700
    finally:
        private.rmdir()
