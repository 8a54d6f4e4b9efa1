"""Boxes of the ground truth: from a data set's lists to a stage of their own, and back by row of the image index.

They are kept beside the truth masks and not in the index: a changed box redoes only what is measured with boxes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.files import canonical_json, digest
from storage.index import ImageIndex
from storage.samples import StagingError
from storage.stages import StageFolder

BOXES = "boxes"
"""Name of the stage, and of its folder of tables."""
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("x0", pa.int32()),
        ("y0", pa.int32()),
        ("x1", pa.int32()),
        ("y1", pa.int32()),
        ("class_id", pa.int16()),
    ]
)
_UPRIGHT = 1

Boxes = npt.NDArray[np.int64]


def boxes_text(boxes: Iterable[Sequence[int]], size: tuple[int, int]) -> str:
    """Boxes of one image as the text of :attr:`storage.samples.Sample.boxes`.

    Parameters
    ----------
    boxes
        Class id, then x0, y0, x1, y1 in pixels of the image as it is stored.
    size
        Height and width that the boxes are made for.

    Examples
    --------
    >>> boxes_text([(2, 10, 5, 30, 20)], (40, 60))
    '{"size":[40,60],"boxes":[[2,10,5,30,20]]}'
    """
    content = {"size": list(size), "boxes": [list(box) for box in boxes]}
    return json.dumps(content, separators=(",", ":"))


def upright_boxes(text: str, size: tuple[int, int], *, orientation: int, classes: int, source: str) -> Boxes:
    """Boxes of one image, checked and turned as its file was.

    Parameters
    ----------
    text
        What :func:`boxes_text` gives.
    size
        Height and width of the upright image.
    orientation
        EXIF orientation of the file, 1..8. Boxes whose size is that of the stored pixels turn with them; those whose
        size is only that of the upright image were drawn on it and stay.
    classes
        Number of classes C.
    source
        File and row, for messages.

    Returns
    -------
    numpy.ndarray
        ``(n, 5)`` int64: x0, y0, x1, y1 with ``0 <= x0 <= x1 <= W``, and the class id 1..C.

    Raises
    ------
    StagingError
        Boxes for another size than the image's, outside of it or inside out, a class id out of range.

    Examples
    --------
    >>> text = boxes_text([(2, 10, 5, 30, 20)], (40, 60))
    >>> upright_boxes(text, (60, 40), orientation=6, classes=2, source="").tolist()
    [[20, 10, 35, 30, 2]]
    """
    content = json.loads(text)
    made_for = tuple(content["size"])
    stored = size[::-1] if orientation >= 5 else size
    if made_for not in (stored, size):
        raise StagingError(
            f"{source}: expected boxes for an image of {stored[1]} x {stored[0]}, the lists say "
            f"{made_for[1]} x {made_for[0]}; was the image resized after its boxes were drawn?"
        )
    boxes = np.asarray(content["boxes"], np.int64).reshape(-1, 5)
    for number, (class_id, *box) in enumerate(boxes.tolist(), start=1):
        check_box(box, made_for, f"{source}: box {number}")
        if not 1 <= class_id <= classes:
            raise StagingError(f"{source}: box {number}: expected a class id 1..{classes}, saw {class_id}")
    corners = _turn(boxes[:, 1:], stored, orientation if made_for == stored else _UPRIGHT)
    return np.concatenate([corners, boxes[:, :1]], axis=1)


def check_box(box: Sequence[int], size: tuple[int, int], where: str) -> None:
    """Refuse a box x0, y0, x1, y1 that does not lie in an image of (height, width); the last edge may be the image's.

    Raises
    ------
    StagingError
        It does not; ``where`` names file and line.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 <= size[1] and 0 <= y0 <= y1 <= size[0]):
        raise StagingError(
            f"{where}: expected x0, y0, x1, y1 with x0 <= x1 and y0 <= y1 inside the image of {size[1]} x {size[0]}, "
            f"saw {x0}, {y0}, {x1}, {y1}"
        )


def boxes_digest(sources: pa.Table) -> str:
    """What a stage of boxes depends on beside the index: empty where no image has a box."""
    texts = sources.column(BOXES).to_pylist()
    return digest(canonical_json(texts)) if any(texts) else ""


def boxes_basis(index: ImageIndex, boxes: str, shard_images: int) -> dict[str, Any]:
    """Basis of the stage; ``boxes`` is :func:`boxes_digest`."""
    return {"index": index.key, "boxes": boxes, "shard_images": shard_images}


def boxes_table(index: ImageIndex, sources: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Boxes of some rows of the index, in their order; ``sources`` is what staging knows of every row.

    Raises
    ------
    StagingError
        As :func:`upright_boxes`.
    """
    chosen = pa.array(rows, pa.int64())
    known = sources.select(["source", BOXES, "orientation"]).take(chosen).to_pylist()
    found = [np.zeros((0, 6), np.int64)]
    for row, entry in zip(rows, known, strict=True):
        if entry[BOXES]:
            boxes = upright_boxes(
                entry[BOXES],
                index.sizes[row],
                orientation=entry["orientation"] or _UPRIGHT,
                classes=len(index.classes),
                source=entry["source"],
            )
            found.append(np.insert(boxes, 0, row, axis=1))
    columns = np.concatenate(found).T
    return pa.table(dict(zip(SCHEMA.names, columns, strict=True))).cast(SCHEMA)


@dataclass(frozen=True)
class BoxStore:
    """Ground truth boxes by row of the image index.

    Parameters
    ----------
    folder
        A finished stage of boxes; one that lacks a shard is refused when it is read.
    index
        The image index it was made for.
    """

    folder: StageFolder
    index: ImageIndex

    @cached_property
    def _by_row(self) -> dict[int, Boxes]:
        table = self.folder.table(BOXES)
        values = np.stack([table.column(name).to_numpy() for name in SCHEMA.names], axis=1).astype(np.int64)
        rows, starts = np.unique(values[:, 0], return_index=True)
        return dict(zip(rows.tolist(), np.split(values[:, 1:], starts[1:]), strict=True)) if len(rows) else {}

    def rows(self) -> list[int]:
        """Rows that have a box, ascending."""
        return sorted(self._by_row)

    def boxes(self, row: int) -> Boxes:
        """Boxes of one image, ``(n, 4)`` int64 x0, y0, x1, y1 in its own pixels; n = 0 where it has none."""
        return self._values(row)[:, :4]

    def class_ids(self, row: int) -> Boxes:
        """Class id 1..C of each of them, ``(n,)``."""
        return self._values(row)[:, 4]

    def _values(self, row: int) -> Boxes:
        if not 0 <= row < len(self.index):
            raise IndexError(f"{self.folder.name}: expected a row 0 to {len(self.index) - 1}, saw {row}")
        return self._by_row.get(row, np.zeros((0, 5), np.int64))


def _turn(boxes: Boxes, stored: tuple[int, int], orientation: int) -> Boxes:
    """Corners of the stored pixels, (height, width), as they lie in the upright image."""
    height, width = stored
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    if orientation in (2, 3, 7, 8):
        x = width - x
    if orientation in (3, 4, 6, 7):
        y = height - y
    if orientation >= 5:
        x, y = y, x
    return np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)
