"""Enlarge maps to an image's size."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def enlarge(maps: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bilinear resize of maps, exact where a map is constant.

    Interpolation of a constant wavers in its last digit, which a min-max behind it would stretch to 0..1: a map
    without any content would produce seeds.

    Parameters
    ----------
    maps
        ``[P, h, w]``, floating.
    size
        ``(H, W)``.
    align_corners
        Whether the outermost pixels' centres, rather than their outer edges, stay at the border.

    Returns
    -------
    Tensor
        ``[P, H, W]``.

    Examples
    --------
    >>> enlarge(torch.tensor([[[0.0, 4.0]], [[0.3, 0.3]]]), (1, 3), align_corners=True).tolist()[0]
    [[0.0, 2.0, 4.0]]
    """
    if maps.ndim != 3 or min(size) < 1:
        raise ValueError(f"expected maps [P, h, w] and a size of at least 1 pixel, got {tuple(maps.shape)} and {size}")
    if len(maps) == 0:
        return maps.new_empty((0, *size))
    larger = interpolate(maps[:, None], size=size, mode="bilinear", align_corners=align_corners)[:, 0]
    low, high = maps.flatten(1).aminmax(dim=1)
    return torch.where((low == high)[:, None, None], low[:, None, None], larger)
