"""Boxes of localization metrics: brought to the scale of the score maps, and compared with each other.

A box is ``[x0, y0, x1, y1]`` in pixels and both of its corners belong to it: its sides are ``x1 - x0 + 1`` and
``y1 - y0 + 1``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Array, Floats, as_array

Boxes = NDArray[np.int64]


def as_boxes(values: Array, name: str) -> NDArray[Any]:
    """Boxes ``(n, 4)`` with corners in order.

    Raises
    ------
    ValueError
        Another shape, coordinates that are not finite, or corners out of order.

    Examples
    --------
    >>> as_boxes(np.array([[0, 0, 2, 3]]), "true").shape
    (1, 4)
    """
    boxes = as_array(values)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"expected {name} boxes (n, 4), got shape {boxes.shape}")
    wrong = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)))
    if len(wrong):
        raise ValueError(f"expected {name} boxes [x0, y0, x1, y1] with x0 <= x1, y0 <= y1, got {boxes[wrong[0]]}")
    return boxes


def scale_boxes(boxes: Array, size: tuple[int, int], to: int = 224) -> Boxes:
    """Boxes of an image in the coordinates of its square score map, truncated towards 0.

    Parameters
    ----------
    boxes
        ``(n, 4)`` integers in the image's pixels.
    size
        Height and width of the image, ``(H, W)``.
    to
        Side of the score map.

    Returns
    -------
    ndarray
        ``(n, 4)`` int64.

    Raises
    ------
    ValueError
        Boxes as :func:`as_boxes` refuses them, or a size below 1.
    TypeError
        Coordinates that are not integers.

    References
    ----------
    Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.

    Examples
    --------
    >>> scale_boxes(np.array([[10, 0, 99, 49]]), (50, 100)).tolist()
    [[22, 0, 221, 219]]
    """
    found = as_boxes(boxes, "true")
    if not np.issubdtype(found.dtype, np.integer):
        raise TypeError(f"expected integer coordinates, got {found.dtype}")
    if min(*size, to) < 1:
        raise ValueError(f"expected sizes of at least 1, got {size} to {to}")
    height, width = size
    scaled = found.astype(np.int64) * to
    # Truncated, not floored: a box may begin left of the image.
    truncated: Boxes = np.sign(scaled) * (np.abs(scaled) // np.array([width, height, width, height]))
    return truncated


def overlaps(boxes: Array, others: Array) -> tuple[Floats, Floats, Floats]:
    """Intersections and areas of every pair of boxes.

    Returns
    -------
    tuple
        Intersections ``(n, m)``, areas of the boxes ``(n, 1)``, areas of the others ``(1, m)``, float64.

    Raises
    ------
    ValueError
        As :func:`as_boxes`.

    Examples
    --------
    >>> [one.tolist() for one in overlaps(np.array([[0, 0, 1, 1]]), np.array([[1, 1, 3, 1], [2, 2, 2, 2]]))]
    [[[1.0, 0.0]], [[4.0]], [[3.0, 1.0]]]
    """
    one = as_boxes(boxes, "predicted").astype(np.float64)[:, None]
    two = as_boxes(others, "true").astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]) + 1
    inside = np.maximum(sides, 0).prod(axis=-1)
    return inside, (one[..., 2:] - one[..., :2] + 1).prod(axis=-1), (two[..., 2:] - two[..., :2] + 1).prod(axis=-1)


def box_iou(boxes: Array, others: Array) -> Floats:
    r"""Intersection over union of every pair of boxes, corners included.

    Parameters
    ----------
    boxes, others
        ``(n, 4)`` and ``(m, 4)``.

    Returns
    -------
    ndarray
        ``(n, m)`` float64 in [0, 1].

    Raises
    ------
    ValueError
        As :func:`as_boxes`.

    Examples
    --------
    >>> box_iou(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 3], [5, 5, 6, 6]])).tolist()
    [[0.5, 0.0]]
    """
    inside, area, other = overlaps(boxes, others)
    return inside / (area + other - inside)
