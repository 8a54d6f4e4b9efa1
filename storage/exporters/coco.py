"""Masks as COCO instances: one run-length encoded annotation per image and class.

COCO knows no ignored pixel. They are kept as one more annotation with ``iscrowd`` 1, which evaluation and the usual
loaders leave out, in a category of its own, ``ignore`` with id 255, that is listed only where some image needs it.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from pycocotools import mask as rle

from storage.exporters.records import IGNORE, Record, checked
from storage.files import TEMPORARY, sync_file, sync_folder

FILE = "instances.json"


def export_coco(records: Iterable[Record], classes: Sequence[str], out: Path) -> int:
    """Write ``instances.json``: images, categories 1..C, and one annotation per (image, class).

    An annotation holds the mask of its class as compressed RLE text, its ``area`` in pixels and its ``bbox``
    [x, y, width, height]. Image ids are numbers 1..N in the order of the records; the text id is kept as ``name``,
    the path as ``file_name``. Annotations go to the file as they come, one mask in memory at a time.

    Parameters
    ----------
    records
        Ids, paths and masks, read once.
    classes
        Names of the values 1..C.
    out
        Folder to write into.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    ValueError
        An image id twice, a mask of another kind, or a value above C.
    FileExistsError
        ``out`` holds an earlier export.
    """
    path = out / FILE
    if path.exists():
        raise FileExistsError(f"{out}: expected no earlier export, found {FILE}; remove it or name another folder")
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{FILE}.{uuid.uuid4().hex[:12]}{TEMPORARY}"
    try:
        with temporary.open("w", encoding="ascii", newline="\n") as file:
            count = _write(file, checked(records, len(classes)), classes)
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(out)
    return count


def _write(file: TextIO, records: Iterator[Record], classes: Sequence[str]) -> int:
    images: list[dict[str, Any]] = []
    number, ignored = 0, False
    file.write('{"annotations": [')
    for record in records:
        height, width = record.mask.shape
        image = {"id": len(images) + 1, "file_name": record.path, "name": record.image_id}
        images.append({**image, "height": height, "width": width})
        for annotation in _annotations(record, len(images)):
            file.write(",\n" if number else "\n")
            number += 1
            json.dump({"id": number, **annotation}, file)
            ignored |= annotation["category_id"] == IGNORE
    named = [*enumerate(classes, start=1), *([(IGNORE, "ignore")] if ignored else [])]
    categories = [{"id": label, "name": name, "supercategory": ""} for label, name in named]
    rest = {"images": images, "categories": categories, "info": {"description": "maskmill"}, "licenses": []}
    file.write("\n],\n" + json.dumps(rest)[1:] + "\n")
    return len(images)


def _annotations(record: Record, image: int) -> Iterator[dict[str, Any]]:
    for label in np.unique(record.mask):
        if label == 0:
            continue
        code = rle.encode(np.asfortranarray(record.mask == label, dtype=np.uint8))
        yield {
            "image_id": image,
            "category_id": int(label),
            "segmentation": {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")},
            "area": int(rle.area(code)),
            "bbox": [float(value) for value in rle.toBbox(code)],
            "iscrowd": int(label == IGNORE),
        }
