"""Runs of the digits model that tests of records and comparisons share."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from grounds import REPO
from runkit import Here

DIGITS = REPO / "registry/contributions/digits-cnn"
SAMPLES = DIGITS / "contrib_src/sample_data"


def inputs(folder: Path, names: Sequence[str]) -> Path:
    """A folder with a scan of each of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    scans = sorted(SAMPLES.rglob("*.png"))
    for at, name in enumerate(names):
        shutil.copy(scans[at % len(scans)], folder / f"{name}.png")
    return folder


def altered(folder: Path) -> Path:
    """The digits model, of which one bit of one weight has flipped."""
    shutil.copytree(DIGITS, folder)
    weights = folder / "contrib_src/model/model.onnx"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 0x40
    weights.write_bytes(data)
    return folder


def table(path: Path, rows: Sequence[tuple[str, Path]]) -> Path:
    """A CSV table of cases."""
    with open(path, "w", newline="", errors="surrogateescape") as stream:
        csv.writer(stream).writerows([("case_id", "input"), *rows])
    return path


def submit(here: Here, outdir: Path, given: Path, *more: object, model: object = "digits-cnn", code: int = 0) -> Path:
    how = ("--runtime", "host", "--executor", "inline", "--outdir", outdir)
    done = here("-q", "submit", "--model", model, "--inputs", given, *how, *more)
    assert done.code == code, done.text
    return outdir
