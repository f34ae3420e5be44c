"""Whole cohorts through the real command line: most cases are done, some fail, a few end the model's process."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench import REPO

FAILING, CRASHING = 0.03, 0.01  # shares of the cases
CONTRASTS = ("t1", "t1c", "t2", "flair")
_MODELS = REPO / "registry/contributions"
_KINDS = 64  # images that differ; further cases have links to them
_MARK = "deadly"  # in the folder of inputs that end the process
_SIZE = 48, 48, 24  # x, y, z
_FINISHED = (0, 3)
_DEADLY = f'''"""The model, but for inputs that end its process, as a fault in native code does."""

import os

import network


class Model(network.Model):
    def infer(self, input):
        if "{_MARK}" in str(input):
            os.abort()
        return super(Model, self).infer(input)
'''


@dataclass(frozen=True)
class Cohort:
    """A run that has ended. failing, crashing: the ids of the cases that fail, and of those that end the process."""

    run: Path
    cases: int
    failing: tuple[str, ...]
    crashing: tuple[str, ...]


def brains(folder: Path, cases: int, size: tuple[int, int, int] = _SIZE, workers: int = 2) -> Cohort:
    """Phantoms of brain tumours in four contrasts, segmented by phantom-brats. size: x, y, z.

    Of those that fail half have a truncated file, and half a contrast on another grid.
    """
    kinds = list(_patients(folder / "kinds", min(cases, _KINDS), size))
    other = next(_patients(folder / "other", 1, (size[0] - 2, *size[1:])))

    def given(number: int, place: Path, fault: int | None) -> Mapping[str, Path]:
        files = {name: kinds[number % len(kinds)] / f"{name}.nii.gz" for name in CONTRASTS}
        if fault is not None and fault % 2:
            files["flair"] = other / "flair.nii.gz"
        made = {name: place / file.name for name, file in files.items()}
        for name, file in files.items():
            os.link(file, made[name])
        if fault is not None and fault % 2 == 0:
            _truncate(made["t1c"])
        return made

    return _run(folder, "phantom-brats", CONTRASTS, cases, given, workers)


def digits(folder: Path, cases: int, workers: int = 2) -> Cohort:
    """Scans of handwritten digits, named by digits-cnn. Those that fail are truncated."""
    with _beside(_MODELS / "digits-cnn", "make_images") as making:
        pixels, _ = making.load_pixels()
        (folder / "kinds").mkdir(parents=True)
        kinds = [folder / "kinds" / f"{number:04d}.png" for number in range(min(cases, len(pixels)))]
        for path, each in zip(kinds, pixels):
            making.write_image(path, each)

    def given(number: int, place: Path, fault: int | None) -> Mapping[str, Path]:
        made = place / "digit.png"
        os.link(kinds[number % len(kinds)], made)
        if fault is not None:
            _truncate(made)
        return {"input": made}

    return _run(folder, "digits-cnn", ("input",), cases, given, workers)


def _run(
    folder: Path,
    model: str,
    columns: tuple[str, ...],
    cases: int,
    given: Callable[[int, Path, int | None], Mapping[str, Path]],
    workers: int,
) -> Cohort:
    """Write a folder for each case, and the table of them; then the run.

    given(number, folder, fault) makes the files of a case; fault: None, or which of those that fail it is.
    """
    failing, crashing = _faults(cases)
    names = [f"case-{number:05d}" for number in range(cases)]
    with open(folder / "cases.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("case_id", *columns))
        for number, name in enumerate(names):
            place = folder / "inputs" / (f"{name}-{_MARK}" if number in crashing else name)
            place.mkdir(parents=True)
            files = given(number, place, failing.index(number) if number in failing else None)
            writer.writerow((name, *(files[column] for column in columns)))
    _submit(_deadly(_MODELS / model, folder / "model"), folder, workers)
    return Cohort(folder / "run", cases, tuple(names[n] for n in failing), tuple(names[n] for n in crashing))


def _faults(cases: int) -> tuple[list[int], list[int]]:
    """Which cases fail, and which end the process, spread over all of them."""
    counts = round(cases * FAILING), round(cases * CRASHING)
    failing = [(2 * i + 1) * cases // (2 * counts[0]) for i in range(counts[0])]
    crashing = [(2 * i + 1) * cases // (2 * counts[1]) for i in range(counts[1])]
    return failing, [number + 1 if number in failing else number for number in crashing]


def _deadly(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / "contrib_src"
    (source / "inference.py").rename(source / "network.py")
    (source / "inference.py").write_text(_DEADLY)
    return folder


def _submit(model: Path, folder: Path, workers: int) -> None:
    command = ["-q", "submit", "--model", model, folder / "cases.csv", "--outdir", folder / "run", "--runtime", "host",
               "--executor", "local", "--workers", workers]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "modelhub_hpc.cli", *map(str, command)], cwd=REPO)
    if done.returncode not in _FINISHED:
        raise RuntimeError(f"the run ended with {done.returncode}")


def _truncate(path: Path) -> None:
    """Give a linked file half the content that it had, and leave the original alone."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def _patients(folder: Path, count: int, size: tuple[int, int, int]) -> Iterator[Path]:
    """The folder of each, with four contrasts on a grid of its own."""
    with _beside(_MODELS / "phantom-brats", "make_samples", "phantom") as making:
        for number in range(count):
            making.write(making.patient(number, size), folder / f"{number:02d}")
            yield folder / f"{number:02d}"


@contextmanager
def _beside(model: Path, module: str, *others: str) -> Iterator[ModuleType]:
    """A module of a contribution, whose name and those of its neighbours are free again afterwards."""
    sys.path.insert(0, str(model))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield importlib.import_module(module)
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(model))
        for name in (module, *others):
            sys.modules.pop(name, None)
