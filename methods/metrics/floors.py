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


def centred_gaussian(size: tuple[int, int], width: float = 0.25) -> npt.NDArray[np.float64]:
    """A soft map that says the object is in the middle: the floor of metrics that look for the best threshold.

    Parameters
    ----------
    size
        Height and width of the map, ``(H, W)``.
    width
        Standard deviation as a fraction of the image's sides, positive.

    Returns
    -------
    ndarray
        ``(H, W)`` float64 in [0, 1], largest 1 at the centre.

    Raises
    ------
    ValueError
        A width or a size that is not positive.

    References
    ----------
    Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.

    Examples
    --------
    >>> centred_gaussian((1, 3), 0.5).round(2).tolist()
    [[0.8, 1.0, 0.8]]
    """
    if not 0 < width < float("inf"):
        raise ValueError(f"expected a positive width, got {width}")
    if min(size) < 1:
        raise ValueError(f"expected a size of at least 1 pixel, got {size}")
    down, across = (np.exp(-(((np.arange(n) - (n - 1) / 2) / (n * width)) ** 2) / 2) for n in size)
    # An even side has its centre between two pixels: divided by the largest, the map reaches 1 all the same.
    return np.outer(down / down.max(), across / across.max())
