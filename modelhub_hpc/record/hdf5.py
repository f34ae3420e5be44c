"""Arrays in HDF5 files that are written once, by one process, and hold what they say or are dropped."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.digests import file_digest
from modelhub_hpc.runfolder import drop

# h5py is imported where there is an array to read or write: most models give none, and would begin later for it
if TYPE_CHECKING:
    import h5py  # type: ignore[import-untyped]

AttributeValue = str | int | float | tuple[float, ...] | tuple[int, ...] | tuple[str, ...]

# Below this a filter costs more than it saves; the digest of the whole file guards these arrays too.
_PLAIN_BYTES = 64 * 1024
_BLOCK_BYTES = 1024 * 1024
_SAMPLE_BYTES = 256 * 1024
_PAYS = 0.75
# HDF5 keeps attributes in a 64 KiB header; the shard's line has the whole text.
_ATTRIBUTE_CHARS = 8000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArrayOutput:
    """An array to store; attributes: axes and geometry (spacing, origin, direction), where known.

    A memory-mapped array is copied block by block.
    """

    array: npt.NDArray[Any]
    type: str
    description: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


class Sink(io.RawIOBase):
    """The file under HDF5; it never reports a failed write, but keeps it in `error`.

    HDF5 cannot close a file once a write has failed: the descriptor leaks and the process dies of a
    segmentation fault when it exits. So it is left to believe that all went well, and its work is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._file = io.open(path, "x+b", buffering=0)
        self._position = 0
        self._end = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._attempt(lambda: self._write_all(view))
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._attempt(lambda: self._read_all(view))
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        self._attempt(lambda: os.ftruncate(self._file.fileno(), self._end))
        return self._end

    def sync(self) -> None:
        self._attempt(lambda: os.fsync(self._file.fileno()))

    def close(self) -> None:
        """Closing may be the moment at which a network file system reports a failed write."""
        if not self._file.closed:
            try:
                self._file.close()
            except OSError as error:
                self.error = self.error or error
        super().close()

    def _write_all(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += os.pwrite(self._file.fileno(), view[done:], self._position + done)

    def _read_all(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._file.fileno(), [view[done:]], self._position + done)
            if count == 0:
                return
            done += count

    def _attempt(self, action: Callable[[], None]) -> None:
        if self.error is None:
            try:
                action()
            except OSError as error:
                self.error = error


class ArrayStore:
    """Writes the arrays of one shard.  Every method raises OSError once the storage has failed."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        self._sink = Sink(path)
        self._group: tuple[str, h5py.Group] | None = None  # the case that is being written
        self._stored: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._file: h5py.File | None = h5py.File(
            self._sink, "w", locking=False, track_order=True, libver=("v108", "v110")
        )

    def add(self, case_id: str, name: str, output: ArrayOutput) -> str:
        """Store one array and return where: "/case/name".

        The array must have passed check_storable().
        """
        array = _encoded(output.array)
        with self._honest():
            group = self._group_of(case_id)
            dataset = _create(group, _free_name(group, name), array)
            for block in _blocks(array.shape, dataset.chunks):
                dataset[block] = array[block]
                self._check()
            _describe(dataset, name, output)
            place = str(dataset.name)
            self._stored[place] = array.shape, dataset.dtype
        return place

    def finish(self) -> tuple[int, str]:
        """Close, wait for the disk, read everything back; returns bytes and SHA-256 of the file.

        Raises OSError also where the file read back is not what was written.
        """
        assert self._file is not None
        with self._honest():
            self._file.close()
            self._file = None
            self._sink.sync()
            self._sink.close()
        self._verify()
        return self.path.stat().st_size, file_digest(self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            # What is still in memory is not worth a write, and on a full disk could not be written.
            self._sink.error = self._sink.error or OSError(errno.ECANCELED, "discarded")
            try:
                self._file.close()
            except (OSError, RuntimeError, ValueError) as error:
                _log.debug("closing a discarded file: %s", error)
            self._file = None
        self._sink.close()
        drop(self.path)

    def _group_of(self, case_id: str) -> h5py.Group:
        if self._group is None or self._group[0] != case_id:
            self._group = case_id, _group(self._file, case_id)
        return self._group[1]

    @contextlib.contextmanager
    def _honest(self) -> Iterator[None]:
        """Raise what the storage said, rather than what HDF5 makes of the consequences."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError):
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        if self._sink.error is not None:
            raise self._sink.error

    def _verify(self) -> None:
        import h5py

        try:
            with h5py.File(self.path, "r", locking=False) as file:
                found = {name: (file[name].shape, file[name].dtype) for name in self._stored}
        except (OSError, KeyError) as error:
            raise OSError(errno.EIO, f"what was written cannot be read back ({error})") from error
        if found != self._stored:
            raise OSError(errno.EIO, "what was written reads back differently")


def read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """One array, whole, in the dtype the model gave.  Raises OSError or KeyError."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        dataset = file[name]
        array: npt.NDArray[Any] = np.asarray(dataset[()])
        if str(dataset.attrs["dtype"]).startswith(("<U", ">U")):
            array = np.char.decode(array, "utf-8", "surrogatepass")
        return array


def read_attributes(path: Path, name: str) -> dict[str, AttributeValue]:
    """What is known of one array: axes, size, spacing ...; numbers as Python's own.  Raises OSError or KeyError."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        return {key: _plain_value(value) for key, value in file[name].attrs.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def check_storable(array: npt.NDArray[Any]) -> None:
    """Raises ValueError for an array that HDF5 has no type for."""
    import h5py

    if array.dtype.hasobject:
        raise ValueError(f"an array of Python objects (dtype {array.dtype}) cannot be stored")
    try:
        h5py.h5t.py_create(array.dtype if array.dtype.kind != "U" else np.dtype("S1"), logical=True)
    except TypeError as error:
        raise ValueError(f"an array of dtype {array.dtype} cannot be stored in HDF5") from error


def _encoded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind == "U":  # HDF5 has no fixed UTF-32 strings
        return np.char.encode(array, "utf-8", "surrogatepass")
    return array


def _group(file: h5py.File, case_id: str) -> h5py.Group:
    name = _plain_name(case_id)
    if name not in file:
        group = file.create_group(name, track_order=True)
        if name != case_id:
            group.attrs["name"] = _attribute(case_id)
    return file[name]


def _plain_name(name: str) -> str:
    """A name HDF5 takes: no "/", no NUL, valid UTF-8, not "." alone."""
    text = name.replace("/", "_").replace("\0", "_").encode("utf-8", "backslashreplace").decode()
    return text if text not in ("", ".", "..") else "_" * max(1, len(text))


def _free_name(group: h5py.Group, name: str) -> str:
    plain = candidate = _plain_name(name)
    number = 1
    while candidate in group:
        number += 1
        candidate = f"{plain}_{number}"
    return candidate


def _describe(dataset: h5py.Dataset, name: str, output: ArrayOutput) -> None:
    values = {
        **output.attributes,
        "type": output.type,
        "dtype": str(output.array.dtype),
        "description": output.description,
    }
    if dataset.name.rpartition("/")[2] != name:
        values["name"] = name
    for key, value in values.items():
        dataset.attrs[key] = _attribute(value)


def _attribute(value: AttributeValue) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text[:_ATTRIBUTE_CHARS]


def _create(group: h5py.Group, name: str, array: npt.NDArray[Any]) -> h5py.Dataset:
    if array.nbytes <= _PLAIN_BYTES:
        return group.create_dataset(name, shape=array.shape, dtype=array.dtype)
    chunks = _chunk_shape(array)
    filters: dict[str, Any] = {"fletcher32": True}
    if _pays(array, chunks):
        filters.update(compression="gzip", compression_opts=1, shuffle=True)
    return group.create_dataset(name, shape=array.shape, dtype=array.dtype, chunks=chunks, **filters)


def _chunk_shape(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The last axes whole, as many rows of the next as fit in a block, one of all before."""
    room = max(1, _BLOCK_BYTES // array.itemsize)
    shape = []
    for length in reversed(array.shape):
        shape.append(min(length, room))
        room = max(1, room // length)
    return tuple(reversed(shape))


def _blocks(shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> Iterator[Any]:
    """Index expressions that cover an array chunk by chunk, in the order of its memory."""
    if chunks is None:
        yield ()
        return
    counts = [-(-length // step) for length, step in zip(shape, chunks, strict=True)]
    for corner in np.ndindex(*counts):
        yield tuple(slice(i * step, (i + 1) * step) for i, step in zip(corner, chunks, strict=True))


def _pays(array: npt.NDArray[Any], chunks: tuple[int, ...]) -> bool:
    """Whether compressing a sample from the middle saves enough."""
    middle = tuple(
        slice(length // 2 // step * step, length // 2 // step * step + step)
        for length, step in zip(array.shape, chunks, strict=True)
    )
    sample = np.ascontiguousarray(array[middle]).tobytes()
    sample = sample[: max(1, _SAMPLE_BYTES // array.itemsize) * array.itemsize]
    shuffled = np.frombuffer(sample, np.uint8).reshape(-1, array.itemsize).T.tobytes()
    return len(zlib.compress(shuffled, 1)) < _PAYS * len(sample)
