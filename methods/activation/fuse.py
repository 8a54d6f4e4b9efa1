"""Bring maps of several layers to one size and into one map."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from methods.activation.enlarge import enlarge
from methods.activation.inputs import at_least_float32

Fusion = Literal["sum", "mean_norm", "max_tanh"]
MEAN_NORM_EPSILON = 1e-7


def min_max(maps: Tensor, eps: float = 0.0) -> Tensor:
    r"""Stretch each map to 0..1: :math:`(x - \min x) / (\max x - \min x + \epsilon)`.

    Parameters
    ----------
    maps
        ``[P, ...]``; extrema are taken over everything but the first dimension.
    eps
        Added to the divisor only.

    Returns
    -------
    Tensor
        Same shape. A constant map gives zeros: it must never produce seeds. A map with a NaN gives NaN everywhere, one
        with an infinity gives at least one NaN: what is not finite stays visible.

    Raises
    ------
    ValueError
        A negative ``eps``, or values that are not floating.

    Examples
    --------
    >>> min_max(torch.tensor([[[1.0, 2.0, 3.0]], [[5.0, 5.0, 5.0]]])).tolist()
    [[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]
    """
    if not eps >= 0:
        raise ValueError(f"expected eps >= 0, got {eps}")
    maps = at_least_float32(maps)
    if maps.numel() == 0:
        return maps.clone()
    low, high = maps.flatten(1).aminmax(dim=1)
    shape = (-1, *[1] * (maps.ndim - 1))
    extent = (high - low).view(shape)
    # A constant map has only zeros above the line, so any divisor but zero gives zeros; a NaN extent stays as it is.
    return (maps - low.view(shape)).div_(torch.where(extent + eps == 0, 1, extent + eps))


def fuse(maps: Sequence[Tensor], size: int | tuple[int, int], mode: Fusion = "sum") -> Tensor:
    """Fuse the maps of several layers at one size, enlarging bilinearly (corners not aligned).

    Parameters
    ----------
    maps
        One ``[P, h, w]`` per layer, with sizes of their own.
    size
        ``(H, W)`` of the result, or one number for a square.
    mode
        ``sum``: the enlarged maps added as they are (LTGrad-CAM, equation 8). ``mean_norm``: each map rectified,
        brought to 0..1 and enlarged, their mean brought to 0..1 again. ``max_tanh``: each map brought to 0..1,
        ``tanh(2 map)``, enlarged, then the largest at each pixel.

    Returns
    -------
    Tensor
        ``[P, H, W]``, normalised only by ``mean_norm``. A NaN in any layer stays visible.

    Raises
    ------
    ValueError
        No map, maps that are not ``[P, h, w]`` with one P, an empty size or an unknown mode.

    References
    ----------
    LTGrad-CAM; Jiang et al., LayerCAM, TIP 2021.

    Examples
    --------
    >>> fuse([torch.ones(1, 2, 2), torch.ones(1, 1, 1)], 2).tolist()
    [[[2.0, 2.0], [2.0, 2.0]]]
    """
    if isinstance(size, int):
        size = (size, size)
    if not maps or any(layer.ndim != 3 or len(layer) != len(maps[0]) for layer in maps):
        raise ValueError(f"expected one [P, h, w] per layer with one P, got {[tuple(layer.shape) for layer in maps]}")
    if mode not in ("sum", "mean_norm", "max_tanh"):
        raise ValueError(f"expected mode 'sum', 'mean_norm' or 'max_tanh', got {mode!r}")

    fused = enlarge(_prepare(maps[0], mode), size)
    for layer in maps[1:]:
        enlarged = enlarge(_prepare(layer, mode), size)
        fused = torch.maximum(fused, enlarged) if mode == "max_tanh" else fused + enlarged
    return min_max(fused / len(maps), MEAN_NORM_EPSILON) if mode == "mean_norm" else fused


def _prepare(layer: Tensor, mode: Fusion) -> Tensor:
    if mode == "mean_norm":
        return min_max(layer.clamp(min=0), MEAN_NORM_EPSILON)
    return torch.tanh(2 * min_max(layer)) if mode == "max_tanh" else at_least_float32(layer)
