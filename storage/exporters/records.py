"""What an exporter is given: one record per image, checked once for all formats."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IGNORE = 255

Mask = NDArray[np.uint8]


class Record(NamedTuple):
    """The mask of one image: ``mask`` is ``(H, W)`` uint8, 0 background, 1..C class, 255 ignore."""

    image_id: str
    path: str
    mask: Mask


Exporter = Callable[[Iterable[Record], Sequence[str], Path], int]
"""``exporter(records, classes, out)`` writes below the folder ``out`` and returns the number of images."""


def checked(records: Iterable[Record], classes: int) -> Iterator[Record]:
    """The records as they come, each looked at before it is passed on.

    Raises
    ------
    ValueError
        An id twice, a mask that is not ``(H, W)`` uint8, or one that holds a value other than 0..C and 255.
    """
    seen: set[str] = set()
    for record in records:
        mask = record.mask
        if record.image_id in seen:
            raise ValueError(f"{record.image_id!r}: expected every image id once, found it twice")
        seen.add(record.image_id)
        if mask.ndim != 2 or not mask.size or mask.dtype != np.uint8:
            raise ValueError(f"{record.image_id!r}: expected a mask (H, W) uint8, got {mask.dtype} {mask.shape}")
        strange = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[classes + 1 : IGNORE])
        if strange.size:
            value = classes + 1 + int(strange[0])
            raise ValueError(f"{record.image_id!r}: expected mask values 0..{classes} and {IGNORE}, got {value}")
        yield record
