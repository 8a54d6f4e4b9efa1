"""Masks as PASCAL VOC keeps them: one palette PNG per image."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.exporters.names import FileNames
from storage.exporters.palette import voc_palette
from storage.exporters.records import Mask, Record, checked
from storage.files import write_bytes_atomic

FOLDER = "SegmentationClass"
IDS = "ids.csv"
LABELS = "labels.txt"
_MOST_CLASSES = 254


def export_voc(
    masks: Iterable[tuple[str, Mask]],
    out: Path,
    *,
    palette: NDArray[np.uint8] | None = None,
    classes: Sequence[str] | None = None,
) -> int:
    """Write ``SegmentationClass/<name>.png`` for every image, and ``ids.csv`` (image_id, file) last.

    A name is the image id where that is a plain name (letters, digits, ``_ . -``, at most 100, no twin that differs by
    case), else ``row-<number>``. Values are kept as they are: 0 background, 1..C class, 255 ignore (the VOC border).

    Parameters
    ----------
    masks
        Pairs of image id and mask, ``(H, W)`` uint8; read once, one mask in memory at a time.
    out
        Folder to write into.
    palette
        Colour of every value, ``(256, 3)`` uint8; default: :func:`~storage.exporters.palette.voc_palette`.
    classes
        Names of the values 1..C; written to ``labels.txt`` after ``background``, a line each.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    ValueError
        An image id twice, a mask of another kind, a value above C, or a palette of another shape.
    FileExistsError
        ``out`` holds a complete export. One that was interrupted has no ``ids.csv`` and is written again.
    """
    palette = voc_palette() if palette is None else palette
    if palette.shape != (256, 3) or palette.dtype != np.uint8:
        raise ValueError(f"expected a palette (256, 3) uint8, got {palette.dtype} {palette.shape}")
    if (out / IDS).exists():
        raise FileExistsError(f"{out}: expected no earlier export, found {IDS}; remove it or name another folder")
    table = io.StringIO(newline="")
    rows = csv.writer(table, quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows.writerow(("image_id", "file"))
    names, count = FileNames(), 0
    records = (Record(image_id, "", mask) for image_id, mask in masks)
    for image_id, _, mask in checked(records, _MOST_CLASSES if classes is None else len(classes)):
        file = f"{FOLDER}/{names.take(count, image_id)}.png"
        write_bytes_atomic(out / file, _png(mask, palette))
        rows.writerow((image_id, file))
        count += 1
    if classes is not None:
        write_bytes_atomic(out / LABELS, "".join(f"{name}\n" for name in ("background", *classes)).encode())
    write_bytes_atomic(out / IDS, table.getvalue().encode())
    return count


def _png(mask: Mask, palette: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
