"""The image index: one row per image in run order, and how rows are dealt out to canvases and shards.

Row numbers are the only names that later stages know. An image keeps its row whether or not it could be read, so a
quarantined image is a row of ignore pixels and never shifts its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.files import digest, short_key, table_bytes

OK = "ok"
QUARANTINED = "quarantined"
ONE_CANVAS = 512
BUCKET = 128
IGNORE = 255

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("sha256", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("orientation", pa.int8()),
        ("bytes", pa.int64()),
        ("canvas_height", pa.int32()),
        ("canvas_width", pa.int32()),
        ("slot", pa.int64()),
    ]
)
_CONTENT = ("image_id", "split", "width", "height", "sha256", "labels", "status")


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work: consecutive rows of the index that share a canvas.

    ``rows`` are global row numbers, ``canvas`` is (height, width), ``number`` counts all shards of the run and
    ``object`` those of the canvas (the number of the shard object in the canvas's arrays).
    """

    number: int
    rows: range
    canvas: tuple[int, int]
    object: int


@dataclass(frozen=True)
class ImageIndex:
    """The index as a table, with the classes in id order 1..C."""

    table: pa.Table
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def key(self) -> str:
        """Key of all that later stages read from here: ids, splits, content, labels, classes; never time stamps."""
        return self.subset_key(range(len(self)))

    def subset_key(self, rows: Sequence[int]) -> str:
        """The same for some of the rows: what a training on one split depends on."""
        columns = self.table.select(list(_CONTENT)).take(pa.array(rows, pa.int64())).to_pydict()
        return short_key({"classes": list(self.classes), "rows": digest(repr(columns).encode())})

    @cached_property
    def ids(self) -> list[str]:
        """Image ids by row."""
        return list(self.table.column("image_id").to_pylist())

    @cached_property
    def paths(self) -> list[str]:
        """Paths by row, relative to the data root."""
        return list(self.table.column("path").to_pylist())

    @cached_property
    def splits(self) -> list[str]:
        """Splits by row."""
        return list(self.table.column("split").to_pylist())

    @cached_property
    def hashes(self) -> list[str | None]:
        """SHA-256 of the files by row."""
        return list(self.table.column("sha256").to_pylist())

    @cached_property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which rows can be worked on."""
        return np.asarray([status == OK for status in self.table.column("status").to_pylist()], dtype=bool)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) by row, (0, 0) where unknown."""
        heights, widths = self.table.column("height").to_pylist(), self.table.column("width").to_pylist()
        return [(h or 0, w or 0) for h, w in zip(heights, widths, strict=True)]

    @cached_property
    def class_ids(self) -> list[list[int]]:
        """Class ids 1..C of each row's labels, ascending."""
        number = {name: k for k, name in enumerate(self.classes, start=1)}
        return [sorted(number[label] for label in labels) for labels in self.table.column("labels").to_pylist()]

    @cached_property
    def targets(self) -> npt.NDArray[np.bool_]:
        """Multi-hot labels, (rows, C)."""
        targets = np.zeros((len(self), len(self.classes)), dtype=bool)
        for row, ids in enumerate(self.class_ids):
            targets[row, [k - 1 for k in ids]] = True
        return targets

    @cached_property
    def canvases(self) -> dict[tuple[int, int], int]:
        """Rows on each canvas (height, width), in run order."""
        counts: dict[tuple[int, int], int] = {}
        for canvas in self._canvas_by_row:
            counts[canvas] = counts.get(canvas, 0) + 1
        return counts

    @cached_property
    def _canvas_by_row(self) -> list[tuple[int, int]]:
        heights = self.table.column("canvas_height").to_pylist()
        widths = self.table.column("canvas_width").to_pylist()
        return list(zip(heights, widths, strict=True))

    def shards(self, size: int) -> list[Shard]:
        """Deal the rows out: at most ``size`` to a shard, never two canvases in one."""
        shards: list[Shard] = []
        first = 0
        for canvas, count in self.canvases.items():
            for number, start in enumerate(range(0, count, size)):
                rows = range(first + start, first + min(start + size, count))
                shards.append(Shard(len(shards), rows, canvas, number))
            first += count
        return shards

    def working_rows(self, shard: Shard) -> list[int]:
        """Rows of a shard that are not quarantined."""
        return [row for row in shard.rows if self.ok[row]]

    def array_name(self, base: str, canvas: tuple[int, int]) -> str:
        """Name of the array for a canvas: plain where there is one canvas, else with its size."""
        return base if len(self.canvases) == 1 else f"{base}-{canvas[0]}x{canvas[1]}"

    def to_bytes(self) -> bytes:
        """The index as Parquet, classes in its metadata."""
        metadata = {b"classes": "\0".join(self.classes).encode(), b"key": self.key.encode()}
        return table_bytes(self.table.replace_schema_metadata(metadata))


def build_index(table: pa.Table, classes: Sequence[str]) -> ImageIndex:
    """Put inspected images into run order and give each its canvas and slot.

    Where no side is longer than 512 there is one canvas, as large as the largest image; else sizes are rounded up to
    multiples of 128 and images of one size class follow each other.

    Parameters
    ----------
    table
        Columns of the index up to ``bytes``, in the order of the data set's lists.
    classes
        Names in id order.
    """
    heights = np.asarray(table.column("height").fill_null(1).to_pylist(), dtype=np.int64).reshape(-1)
    widths = np.asarray(table.column("width").fill_null(1).to_pylist(), dtype=np.int64).reshape(-1)
    if max(heights.max(initial=1), widths.max(initial=1)) <= ONE_CANVAS:
        canvases = np.tile([heights.max(initial=1), widths.max(initial=1)], (len(heights), 1))
    else:
        canvases = -(-np.stack([heights, widths], axis=1) // BUCKET) * BUCKET
    order = np.lexsort((np.arange(len(heights)), canvases[:, 1], canvases[:, 0]))
    canvases = canvases[order]
    new = np.r_[True, (canvases[1:] != canvases[:-1]).any(axis=1)] if len(order) else np.zeros(0, bool)
    starts = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    table = table.take(pa.array(order))
    table = table.append_column("canvas_height", pa.array(canvases[:, 0], pa.int32()))
    table = table.append_column("canvas_width", pa.array(canvases[:, 1], pa.int32()))
    table = table.append_column("slot", pa.array(np.arange(len(order)) - starts, pa.int64()))
    return ImageIndex(table.select(SCHEMA.names).cast(SCHEMA), tuple(classes))


def read_index(path: Path) -> ImageIndex:
    """Read an index back.

    Raises
    ------
    FileNotFoundError
        There is none: nothing was staged.
    ValueError
        A Parquet file that is no index, or whose content is not what its key says.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected an image index; run `maskmill stage` first")
    table = pq.ParquetFile(path).read()
    metadata = table.schema.metadata or {}
    if not set(SCHEMA.names) <= set(table.column_names) or b"classes" not in metadata:
        raise ValueError(f"{path}: expected the columns {', '.join(SCHEMA.names)}, saw {', '.join(table.column_names)}")
    classes = tuple(metadata[b"classes"].decode().split("\0")) if metadata[b"classes"] else ()
    # Parquet renames the items of lists: without the cast an index that is read and written again has other bytes.
    index = ImageIndex(table.replace_schema_metadata(None).select(SCHEMA.names).cast(SCHEMA), classes)
    if index.key != metadata.get(b"key", b"").decode():
        raise ValueError(f"{path}: its rows and its key disagree; run `maskmill stage` again")
    return index
