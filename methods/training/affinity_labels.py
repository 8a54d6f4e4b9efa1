"""Labels of pairs of pixels: what a network that finds edges learns from.

Two pixels near each other belong together, or not, by what maps say with certainty; where an edge lies follows from
that. Pairs start at a grid of sources, from which every end lies inside of the image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from methods.refinement.certain_filter import IGNORE
from methods.refinement.checks import require_finite
from methods.refinement.random_walk import Path, paths

RADIUS = 10


class PairGridError(ValueError):
    """A grid too small for its pairs."""


class PairLabels(NamedTuple):
    """Which pairs are what, each ``[B, O, n]`` bool: O ways (see :func:`ways`), n sources.

    A pair with an ignored pixel is nothing.
    """

    background: Tensor
    """Both ends are background."""
    foreground: Tensor
    """Both ends are of one class."""
    different: Tensor
    """The ends are of two classes, or one of them background."""


def ways(radius: int = RADIUS) -> list[Path]:
    """The ways from a source to its ends, the shortest first.

    Parameters
    ----------
    radius
        Pixels less than this apart are pairs; 1 has none.

    Raises
    ------
    ValueError
        A radius below 1.

    Examples
    --------
    >>> [(way.end, len(way.places)) for way in ways(2)]
    [((0, 1), 2), ((1, 0), 2), ((1, -1), 4), ((1, 1), 4)]
    """
    if radius < 1:
        raise ValueError(f"expected a radius of at least 1, got {radius}")
    return sorted(paths(radius), key=lambda way: len(way.places))


def source_grid(height: int, width: int, radius: int = RADIUS) -> tuple[slice, slice]:
    """Rows and columns of the sources: no end below, left or right of the image.

    Raises
    ------
    PairGridError
        No source.

    Examples
    --------
    >>> source_grid(6, 9, radius=3)
    (slice(0, 4, None), slice(2, 7, None))
    """
    reach = radius - 1
    if height <= reach or width <= 2 * reach:
        raise PairGridError(
            f"expected a grid of at least {reach + 1} x {2 * reach + 1} for pairs within radius {radius}, "
            f"got {height} x {width}: enlarge the images or choose a smaller radius"
        )
    return slice(0, height - reach), slice(reach, width - reach)


def pair_indices(height: int, width: int, radius: int = RADIUS) -> tuple[Tensor, Tensor]:
    """Where the pairs are in a flattened grid.

    Returns
    -------
    tuple of Tensor
        Sources ``[n]`` and ends ``[O, n]``, int64.

    Raises
    ------
    PairGridError
        A grid without a source.

    Examples
    --------
    >>> sources, ends = pair_indices(2, 3, radius=2)
    >>> sources.tolist(), ends.tolist()
    ([1], [[2], [4], [3], [5]])
    """
    rows, columns = source_grid(height, width, radius)
    sources = torch.arange(height * width).view(height, width)[rows, columns].flatten()
    offsets = torch.tensor([y * width + x for y, x in (way.end for way in ways(radius))], dtype=torch.int64)
    return sources, sources + offsets[:, None]


def pair_labels(labels: Tensor, radius: int = RADIUS) -> PairLabels:
    """Label the pairs of label maps.

    Parameters
    ----------
    labels
        ``[B, h, w]`` uint8 or int64 at the size of the edges: 0 background, 1..254 class, 255 ignore.
    radius
        Pixels less than this apart are pairs.

    Raises
    ------
    PairGridError
        A grid without a source.
    ValueError
        Another shape.

    References
    ----------
    Ahn et al., Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations, CVPR 2019.

    Examples
    --------
    >>> pairs = pair_labels(torch.tensor([[[0, 1, 1], [255, 0, 1]]]), radius=2)
    >>> pairs.foreground.flatten().tolist(), pairs.different.flatten().tolist()
    ([True, False, False, True], [False, True, False, False])
    """
    if labels.ndim != 3:
        raise ValueError(f"expected labels [B, h, w], got shape {tuple(labels.shape)}")
    _, height, width = labels.shape
    sources, ends = (one.to(labels.device) for one in pair_indices(height, width, radius))
    flat = labels.flatten(1)
    start, end = flat[:, None, sources], flat[:, ends]
    known = (start != IGNORE) & (end != IGNORE)
    same = (start == end) & known
    return PairLabels(same & (start == 0), same & (start != 0), known & ~same)


def label_maps(maps: Tensor, threshold: float) -> Tensor:
    """Class of every pixel, background where no class exceeds a threshold.

    Parameters
    ----------
    maps
        ``[B, K, H, W]`` floating point, absent classes 0, 1 to 254 classes.
    threshold
        0.40 for what is surely foreground, 0.10 for what is surely background.

    Returns
    -------
    Tensor
        ``[B, H, W]`` uint8: 0 background, 1..K class. Equal scores: the first.

    Raises
    ------
    ValueError
        Another shape, or maps that are not finite.

    Examples
    --------
    >>> label_maps(torch.tensor([[[[0.3, 0.6]], [[0.2, 0.7]]]]), 0.4).tolist()
    [[[0, 2]]]
    """
    if maps.ndim != 4 or not 0 < maps.shape[1] < IGNORE:
        raise ValueError(f"expected maps [B, K, H, W] with 1 to 254 classes, got shape {tuple(maps.shape)}")
    require_finite(maps, "maps")
    strongest, label = maps.max(dim=1)
    return torch.where(strongest > threshold, label + 1, 0).to(torch.uint8)


def join_labels(foreground: Tensor, background: Tensor) -> Tensor:
    """Labels that are certain, of two label maps: one that is strict about foreground, one about background.

    Parameters
    ----------
    foreground
        :func:`label_maps` by the high threshold, best cleaned by
        :func:`~methods.refinement.dense_crf.dense_crf`; any shape, uint8.
    background
        The same by the low threshold.

    Returns
    -------
    Tensor
        Same shape, uint8: the class in ``foreground``; 0 where both are background; elsewhere 255.

    Raises
    ------
    ValueError
        Shapes differ.

    Examples
    --------
    >>> join_labels(torch.tensor([2, 0, 0, 1]), torch.tensor([2, 2, 0, 0])).tolist()
    [2, 255, 0, 1]
    """
    if foreground.shape != background.shape:
        raise ValueError(f"expected labels of one shape, got {tuple(foreground.shape)} and {tuple(background.shape)}")
    nothing = torch.where(background == 0, 0, IGNORE)
    return torch.where(foreground != 0, foreground, nothing).to(torch.uint8)
