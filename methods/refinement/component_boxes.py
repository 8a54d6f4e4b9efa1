"""Component boxes: the boxes around the connected parts of a mask, as contour finding would give them.

Localization metrics draw a box around the largest part of a thresholded map, or one around every part. Both are defined
by the contours of OpenCV, polygons through pixel centres. The same boxes follow from connected components, so that
OpenCV is not needed; where it is installed, it is only faster.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Contours = Literal["largest", "all"]
Backend = Literal["auto", "opencv", "scipy"]
Rectangle = Sequence[int]
Rectangles = list[Rectangle]
Largest = tuple[Rectangle, float, float]
Mask = TypeVar("Mask", Tensor, NDArray[Any])
EIGHT = np.ones((3, 3), dtype=np.int8)


def component_boxes(mask: Mask, contours: Contours = "largest", *, backend: Backend = "auto") -> Mask:
    r"""Boxes around the 8-connected components of a mask.

    The largest component is the one with the largest polygon through the centres of its outer pixels, holes filled, not
    the one with most pixels: a line has no area. With :math:`n_3, n_4` the 2 x 2 blocks of the filled component that
    hold three and four of its pixels,

    .. math:: A = n_4 + \tfrac12 n_3

    Parameters
    ----------
    mask
        ``(H, W)`` bool, a tensor or an array.
    contours
        ``"largest"``: one box, that of the largest component; of equal ones the last in raster order of their first
        pixels. ``"all"``: a box per component and a box per hole, in ascending order. A hole is a 4-connected part of
        the background that does not reach the border of the image; its box is that of the contour around it, one pixel
        larger on every side.
    backend
        What finds the contours; the boxes are the same. ``"auto"``: OpenCV where it is installed, else SciPy.

    Returns
    -------
    Tensor or ndarray
        What the mask is; ``(n, 4)`` int64, ``[x0, y0, x_last + 1, y_last + 1]``, not clipped; n is 0 for an empty mask.

    Raises
    ------
    ValueError
        Not two axes, or a choice that is not known.
    TypeError
        Not a bool mask.
    ModuleNotFoundError
        ``backend="opencv"`` where it is not installed.

    References
    ----------
    Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.

    Examples
    --------
    >>> line_and_square = np.zeros((4, 9), dtype=bool)
    >>> line_and_square[0], line_and_square[2:4, 1:3] = True, True
    >>> component_boxes(line_and_square).tolist()
    [[1, 2, 3, 4]]
    >>> component_boxes(line_and_square, "all").tolist()
    [[0, 0, 9, 1], [1, 2, 3, 4]]
    """
    if isinstance(mask, Tensor):
        boxes = component_boxes(mask.detach().cpu().numpy(), contours, backend=backend)
        return torch.from_numpy(boxes).to(mask.device)
    found: NDArray[Any] = np.asarray(mask)
    if found.dtype != np.bool_:
        raise TypeError(f"expected a bool mask, got {found.dtype}; threshold it first")
    if found.ndim != 2:
        raise ValueError(f"expected a mask (H, W), got shape {found.shape}")
    if contours not in ("largest", "all"):
        raise ValueError(f"expected contours 'largest' or 'all', got {contours!r}")
    if backend not in ("auto", "opencv", "scipy"):
        raise ValueError(f"expected backend 'auto', 'opencv' or 'scipy', got {backend!r}")
    if not found.any():
        return np.zeros((0, 4), dtype=np.int64)
    if backend == "opencv" or (backend == "auto" and has_opencv()):
        rectangles = opencv_rectangles(found, contours)
    else:
        rectangles = scipy_rectangles(found, contours)
    found = np.array(rectangles, dtype=np.int64)
    found[:, 2:] += found[:, :2]
    return found[np.lexsort(found.T[::-1])]


@cache
def has_opencv() -> bool:
    """Whether OpenCV can be imported."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        return False
    return True


def opencv_rectangles(mask: NDArray[np.bool_], contours: Contours, origin: tuple[int, int] = (0, 0)) -> Rectangles:
    """Rectangles ``(x0, y0, width, height)`` of a mask that is not empty, in any order; see :func:`component_boxes`.

    ``origin`` is the place ``(x, y)`` of the mask's first pixel in the image that it was cut from.
    """
    import cv2

    if contours == "largest":
        return [opencv_largest(mask, origin)[0]]
    polygons, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=origin)
    return [cv2.boundingRect(polygon) for polygon in polygons]


def opencv_largest(mask: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> Largest:
    """Rectangle and area of the largest component of a mask that is not empty, and the area of the second."""
    import cv2

    # Outer contours are enough: what lies inside of another is smaller than that.
    polygons, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=origin)
    areas = [cv2.contourArea(polygon) for polygon in polygons]
    best = max(areas)
    first = areas.index(best)
    second = max(areas[:first] + areas[first + 1 :], default=0.0)
    return cv2.boundingRect(polygons[first]), best, second


def scipy_rectangles(mask: NDArray[np.bool_], contours: Contours, origin: tuple[int, int] = (0, 0)) -> Rectangles:
    """The rectangles of :func:`opencv_rectangles` without OpenCV.

    Examples
    --------
    >>> ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    >>> scipy_rectangles(ring, "all", origin=(20, 10))
    [(20, 10, 3, 3), (20, 10, 3, 3)]
    """
    labels, count = ndimage.label(mask, EIGHT)
    if contours == "largest":
        return _bounds(labels, origin) if count == 1 else [scipy_largest(mask, origin)[0]]
    # A frame around the image joins what reaches the border; its label is 1, the first in raster order.
    holes, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
    _, *inner = _bounds(holes, (origin[0] - 1, origin[1] - 1)) if count > 1 else [(0, 0, 0, 0)]
    return [*_bounds(labels, origin), *((x - 1, y - 1, width + 2, height + 2) for x, y, width, height in inner)]


def scipy_largest(mask: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> Largest:
    """The answers of :func:`opencv_largest` without OpenCV.

    Examples
    --------
    >>> scipy_largest(np.array([[1, 1, 0, 0], [1, 1, 0, 1]], bool))
    ((0, 0, 2, 2), 1.0, 0.0)
    """
    frame, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    labels, count = ndimage.label(frame[1:-1, 1:-1] != 1, EIGHT)
    corners = np.stack([labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]])
    inside = (corners > 0).sum(axis=0)
    # Three pixels of a block touch each other, so that the block is of one component.
    whose = corners.max(axis=0)
    areas = np.bincount(whose[inside > 2], weights=(inside[inside > 2] - 2) / 2, minlength=count + 1)[1:]
    equal = np.flatnonzero(areas == areas.max()) + 1
    last = max(equal.tolist(), key=lambda label: int((labels == label).argmax()))
    best, second = float(areas[last - 1]), float(np.delete(areas, last - 1).max(initial=0))
    return _bounds(labels, origin)[last - 1], best, second


def _bounds(labels: NDArray[Any], origin: tuple[int, int]) -> Rectangles:
    """Rectangles of the labels 1..n of an image."""
    left, top = origin
    return [
        (x.start + left, y.start + top, x.stop - x.start, y.stop - y.start) for y, x in ndimage.find_objects(labels)
    ]
