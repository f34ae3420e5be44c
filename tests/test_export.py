"""Arrays of results as files that others read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from shardkit import PLAN, RUN

from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.record import ArrayOutput, CaseResult, Output, RunPaths, ShardWriter
from modelhub_hpc.record.export import copy_arrays, npy

ARRAYS = {
    "plane": np.arange(12, dtype="float32").reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(24, dtype=">i2").reshape(2, 3, 4)),
    "long": np.arange(3 * 2**20, dtype="uint32"),
    "deep": np.arange(2 * 3 * 2**20, dtype="uint8").reshape(1, 2, 3, 2**20),
    "scalar": np.array(7.5),
    "empty": np.zeros((0, 5), "int16"),
    "truth": np.array([True, False]),
    "text": np.array([["a", "\u00fc"]]),
    "fields": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, dict[str, Output]]:
    paths = RunPaths(tmp_path_factory.mktemp("run"))
    paths.create()
    given = {name: ArrayOutput(array, "image", "", {"axes": "y,x"}) for name, array in ARRAYS.items()}
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        result = shard.add(CaseResult("a case", 0, "done", (), 0.5, 1, None, (), "host", 1.0), given)
        assert shard.publish()
    return paths, {output.name: output for output in result.outputs}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_an_npy_file(stored: tuple[RunPaths, dict[str, Output]], name: str) -> None:
    paths, outputs = stored
    size, parts = npy(paths, outputs[name])
    pieces: list[bytes] = list(parts)
    content = b"".join(pieces)
    assert len(content) == size and max(map(len, pieces)) <= 2**22
    found: Any = np.load(io.BytesIO(content), allow_pickle=False)
    assert (found.dtype, found.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)
    assert np.array_equal(found, ARRAYS[name])


def test_the_arrays_of_a_case_are_one_file(stored: tuple[RunPaths, dict[str, Output]], tmp_path: Path) -> None:
    paths, outputs = stored
    copy_arrays(paths, [outputs["plane"], outputs["deep"]], tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert set(file["a case"]) == {"plane", "deep"}
        assert np.array_equal(file["a case/deep"][()], ARRAYS["deep"])
        assert (file["a case/plane"].attrs["axes"], file["a case/plane"].attrs["type"]) == ("y,x", "image")


def test_what_is_no_array_or_not_there_is_said(stored: tuple[RunPaths, dict[str, Output]], tmp_path: Path) -> None:
    paths, outputs = stored
    value = Output("value", "vector", "", (1,), [1.0])
    with pytest.raises(ValueError, match="not an array"):
        npy(paths, value)
    with pytest.raises(ValueError, match="no output is an array"):
        copy_arrays(paths, [value], tmp_path / "y.h5")
    gone = Output("gone", "image", "", (1,), None, "c000000.gone.h5:/a case/gone", "float32")
    for damaged in (gone, Output("lost", "image", "", (1,), None, f"{outputs['plane'].dataset}x", "float32")):
        with pytest.raises(TryAgainError, match="Resume the run"):
            npy(paths, damaged)
        with pytest.raises(TryAgainError, match="Resume the run"):
            copy_arrays(paths, [damaged], tmp_path / f"{damaged.name}.h5")
