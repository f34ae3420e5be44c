"""Arrays of results as files that others read, without holding a large one in memory."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from modelhub_hpc.errors import TryAgainError, shown
from modelhub_hpc.record.hdf5 import Sink, read_array
from modelhub_hpc.record.results import Output
from modelhub_hpc.runfolder import RunPaths

_PART_BYTES = 4 * 2**20


def npy(paths: RunPaths, output: Output) -> tuple[int, Iterator[bytes]]:
    """The array of an output as an .npy file: its size in bytes, and its parts, of some MiB each.

    Raises ValueError for an output without an array, TryAgainError if its file is damaged or gone.
    """
    path, name = _place(paths, output)
    try:
        file = h5py.File(path, "r", locking=False)
        dataset = file[name]
        is_text = str(dataset.attrs["dtype"]).startswith(("<U", ">U"))
    except (OSError, KeyError) as error:
        raise _damaged(path, name, error) from error
    if is_text:  # stored as UTF-8
        file.close()
        whole = io.BytesIO()
        np.save(whole, read_array(path, name), allow_pickle=False)
        return len(whole.getvalue()), iter([whole.getvalue()])
    head = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dataset.dtype), "fortran_order": False, "shape": dataset.shape}
    np.lib.format.write_array_header_2_0(head, fields)
    size = len(head.getvalue()) + math.prod(dataset.shape) * dataset.dtype.itemsize
    return size, _parts(head.getvalue(), file, dataset)


def pieces(paths: RunPaths, output: Output, itemsize: int) -> Iterator[npt.NDArray[Any]]:
    """The array of an output in flat pieces of some MiB, in the order of an .npy file.

    Those of two arrays of one shape match where itemsize is the same, that of the larger. Text comes as UTF-8.
    Raises ValueError and TryAgainError as `npy` does.
    """
    path, name = _place(paths, output)
    try:
        with h5py.File(path, "r", locking=False) as file:
            dataset = file[name]
            for block in _blocks(dataset.shape, itemsize):
                yield np.asarray(dataset[block]).reshape(-1)
    except (OSError, KeyError) as error:
        raise _damaged(path, name, error) from error


def copy_arrays(paths: RunPaths, outputs: Sequence[Output], target: Path) -> None:
    """A new HDF5 file with the arrays of these outputs and all that is known of them, as /<case id>/<output name>.

    Raises ValueError for outputs without any array, TryAgainError as `npy` does, OSError where the target fails.
    """
    places = [_place(paths, output) for output in outputs if output.dataset is not None]
    if not places:
        raise ValueError("no output is an array")
    with contextlib.closing(Sink(target)) as sink:
        with h5py.File(sink, "w", locking=False) as copied:
            for path, name in places:
                _copy(path, name, copied)
        sink.close()
    if sink.error is not None:
        raise sink.error


def _copy(path: Path, name: str, copied: Any) -> None:
    try:
        with h5py.File(path, "r", locking=False) as file:
            group = copied.require_group(os.path.dirname(name))
            group.attrs.update(file[os.path.dirname(name)].attrs)
            file.copy(name, group)
    except (OSError, KeyError, RuntimeError) as error:
        raise _damaged(path, name, error) from error


def _parts(head: bytes, file: Any, dataset: Any) -> Iterator[bytes]:
    with file:
        yield head
        for block in _blocks(dataset.shape, dataset.dtype.itemsize):
            yield np.ascontiguousarray(dataset[block]).tobytes()


def _blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[Any]:
    """Index expressions that cover an array in the order of an .npy file: some rows of one axis, all of those after.

    >>> list(_blocks((2, 3), 2**21))
    [(0, slice(0, 2, None)), (0, slice(2, 3, None)), (1, slice(0, 2, None)), (1, slice(2, 3, None))]
    """
    axis = next((a for a in range(len(shape)) if math.prod(shape[a + 1 :]) * itemsize <= _PART_BYTES), None)
    if axis is None or 0 in shape:
        yield ()
        return
    rows = max(1, _PART_BYTES // (math.prod(shape[axis + 1 :]) * itemsize))
    for corner in np.ndindex(*shape[:axis]):
        yield from ((*corner, slice(i, min(i + rows, shape[axis]))) for i in range(0, shape[axis], rows))


def _place(paths: RunPaths, output: Output) -> tuple[Path, str]:
    if output.dataset is None:
        raise ValueError(f"output {output.name!r} is not an array")
    file, _, name = output.dataset.partition(":")
    return paths.shards / os.path.basename(file), name


def _damaged(path: Path, name: str, error: Exception) -> TryAgainError:
    return TryAgainError(f"{shown(path.name)} is damaged at {shown(name)}: {error}. Resume the run: it mends that.")
