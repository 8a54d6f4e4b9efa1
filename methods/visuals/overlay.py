"""Labels and maps drawn over their image, so that a person sees at a glance what a mask claims."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

IGNORE = 255
GREY = np.array([128, 128, 128])
HATCH = 8
RAMP = np.array([[0, 0, 96], [0, 96, 224], [0, 208, 176], [248, 224, 0], [224, 0, 0]])
"""Colours of a map from 0 to 1: dark blue, blue, green, yellow, red."""


def voc_palette() -> Pixels:
    """The PASCAL VOC colours, ``(256, 3)``: neighbouring ids look unlike each other.

    The three lowest bits of an id are the highest bits of red, green and blue, the next three the second highest, and
    so on.

    Examples
    --------
    >>> voc_palette()[[0, 1, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    bits = (np.arange(256)[:, None] >> np.arange(9)) & 1
    weights = 128 >> (np.arange(9) // 3)
    planes = [(bits * weights)[:, channel::3].sum(axis=1) for channel in range(3)]
    return np.stack(planes, axis=1).astype(np.uint8)


def overlay(image: Pixels, labels: Pixels, palette: Pixels, alpha: float = 0.5) -> Pixels:
    """Fill classes with their colour, hatch what is unknown, and draw a thin darker line around each region.

    Parameters
    ----------
    image
        ``(H, W, 3)`` uint8 RGB; not changed.
    labels
        ``(H, W)`` uint8: 0 background (left as it is), 1..254 class, 255 unknown (grey stripes).
    palette
        ``(256, 3)`` uint8, the colour of each id.
    alpha
        Share of the colour, 0..1.

    Returns
    -------
    ndarray
        ``(H, W, 3)`` uint8.

    Raises
    ------
    ValueError
        Shapes or types that do not fit, or ``alpha`` out of range.

    Examples
    --------
    >>> labels = np.array([[0, 1, 1, 1]], np.uint8)
    >>> overlay(np.zeros((1, 4, 3), np.uint8), labels, voc_palette())[0, :, 0].tolist()
    [0, 32, 64, 64]
    """
    _check(image, labels, palette, alpha)
    colours = palette.astype(np.float64)
    colours[IGNORE] = GREY
    height, width = labels.shape
    striped = (np.arange(height)[:, None] + np.arange(width)) % HATCH < HATCH // 2
    filled = (labels > 0) & ((labels != IGNORE) | striped)
    drawn = np.where(filled[..., None], _blend(image, colours[labels], alpha), image)
    lines = _edges(labels, 1) & (labels > 0)
    drawn[lines] = _blend(image, colours[labels] / 2, alpha)[lines]
    return drawn


def outline(image: Pixels, labels: Pixels, palette: Pixels, width: int = 2) -> Pixels:
    """Draw only the contours of the classes, in full colour: for ground truth over a prediction or a plain image.

    Parameters
    ----------
    image, labels, palette
        As :func:`overlay`; what is unknown (255) gets no contour of its own.
    width
        Thickness in pixels, inside of each region, at least 1.

    Returns
    -------
    ndarray
        ``(H, W, 3)`` uint8.

    Raises
    ------
    ValueError
        Shapes or types that do not fit, or ``width`` below 1.

    Examples
    --------
    >>> labels = np.array([[0, 1, 1, 1]], np.uint8)
    >>> outline(np.zeros((1, 4, 3), np.uint8), labels, voc_palette(), width=1)[0, :, 0].tolist()
    [0, 128, 0, 0]
    """
    _check(image, labels, palette, 1.0)
    if width < 1:
        raise ValueError(f"expected a width of at least 1 pixel, got {width}")
    lines = _edges(labels, width) & (labels > 0) & (labels != IGNORE)
    drawn = image.copy()
    drawn[lines] = palette[labels[lines]]
    return drawn


def heat(scores: NDArray[Any], image: Pixels, alpha: float = 0.5) -> Pixels:
    """Blend an image with the colours of a soft map, dark blue (0) to red (1).

    Parameters
    ----------
    scores
        ``(H, W)`` floating point in [0, 1].
    image
        ``(H, W, 3)`` uint8 RGB; not changed.
    alpha
        Share of the colours, 0..1.

    Returns
    -------
    ndarray
        ``(H, W, 3)`` uint8.

    Raises
    ------
    ValueError
        Shapes that do not fit, scores outside of [0, 1] or not finite, or ``alpha`` out of range.

    Examples
    --------
    >>> heat(np.array([[0.0, 1.0]]), np.zeros((1, 2, 3), np.uint8), alpha=1.0).tolist()
    [[[0, 0, 96], [224, 0, 0]]]
    """
    _check(image, np.zeros(scores.shape, np.uint8), voc_palette(), alpha)
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"expected finite scores in 0..1, got {scores.min():g} to {scores.max():g}")
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(scores, stops, RAMP[:, channel]) for channel in range(3)], axis=-1)
    return _blend(image, colours, alpha)


def _blend(image: Pixels, colours: NDArray[np.float64], alpha: float) -> Pixels:
    return np.rint((1 - alpha) * image + alpha * colours).astype(np.uint8)


def _edges(labels: Pixels, width: int) -> NDArray[np.bool_]:
    """Pixels less than ``width`` steps (4 neighbours) from a pixel of another label; the frame is no edge."""
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    for _ in range(width - 1):
        grown = edges.copy()
        grown[:, 1:] |= edges[:, :-1]
        grown[:, :-1] |= edges[:, 1:]
        grown[1:] |= edges[:-1]
        grown[:-1] |= edges[1:]
        edges = grown
    return edges


def _check(image: Pixels, labels: Pixels, palette: Pixels, alpha: float) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if labels.dtype != np.uint8 or labels.shape != image.shape[:2]:
        raise ValueError(
            f"expected labels or scores of the image's size {image.shape[:2]} (labels uint8), "
            f"got {labels.shape} {labels.dtype}"
        )
    if palette.dtype != np.uint8 or palette.shape != (256, 3):
        raise ValueError(f"expected a palette (256, 3) uint8, got {palette.shape} {palette.dtype}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha in 0..1, got {alpha}")
