"""The image index: one row per image in run order, and how rows are dealt out to canvases and shards.

Row numbers are the only names that later stages know. An image keeps its row whether or not it could be read, so a
quarantined image is a row of ignore pixels and never shifts its neighbours.

Its slot says where an image lies in the arrays of its canvas, and so in which shard. An index that follows an earlier
one leaves every image that is still there in its slot: what came or went since touches its own shards only. Such an
index may list the same images in another order than a fresh one would, and leave slots empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.files import digest, read_table, short_key, table_bytes

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
    ``object`` those of the canvas (the number of the shard object in the canvas's arrays). ``places`` are those of the
    rows inside the object, empty where they follow each other from 0.
    """

    number: int
    rows: range
    canvas: tuple[int, int]
    object: int
    places: tuple[int, ...] = ()

    @property
    def offsets(self) -> Sequence[int]:
        """Place of each row inside the shard object."""
        return self.places or range(len(self.rows))


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
        rows = self.subset_key(range(len(self)))
        if self._is_fresh:
            return rows
        layout = [self._canvas_by_row, self.slots.tolist()]
        return short_key({"rows": rows, "layout": digest(repr(layout).encode())})

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

    def canvas(self, row: int) -> tuple[int, int]:
        """Canvas (height, width) of a row."""
        return self._canvas_by_row[row]

    @cached_property
    def _canvas_by_row(self) -> list[tuple[int, int]]:
        heights = self.table.column("canvas_height").to_pylist()
        widths = self.table.column("canvas_width").to_pylist()
        return list(zip(heights, widths, strict=True))

    @cached_property
    def slots(self) -> npt.NDArray[np.int64]:
        """Place of each row in the arrays of its canvas."""
        return np.asarray(self.table.column("slot").to_pylist(), dtype=np.int64)

    @cached_property
    def capacities(self) -> dict[tuple[int, int], int]:
        """Room in the arrays of each canvas (height, width): up to the last slot that is taken."""
        # Rows of a canvas are in the order of their slots: the last one counts.
        return {canvas: int(slot) + 1 for canvas, slot in zip(self._canvas_by_row, self.slots)}

    @cached_property
    def _is_fresh(self) -> bool:
        """Whether rows lie where an index that follows no other would put them."""
        seen = np.asarray(self._canvas_by_row, np.int64).reshape(-1, 2)
        canvases = _fresh_canvases(*np.maximum(np.asarray(self.sizes, np.int64).reshape(-1, 2), 1).T)
        in_order = sorted(self.canvases) == list(self.canvases)
        return in_order and np.array_equal(seen, canvases) and self.capacities == self.canvases

    def shards(self, size: int) -> list[Shard]:
        """Deal the rows out: those whose slots share a shard object of ``size`` images, never two canvases in one."""
        shards: list[Shard] = []
        first = 0
        for canvas, count in self.canvases.items():
            slots = self.slots[first : first + count]
            starts = np.flatnonzero(np.r_[True, np.diff(slots // size) > 0])
            for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), count]):
                number = int(slots[start]) // size
                places = tuple((slots[start:stop] - number * size).tolist())
                dense = places == tuple(range(len(places)))
                rows = range(first + start, first + stop)
                shards.append(Shard(len(shards), rows, canvas, number, () if dense else places))
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


def build_index(table: pa.Table, classes: Sequence[str], before: ImageIndex | None = None) -> ImageIndex:
    """Put inspected images into run order and give each its canvas and slot.

    Where no side is longer than 512 there is one canvas, as large as the largest image; else sizes are rounded up to
    multiples of 128 and images of one size class follow each other.

    Parameters
    ----------
    table
        Columns of the index up to ``bytes``, in the order of the data set's lists.
    classes
        Names in id order.
    before
        An earlier index to follow: images that it knows keep canvas and slot as long as they fit, new ones get the next
        slots of a canvas in the order of the lists. Slots of images that are gone stay empty. An index that knows less
        than half of the images is not worth following.
    """
    heights = np.asarray(table.column("height").fill_null(1).to_pylist(), dtype=np.int64).reshape(-1)
    widths = np.asarray(table.column("width").fill_null(1).to_pylist(), dtype=np.int64).reshape(-1)
    ids = table.column("image_id").to_pylist()
    if before is not None and len(ids) and 2 * len({*ids} & {*before.ids}) >= len(ids):
        canvases, ranks, slots = _follow(before, ids, heights, widths)
    else:
        canvases = _fresh_canvases(heights, widths)
        ranks = np.unique(canvases, axis=0, return_inverse=True)[1].reshape(-1)
        slots = np.zeros(len(ids), np.int64)
        for rank in range(ranks.max(initial=-1) + 1):
            slots[ranks == rank] = np.arange((ranks == rank).sum())
    order = np.lexsort((slots, ranks))
    table = table.take(pa.array(order))
    table = table.append_column("canvas_height", pa.array(canvases[order, 0], pa.int32()))
    table = table.append_column("canvas_width", pa.array(canvases[order, 1], pa.int32()))
    table = table.append_column("slot", pa.array(slots[order], pa.int64()))
    return ImageIndex(table.select(SCHEMA.names).cast(SCHEMA), tuple(classes))


def _fresh_canvases(heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Canvas (height, width) of every image where no index goes before, ``(N, 2)``."""
    if max(heights.max(initial=1), widths.max(initial=1)) <= ONE_CANVAS:
        return np.tile(np.asarray([heights.max(initial=1), widths.max(initial=1)], np.int64), (len(heights), 1))
    return -(-np.stack([heights, widths], axis=1) // BUCKET) * BUCKET


def _follow(
    before: ImageIndex, ids: Sequence[str], heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Canvas, rank of the canvas, and slot of every image after an earlier index."""
    row_of = {image_id: row for row, image_id in enumerate(before.ids)}
    known, room = list(before.canvases), dict(before.capacities)
    ranks, slots = np.full(len(ids), -1, np.int64), np.zeros(len(ids), np.int64)
    for place, (image_id, height, width) in enumerate(zip(ids, heights.tolist(), widths.tolist(), strict=True)):
        row = row_of.get(image_id)
        canvas = before.canvas(row) if row is not None else None
        if row is None or canvas is None or height > canvas[0] or width > canvas[1]:
            canvas = _canvas_for(height, width, known)
            if canvas not in room:
                known.append(canvas)
                room[canvas] = 0
            slots[place], room[canvas] = room[canvas], room[canvas] + 1
        else:
            slots[place] = before.slots[row]
        ranks[place] = known.index(canvas)
    return np.asarray(known, np.int64).reshape(-1, 2)[ranks], ranks, slots


def _canvas_for(height: int, width: int, known: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Canvas of a new image: the smallest it fits where all are small, else that of its size class."""
    small = all(max(canvas) <= ONE_CANVAS for canvas in known)
    fitting = [canvas for canvas in known if canvas[0] >= height and canvas[1] >= width] if small else []
    rounded = (-(-height // BUCKET) * BUCKET, -(-width // BUCKET) * BUCKET)
    return min(fitting, key=lambda canvas: canvas[0] * canvas[1], default=rounded)


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
    table = read_table(path)
    metadata = table.schema.metadata or {}
    if not set(SCHEMA.names) <= set(table.column_names) or b"classes" not in metadata:
        raise ValueError(f"{path}: expected the columns {', '.join(SCHEMA.names)}, saw {', '.join(table.column_names)}")
    classes = tuple(metadata[b"classes"].decode().split("\0")) if metadata[b"classes"] else ()
    # Parquet renames the items of lists: without the cast an index that is read and written again has other bytes.
    index = ImageIndex(table.replace_schema_metadata(None).select(SCHEMA.names).cast(SCHEMA), classes)
    if index.key != metadata.get(b"key", b"").decode():
        raise ValueError(f"{path}: its rows and its key disagree; run `maskmill stage` again")
    return index
