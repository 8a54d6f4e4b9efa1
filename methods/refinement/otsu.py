"""Otsu's threshold: split a soft map where the two sides differ most, with no number chosen by hand.

Maps are quantised to 0..255 first, as the public localisation code does, so that a threshold is one of 256 integers and
a whole batch of histograms is one bincount.
"""

import torch
from torch import Tensor

LEVELS = 256
CONSTANT = -1


def quantise(maps: Tensor) -> Tensor:
    """``floor(255 * map)`` in the map's own precision, as int64 0..255.

    Raises
    ------
    ValueError
        Values outside of [0, 1] or not finite (a NaN would become a level without a word).
    TypeError
        Maps that are not floating point.

    Examples
    --------
    >>> quantise(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0, 127, 255]
    """
    if not maps.is_floating_point():
        raise TypeError(f"expected floating point maps in 0..1, got {maps.dtype}")
    if maps.numel():
        low, high = torch.aminmax(maps)
        if not (low >= 0 and high <= 1):
            if not torch.isfinite(maps).all():
                raise ValueError("maps hold values that are not finite")
            raise ValueError(f"expected maps in 0..1, got {low.item():g} to {high.item():g}: normalise them first")
    return torch.floor(maps * 255).long()


def otsu_thresholds(maps: Tensor) -> Tensor:
    r"""Otsu's threshold of every map.

    With the levels :math:`q = \lfloor 255 m \rfloor` split into those up to t and those above, of sizes
    :math:`w_1, w_2` and means :math:`\mu_1, \mu_2`,

    .. math:: t^* = \arg\max_t \; w_1 w_2 (\mu_1 - \mu_2)^2,

    the first maximum, clamped to 1..254.

    Parameters
    ----------
    maps
        ``(P, H, W)`` floating point in [0, 1].

    Returns
    -------
    Tensor
        ``(P,)`` int64; -1 for a map whose levels are all equal. Foreground is ``q > t``, see :func:`otsu_masks`.

    Raises
    ------
    ValueError
        Not three dimensions, empty maps, values outside of [0, 1] or not finite.
    TypeError
        Maps that are not floating point.

    References
    ----------
    N. Otsu, A threshold selection method from gray-level histograms, 1979.

    Examples
    --------
    >>> otsu_thresholds(torch.tensor([[[0.1, 0.1, 0.9]], [[0.5, 0.5, 0.5]]])).tolist()
    [25, -1]
    """
    return _thresholds(_levels(maps))


def otsu_masks(maps: Tensor) -> Tensor:
    """Foreground of every map at its own threshold.

    Parameters
    ----------
    maps
        ``(P, H, W)`` floating point in [0, 1].

    Returns
    -------
    Tensor
        ``(P, H, W)`` bool, ``q > t``; nothing where the map is constant.

    Raises
    ------
    ValueError, TypeError
        As :func:`otsu_thresholds`.

    Examples
    --------
    >>> otsu_masks(torch.tensor([[[0.1, 0.1, 0.9]], [[0.5, 0.5, 0.5]]])).tolist()
    [[[False, False, True]], [[False, False, False]]]
    """
    levels = _levels(maps)
    thresholds = _thresholds(levels)
    return (levels > thresholds[:, None, None]) & (thresholds != CONSTANT)[:, None, None]


def _levels(maps: Tensor) -> Tensor:
    if maps.ndim != 3 or maps.shape[1] * maps.shape[2] == 0:
        raise ValueError(f"expected maps (P, H, W) with at least one pixel, got shape {tuple(maps.shape)}")
    return quantise(maps)


def _thresholds(levels: Tensor) -> Tensor:
    count, pixels = levels.shape[0], levels.shape[1] * levels.shape[2]
    rows = torch.arange(count, device=levels.device)[:, None]
    packed = (levels.flatten(1) + LEVELS * rows).flatten()
    histogram = torch.bincount(packed, minlength=LEVELS * count).view(count, LEVELS)
    below = histogram.cumsum(dim=1)
    total = (histogram * torch.arange(LEVELS, device=levels.device)).cumsum(dim=1)
    # w1 w2 (m1 - m2)^2 = (n s1 - w1 s)^2 / (w1 w2): the difference stays an exact integer, so equal splits stay equal
    # and the first maximum does not hang on rounding.
    difference = (pixels * total - below * total[:, -1:]).double()
    weights = (below * (pixels - below)).double()
    between = torch.where(weights > 0, difference.square() / weights, -1.0)
    best, threshold = between.max(dim=1)
    return torch.where(best > 0, threshold.clamp(1, LEVELS - 2), CONSTANT)
