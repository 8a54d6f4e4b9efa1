"""Truncation of LT-Grad-CAM: keep the strongest positive gradients and drop the rest."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Population = Literal["channel", "layer"]
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def truncate(gradients: Tensor, percentile: int, population: Population = "channel") -> Tensor:
    r"""Set gradients that are not positive, or below a percentile of the positive ones, to zero.

    With the n positive values of a population sorted as :math:`p_0 \le \dots \le p_{n-1}`, the threshold is
    :math:`t = p_{\lceil \delta (n-1) / 100 \rceil}`, and :math:`g' = g \cdot [g > 0 \wedge g \ge t]`. The index is
    computed with integers, which keeps the same set as linear interpolation without its rounding.

    Parameters
    ----------
    gradients
        ``[P, C, h, w]``.
    percentile
        :math:`\delta`, an integer in 0..100. 0 keeps every positive gradient.
    population
        ``channel``: every channel of every pair has its own threshold. ``layer``: all channels of a pair share one.

    Returns
    -------
    Tensor
        Same shape, dtype and memory format. A population without a positive gradient becomes zeros. A NaN takes no
        part in the threshold and stays a NaN.

    Raises
    ------
    ValueError
        A percentile that is not an integer in 0..100, an unknown population, or a shape that is not ``[P, C, h, w]``.

    Notes
    -----
    Where the head is a mean over space and a linear layer, the last stage has one gradient value per channel:
    truncation by channel keeps all of a positive channel there, whatever the percentile.

    References
    ----------
    LTGrad-CAM, equations 9 to 11, with ``>=`` throughout.

    Examples
    --------
    >>> truncate(torch.tensor([[[[-1.0, 1.0, 2.0, 3.0, 4.0]]]]), 50).tolist()
    [[[[0.0, 0.0, 0.0, 3.0, 4.0]]]]
    """
    check_truncation(percentile, population)
    if gradients.ndim != 4 or not gradients.is_floating_point():
        raise ValueError(f"expected floating gradients [P, C, h, w], got {gradients.dtype} {tuple(gradients.shape)}")
    positive = gradients.clamp(min=0)
    if percentile == 0 or gradients.numel() == 0:
        return positive
    (cut,) = thresholds(gradients, [percentile], population)
    return keep_from(positive, cut[:, :, None, None])


def check_truncation(percentile: int, population: str) -> None:
    """Refuse a percentile that is not an integer in 0..100, and an unknown population."""
    if isinstance(percentile, bool) or not isinstance(percentile, int) or not 0 <= percentile <= 100:
        raise ValueError(f"expected percentile as an integer in 0..100, got {percentile!r}")
    if population not in ("channel", "layer"):
        raise ValueError(f"expected population 'channel' or 'layer', got {population!r}")


def keep_from(positive: Tensor, cut: Tensor) -> Tensor:
    """Values of at least ``cut``, zeros below; a NaN stays. Takes values that are not negative.

    A comparison written as 0 and 1 and one multiplication: ``where`` and ``masked_fill`` take twenty times as long.
    """
    if torch.compiler.is_compiling():
        return torch.where(positive < cut, 0, positive)
    return torch.ge(positive, cut, out=torch.empty_like(positive)).mul_(positive)


def thresholds(gradients: Tensor, percentiles: Sequence[int], population: Population) -> Tensor:
    """Thresholds of :func:`truncate` for several percentiles from one sort.

    Parameters
    ----------
    gradients
        ``[P, C, h, w]``, not empty, in any memory format.
    percentiles, population
        D percentiles, of one population.

    Returns
    -------
    Tensor
        ``[D, P, C]`` (``[D, P, 1]`` for the population ``layer``), positive, in the gradients' dtype; infinite where a
        population has no positive value.

    Examples
    --------
    >>> thresholds(torch.tensor([[[[-1.0, 1.0, 2.0, 3.0, 4.0]]]]), [0, 50, 90], "channel").flatten().tolist()
    [1.0, 3.0, 4.0]
    """
    infinity = torch.full((), torch.inf, dtype=gradients.dtype, device=gradients.device)
    ascending = _sorted(_keys(gradients.detach(), population))
    bounds = torch.stack([torch.zeros_like(infinity), infinity]).view(ascending.dtype).repeat(*ascending.shape[:2], 1)
    # A NaN's key lies behind that of infinity, so the positive values are what lies between the two bounds.
    first, end = torch.searchsorted(ascending, bounds, right=True).unbind(-1)
    last = end - first - 1
    steps = torch.tensor(percentiles, device=gradients.device)[:, None, None]
    places = (first + (steps * last + 99) // 100).clamp(max=ascending.shape[-1] - 1)
    found = ascending.gather(-1, places.permute(1, 2, 0)).view(gradients.dtype).permute(2, 0, 1)
    return torch.where(last < 0, infinity, found).contiguous()


def _keys(gradients: Tensor, population: Population) -> Tensor:
    """Integers in the order of the positive values, zeros for all others, ``[P, rows, n]``, in memory of their own.

    Floating numbers above zero order as the integers with their bits do, which sort faster, above all in half
    precision; a sign bit makes a negative integer.
    """
    pairs, channels = gradients.shape[:2]
    last = gradients.is_contiguous(memory_format=torch.channels_last) and not gradients.is_contiguous()
    dense = gradients.permute(0, 2, 3, 1) if last else gradients.contiguous()
    keys = dense.view(_INTEGERS[gradients.element_size()]).clamp(min=0)
    if population == "layer":
        return keys.view(pairs, 1, -1)
    if not last:
        return keys.view(pairs, channels, -1)
    rows = keys.new_empty(pairs, channels, keys.shape[1] * keys.shape[2])
    # Pair by pair: two-dimensional transposition has a path of its own, five times as fast.
    for target, source in zip(rows, keys.view(pairs, -1, channels), strict=True):
        target.copy_(source.t())
    return rows


def _sorted(keys: Tensor) -> Tensor:
    """Sort along the last dimension, in place where NumPy can: fifty times as fast as torch on one core."""
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=-1)
        return keys
    return keys.sort(dim=-1).values
