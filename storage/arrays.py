"""Zarr v3 arrays with one shard object per unit of work.

A chunk is one image (or pair), a shard is one unit. Only whole shards are assigned, by one process each; checksums are
kept inside the codec as well as in the commit record, and empty chunks are written so that a missing object can never
pass for background. Shards are encoded in memory and written like any other file, so that they are whole or absent.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import FsspecStore, MemoryStore

from storage.places import file_system, is_local, read_whole
from storage.writing import write_bytes_atomic

MAX_CHUNK_BYTES = 1 << 30
METADATA = "zarr.json"


class ArrayError(ValueError):
    """An array whose metadata or write does not fit what the stage declared."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array of a stage: ``rows`` items of ``item`` shape, ``shard_rows`` of them in each shard object."""

    name: str
    rows: int
    item: tuple[int, ...]
    shard_rows: int
    dtype: str
    fill: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return (self.rows, *self.item)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {**asdict(self), "item": list(self.item)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ArraySpec":
        """Read back what :meth:`to_json` gave."""
        return cls(**{**value, "item": tuple(value["item"])})


def array_path(folder: Path, name: str) -> Path:
    """Where an array of a stage lies."""
    return folder / f"{name}.zarr"


def create_array(folder: Path, spec: ArraySpec) -> None:
    """Create an empty array; one that is there already is opened and checked instead."""
    path = array_path(folder, spec.name)
    if (path / METADATA).exists():
        open_array(folder, spec)
        return
    written: dict[str, Buffer] = {}
    zarr.create_array(
        store=MemoryStore(written),
        shape=spec.shape,
        chunks=(1, *spec.item),
        shards=(spec.shard_rows, *spec.item),
        dtype=spec.dtype,
        fill_value=spec.fill,
        compressors=[ZstdCodec(level=3, checksum=True)],
        config={"write_empty_chunks": True},
    )
    write_bytes_atomic(path / METADATA, written[METADATA].to_bytes())


def open_array(folder: Path, spec: ArraySpec) -> zarr.Array[Any]:
    """Open an array after checking that its metadata says what the manifest says.

    Raises
    ------
    ArrayError
        Another shape, type or chunking than declared (foreign metadata could ask for any amount of memory).
    """
    path = array_path(folder, spec.name)
    return _checked(path, spec, _store(path))


def _store(path: Path) -> Store | str:
    if is_local(path):
        return str(path)
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    fs, name = file_system(path)
    # Zarr has an event loop of its own. Wrapped, the connections of the one that fsspec has do for both.
    return FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), path=name, read_only=True)


def _checked(path: Path, spec: ArraySpec, store: Store | str) -> zarr.Array[Any]:
    if int(np.prod(spec.item)) * np.dtype(spec.dtype).itemsize > MAX_CHUNK_BYTES:
        raise ArrayError(f"{path}: expected chunks of at most {MAX_CHUNK_BYTES} bytes, saw items {spec.item}")
    array = zarr.open_array(store, mode="r" if isinstance(store, FsspecStore) else "r+")
    seen = (array.shape, array.chunks, array.shards, array.dtype.name)
    expected = (spec.shape, (1, *spec.item), (spec.shard_rows, *spec.item), spec.dtype)
    if seen != expected:
        raise ArrayError(f"{path}: expected shape, chunks, shards, type {expected}, saw {seen}")
    return array


def write_shard(folder: Path, spec: ArraySpec, shard: int, data: npt.NDArray[Any]) -> Path:
    """Assign one whole shard and flush it to the disk.

    Parameters
    ----------
    folder
        Of the stage.
    spec
        The array.
    shard
        Number of the shard object.
    data
        At most ``shard_rows`` items; a short one is allowed in the last shard, and elsewhere it is filled up.

    Returns
    -------
    Path
        The shard object.
    """
    start = shard * spec.shard_rows
    stop = min(start + spec.shard_rows, spec.rows)
    if data.shape[1:] != spec.item or len(data) > stop - start or data.dtype != np.dtype(spec.dtype):
        raise ArrayError(
            f"{array_path(folder, spec.name)} shard {shard}: expected up to {stop - start} items of {spec.item} "
            f"{spec.dtype}, saw {data.shape} {data.dtype}"
        )
    if len(data) < stop - start:
        filler = np.full((stop - start - len(data), *spec.item), spec.fill, spec.dtype)
        data = np.concatenate([data, filler])
    path = array_path(folder, spec.name)
    encoded = _encode(path, spec, start, data)
    name = "/".join(["c", str(shard), *["0"] * len(spec.item)])
    write_bytes_atomic(path / name, encoded[name].to_bytes())
    return path / name


def _encode(path: Path, spec: ArraySpec, start: int, data: npt.NDArray[Any]) -> dict[str, Buffer]:
    """What Zarr writes for rows from ``start`` on, by key.

    In memory, since Zarr reads a shard's old index before it replaces the whole of it: on the disk a damaged one could
    never be written anew.
    """
    metadata = default_buffer_prototype().buffer.from_bytes(read_whole(path / METADATA))
    written: dict[str, Buffer] = {METADATA: metadata}
    array = _checked(path, spec, MemoryStore(written))
    # open_array(config=) is silently ignored; only this makes the setting hold.
    array.with_config({"write_empty_chunks": True})[start : start + len(data)] = data
    return written


def read_rows(folder: Path, spec: ArraySpec, start: int, stop: int) -> npt.NDArray[Any]:
    """Rows ``start`` to ``stop`` of an array."""
    return np.asarray(open_array(folder, spec)[start:stop])
