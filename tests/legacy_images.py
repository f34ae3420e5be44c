"""Images as published in 2018, which recipes/legacy/build_image.sh makes, and their contribution."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import environment
from grounds import REPO
from PIL import Image

STRIPES = REPO / "tests/contributions/legacy27"
LABELS = ("horizontal stripes", "vertical stripes", "checks")
# where the archives are made, as legacy-2.7.tar and legacy-3.6.tar
FOLDERS = [Path(os.environ.get("MH_TEST_LEGACY", "/nonexistent")), REPO / "build"]
NAMES = {"2.7": "modelhub/legacy-modelhub:1.0.0", "3.6": "modelhub/legacy-modelhub:2.0.0"}
LIMIT_S = 300.0


@dataclass(frozen=True)
class Store:
    """The image store of a test, with one legacy image in it; answer: what `mh-hpc convert --json` said."""

    cache: Path
    answer: dict[str, Any]

    @property
    def sif(self) -> Path:
        return Path(self.answer["image"]["path"])

    def run(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """`mh-hpc ARGUMENT...` with this store."""
        return mh_hpc(*arguments, **{"MH_HPC_CACHE_DIR": str(self.cache), **variables})


def archive(python: str) -> Path:
    """The docker archive with that Python. Skips where there is none; the 2.7 can be had wherever Apptainer is."""
    path = next(
        (each / f"legacy-{python}.tar" for each in FOLDERS if (each / f"legacy-{python}.tar").exists()), None
    )
    if path and shutil.which("apptainer"):
        return path
    reason = (
        f"needs Apptainer and legacy-{python}.tar, made by recipes/legacy/build_image.sh --python {python}"
    )
    if python == "2.7" and os.environ.get("MH_TEST_REQUIRE_APPTAINER"):
        pytest.fail(reason)
    pytest.skip(reason)


def convert(python: str, cache: Path) -> Store:
    """Convert the archive with that Python into a new store in the folder `cache`."""
    source = f"docker-archive:{archive(python)}"
    done = mh_hpc("convert", source, "--name", NAMES[python], "--json", MH_HPC_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    return Store(cache, json.loads(done.stdout))


def mh_hpc(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "modelhub_hpc.cli", *map(str, arguments)]
    settings = environment(**variables)
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=LIMIT_S)


def weave(folder: Path, count: int) -> dict[str, str]:
    """Write so many pictures of stripes and checks, of several sizes, kinds and colours; case -> label."""
    chance = np.random.default_rng(27)
    made = {}
    for number in range(count):
        kind, cell = number % len(LABELS), 1 + number % 5
        y, x = np.mgrid[: 8 * cell, : 8 * cell] // cell
        signs = (-1.0) ** (y, x, x + y)[kind]
        pixels = 128 + 60 * signs + chance.normal(0, 20, signs.shape)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB" if number % 2 else "L")
        name = f"woven-{number:02d}"
        picture.save(folder / f"{name}.{'jpg' if number % 4 == 3 else 'png'}", quality=95)
        made[name] = LABELS[kind]
    return made
