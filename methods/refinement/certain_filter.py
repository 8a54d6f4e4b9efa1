"""Certain filter: soft class maps to labels, leaving doubtful pixels out.

RecurSeed turns its refined maps into training labels only where they are clear: a pixel whose strongest class exceeds
an upper bound takes that class, one below a lower bound is background, and everything between is ignored.
"""

import torch
from torch import Tensor

from methods.refinement.checks import require_finite

IGNORE = 255


def certain_filter(maps: Tensor, *, foreground: float = 0.55, background: float = 0.10) -> Tensor:
    r"""Label the pixels whose strongest class is certain.

    .. math:: y_p = 1 + \arg\max_c M_{c,p} \;\text{ if }\; m_p > \delta_{fg}, \quad 0 \;\text{ if }\; m_p < \delta_{bg},
        \quad 255 \;\text{ otherwise,} \qquad m_p = \max_c M_{c,p}

    Parameters
    ----------
    maps
        Scores of the foreground classes, ``[B, K, H, W]`` floating point, usually in 0..1. Absent classes are 0.
    foreground, background
        Upper and lower bound, ``0 <= background <= foreground <= 1``, compared in the precision of the maps. Both
        comparisons are strict.

    Returns
    -------
    Tensor
        Labels, ``[B, H, W]`` uint8: 0 background, 1..K class, 255 ignore. Equal scores: the first class.

    Raises
    ------
    ValueError
        Bounds out of order, no class or more than 254, or maps that are not finite (a NaN would win the maximum).
    TypeError
        Maps that are not floating point.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022: the certain filter CF.

    Examples
    --------
    >>> certain_filter(torch.tensor([[[[0.9, 0.3, 0.05]]]])).tolist()
    [[[1, 255, 0]]]
    """
    if not 0 <= background <= foreground <= 1:
        raise ValueError(
            f"expected 0 <= background <= foreground <= 1, got background={background}, foreground={foreground}"
        )
    if maps.ndim != 4 or not 0 < maps.shape[1] < IGNORE:
        raise ValueError(f"expected maps [B, K, H, W] with 1 to 254 classes, got shape {tuple(maps.shape)}")
    if not maps.is_floating_point():
        raise TypeError(f"expected floating point maps, got {maps.dtype}")
    require_finite(maps, "maps")

    strongest, label = maps.max(dim=1)
    labels = (label + 1).to(torch.uint8)
    labels[strongest <= foreground] = IGNORE
    labels[strongest < background] = 0
    return labels
