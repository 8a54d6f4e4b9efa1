"""Floors: what masks made without looking at any picture would score."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]


def whole_image(classes: Sequence[int], size: tuple[int, int]) -> Mask:
    """The image's first label everywhere.

    Parameters
    ----------
    classes
        Class ids of the image, ascending; none gives background.
    size
        Height and width of the mask, ``(H, W)``.

    Returns
    -------
    ndarray
        uint8 ``(H, W)``.

    Examples
    --------
    >>> whole_image([2, 3], (1, 2)).tolist()
    [[2, 2]]
    """
    return np.full(size, classes[0] if classes else 0, np.uint8)


def centred_box(classes: Sequence[int], size: tuple[int, int], side: float) -> Mask:
    """The image's first label in a centred box, background around it.

    Parameters
    ----------
    classes
        Class ids of the image, ascending; none gives background.
    size
        Height and width of the mask, ``(H, W)``.
    side
        Sides of the box as a fraction of the image's sides, in (0, 1].

    Returns
    -------
    ndarray
        uint8 ``(H, W)``.

    Raises
    ------
    ValueError
        ``side`` out of range.

    Examples
    --------
    >>> centred_box([1], (4, 4), 0.5).sum()
    np.uint64(4)
    """
    if not 0 < side <= 1:
        raise ValueError(f"expected a side in (0, 1], got {side}")
    mask = np.zeros(size, np.uint8)
    height, width = (max(1, round(extent * side)) for extent in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    mask[top : top + height, left : left + width] = classes[0] if classes else 0
    return mask
