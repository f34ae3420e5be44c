"""What the tests of the run folder share: writing shards here, and in processes that may die of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelhub_hpc.plan import Chunk
from modelhub_hpc.record import (
    ArrayOutput,
    CaseError,
    CaseResult,
    Output,
    RunPaths,
    ShardWriter,
    iter_results,
    load_array,
)

HERE = Path(__file__).parent
RUN, PLAN = "20260101-toy-abcd", "d" * 64
CHUNKS = [Chunk(0, 0, 1), Chunk(1, 1, 4), Chunk(2, 5, 4)]

# What a child process needs to write shards of the same kind as the tests.
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from modelhub_hpc.record import *
from modelhub_hpc.errors import TryAgainError, UnfitError
paths = RunPaths(Path(sys.argv[1]))
def result(i, value=None):
    outputs = (Output("value", "vector", "", (1,), [i if value is None else value]),)
    return CaseResult(f"case-{i}", i, "done", outputs, 0.5, 1, None, (), "host", 1.0)
def write(chunk, first, count, fault=lambda step: None, shape=(20, 30)):
    with ShardWriter(paths, "%s", "%s", chunk, fault=fault) as shard:
        for i in range(first, first + count):
            shard.add(result(i), {"mask": ArrayOutput(np.full(shape, i, "int32"), "mask_image")})
        return shard.publish()
""" % (RUN, PLAN)


def child(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        cwd=HERE.parent,
        text=True,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ran(script: str, *arguments: object, **environment: str) -> str:
    process = child(script, *arguments, **environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    made = RunPaths(tmp_path / "a run\n\udcff")
    made.create()
    return made


def result(
    index: int,
    error: CaseError | None = None,
    outputs: tuple[Output, ...] = (),
    attempts: int = 1,
    seconds: float = 0.5,
) -> CaseResult:
    status = "done" if error is None else "failed"
    return CaseResult(f"case-{index}", index, status, outputs, seconds, attempts, error, (), "host", 1.0)


def write(
    paths: RunPaths,
    chunk: Chunk,
    generation: int = 0,
    failed: tuple[int, ...] = (),
    only: tuple[int, ...] | None = None,
) -> bool:
    with ShardWriter(paths, RUN, PLAN, chunk.index, generation) as shard:
        for i in only or range(chunk.first, chunk.first + chunk.count):
            if i in failed:
                shard.add(result(i, CaseError("crash", "died", "signal 11")))
            else:
                shard.add(result(i), {"mask": ArrayOutput(np.full((20, 30), i, "int32"), "mask_image")})
        return shard.publish()


def files(paths: RunPaths) -> set[str]:
    return {path.name for path in paths.shards.iterdir()}


def check_all(paths: RunPaths, chunks: list[Chunk]) -> None:
    """Every case once, in order, with the values of an undisturbed run."""
    found = list(iter_results(paths, RUN, PLAN, chunks))
    assert [each.index for each in found] == list(range(sum(chunk.count for chunk in chunks)))
    for each in found:
        array = load_array(paths, each.outputs[-1])
        assert array.dtype == np.int32 and (array == each.index).all() and array.shape == (20, 30)
