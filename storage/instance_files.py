"""Masks in several files an image: one for each instance, and regions to ignore."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.decode import ImageRefused, decode_image, load_upright, read_bytes
from storage.samples import MaskSource, StagingError

IGNORE = 255
_GREY = ("1", "L", "I", "I;16")

Bits = npt.NDArray[np.bool_]


def files_mask(instances: Iterable[str], ignored: Iterable[str] = ()) -> MaskSource:
    """Source of a mask that is the union of instances, with regions that are neither object nor background.

    Parameters
    ----------
    instances, ignored
        Paths below the data root; a file given twice counts once.

    Examples
    --------
    >>> files_mask(["a_m1.png", "a_m2.png"], ["a_ignore.png"]).text
    '{"instances":["a_m1.png","a_m2.png"],"ignored":["a_ignore.png"]}'
    """
    content = {"instances": list(dict.fromkeys(instances)), "ignored": list(dict.fromkeys(ignored))}
    return MaskSource("files", text=json.dumps(content, separators=(",", ":")))


def mask_paths(mask: MaskSource) -> list[str]:
    """Every file that a mask is made from, none where it is text alone."""
    if mask.kind != "files":
        return [mask.path] if mask.path else []
    content = json.loads(mask.text)
    return [*content["instances"], *content["ignored"]]


def draw_files(
    root: Path, mask: MaskSource, size: tuple[int, int], *, class_id: int, source: str, max_pixels: int
) -> npt.NDArray[np.uint8]:
    """Lay the files of a mask over each other: instances, then what is ignored around them.

    Parameters
    ----------
    root
        Data root that the paths are relative to.
    mask
        What :func:`files_mask` gives.
    size
        Height and width of the upright image. Files of another size but of its shape are sampled, row i from row
        floor(i H / h) and columns likewise: OpenImages publishes masks at another scale than its images. A shape may
        differ by what rounding does, one pixel of the coarser of both.
    class_id
        What the instances are, 1..254.
    source
        File and row, for messages.
    max_pixels
        Cap for a file's header.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` uint8: ``class_id`` where any instance is (a value above 0), else 255 where a region is ignored,
        else 0.

    Raises
    ------
    StagingError
        A file that cannot be read or has another shape than the image.

    References
    ----------
    Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020 (OpenImages30k).
    """
    content: dict[str, list[str]] = json.loads(mask.text)
    drawn = np.zeros(size, np.uint8)
    for name, value in (("ignored", IGNORE), ("instances", class_id)):
        for path in content[name]:
            drawn[_area(root, path, size, source, max_pixels)] = value
    return drawn


def nearest(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Sample ``(H, W, ...)`` at another size: row i is row floor(i H / h), columns likewise.

    Examples
    --------
    >>> nearest(np.arange(6).reshape(2, 3), (3, 2)).tolist()
    [[0, 1], [0, 1], [3, 4]]
    """
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, values.shape[:2], strict=True))
    return values if values.shape[:2] == size else values[rows[:, None], columns]


def _area(root: Path, path: str, size: tuple[int, int], source: str, max_pixels: int) -> Bits:
    where = f"{source}: mask {path}"
    try:
        data = read_bytes(root, path)
        loaded = load_upright(data, max_pixels)
        # What a palette calls 1 may be black.
        is_grey = loaded.mode in _GREY
        values = np.asarray(loaded.image) if is_grey else decode_image(data, max_pixels).pixels.max(axis=2)
    except ImageRefused as refusal:
        raise StagingError(f"{where}: {refusal}") from refusal
    if not _same_shape(values.shape, size):
        raise StagingError(
            f"{where}: expected the shape of the image, {size[1]} x {size[0]} at any scale, "
            f"saw {values.shape[1]} x {values.shape[0]}"
        )
    bits: Bits = np.greater(nearest(values, size), 0)
    return bits


def _same_shape(found: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether both are one picture at two scales, each side rounded to whole pixels in its own way."""
    (height, width), (wanted_height, wanted_width) = found, size
    # A side that is off by one pixel moves the difference by the other picture's other side.
    return abs(height * wanted_width - width * wanted_height) <= max(*found, *size)
