"""Instances in COCO's way of writing them, as text and drawn as one mask."""

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from storage.quiet import ignore_warnings_of
from storage.samples import StagingError

IGNORE = 255
_FAR = 100_000


def instances_text(instances: Iterable[tuple[int, Any]], size: tuple[int, int]) -> str:
    """Instances of one image as the text of a :class:`storage.samples.MaskSource`.

    Parameters
    ----------
    instances
        Class id (255 for a crowd) and segmentation: polygons, or RLE counts as numbers or text.
    size
        Height and width that the segmentations are made for.

    Examples
    --------
    >>> instances_text([(2, [[0, 0, 3, 0, 3, 2]])], (2, 3))
    '{"size":[2,3],"instances":[[2,[[0,0,3,0,3,2]]]]}'
    """
    content = {"size": list(size), "instances": [list(instance) for instance in instances]}
    return json.dumps(content, separators=(",", ":"))


def draw_instances(text: str, size: tuple[int, int], *, classes: int, source: str) -> npt.NDArray[np.uint8]:
    """Draw instances, smaller ones over larger ones (equally large: the later one).

    Parameters
    ----------
    text
        What :func:`instances_text` gives, or only the list of instances.
    size
        Height and width of the upright image.
    classes
        Number of classes C.
    source
        File and row, for messages.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` uint8: 0 background, 1..C, 255 crowd.

    Raises
    ------
    StagingError
        Another size than the image's, a class id out of range, a segmentation that cannot be drawn.

    References
    ----------
    COCO data format, object detection: polygons and run lengths, column by column.

    Examples
    --------
    >>> draw_instances('[[2, {"size": [1, 3], "counts": [1, 2]}]]', (1, 3), classes=2, source="").tolist()
    [[0, 2, 2]]
    """
    content = json.loads(text)
    instances = content
    if isinstance(content, dict):
        instances = content["instances"]
        if tuple(content["size"]) != size:
            raise StagingError(
                f"{source}: expected instances for an image of {size[1]} x {size[0]}, the annotation file says "
                f"{content['size'][1]} x {content['size'][0]}; was the image turned or resized after it was annotated?"
            )
    drawn = []
    for number, (class_id, segmentation) in enumerate(instances):
        where = f"{source}: instance {number + 1}"
        if not (1 <= class_id <= classes or class_id == IGNORE):
            raise StagingError(f"{where}: expected a class id 1..{classes} or 255, saw {class_id}")
        drawn.append((class_id, _area(segmentation, size, where)))
    mask = np.zeros(size, np.uint8)
    for class_id, area in sorted(drawn, key=lambda instance: -int(instance[1].sum())):
        mask[area] = class_id
    return mask


def _area(segmentation: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.bool_]:
    try:
        if isinstance(segmentation, dict):
            runs = _runs(segmentation, size)
        else:
            polygons = [_polygon(polygon) for polygon in segmentation if len(polygon) >= 6]
            if not polygons:
                return np.zeros(size, bool)
            runs = coco.merge(coco.frPyObjects(polygons, *size))
        ignore_warnings_of("pycocotools")  # its arrays are older than the installed numpy
        return np.asarray(coco.decode(runs)).astype(bool)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise StagingError(f"{where}: expected polygons or run lengths, saw a segmentation with {error}") from error


def _runs(segmentation: dict[str, Any], size: tuple[int, int]) -> Any:
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"size {segmentation['size']}, where the image has {list(size)}")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        return {"size": list(size), "counts": counts.encode("ascii")}
    if any(run < 0 for run in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(counts)} pixels, where the image has {size[0] * size[1]}")
    return coco.frPyObjects({"size": list(size), "counts": counts}, *size)


def _polygon(points: list[float]) -> list[float]:
    # The library takes time and memory by the length of the outline, and reads four numbers as a box.
    if len(points) % 2 or not all(math.isfinite(value) and abs(value) < _FAR for value in points):
        raise ValueError(f"a polygon of {len(points)} numbers that are not all pairs of coordinates below {_FAR}")
    return [float(value) for value in points]
