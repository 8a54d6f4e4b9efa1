"""Truncation of LT-Grad-CAM: keep the strongest positive gradients and drop the rest."""

from typing import Literal

import torch
from torch import Tensor

Population = Literal["channel", "layer"]


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
        Same shape and dtype. A population without a positive gradient becomes zeros. A NaN takes no part in the
        threshold and stays a NaN.

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
    if isinstance(percentile, bool) or not isinstance(percentile, int) or not 0 <= percentile <= 100:
        raise ValueError(f"expected percentile as an integer in 0..100, got {percentile!r}")
    if population not in ("channel", "layer"):
        raise ValueError(f"expected population 'channel' or 'layer', got {population!r}")
    if gradients.ndim != 4 or not gradients.is_floating_point():
        raise ValueError(f"expected floating gradients [P, C, h, w], got {gradients.dtype} {tuple(gradients.shape)}")
    if percentile == 0 or gradients.numel() == 0:
        return gradients.clamp(min=0)
    flat = gradients.flatten(2 if population == "channel" else 1)
    threshold = _threshold(flat, percentile)
    # Written as what to drop: a comparison with a NaN is false, so a NaN is not dropped.
    return flat.masked_fill((flat <= 0) | (flat < threshold), 0).view(gradients.shape)


def _threshold(values: Tensor, percentile: int) -> Tensor:
    """Threshold of each row's positive values along the last dimension, which stays with size 1; 0 without any."""
    positive = values > 0
    count = positive.sum(-1, keepdim=True)
    ascending = _sorted(torch.where(positive, values, 0))
    # The positive values are the last `count` of the row; without any, the last of its zeros is the threshold.
    index = values.shape[-1] - count + (percentile * (count - 1) + 99) // 100
    return ascending.gather(-1, index.clamp(max=values.shape[-1] - 1))


def _sorted(values: Tensor) -> Tensor:
    """Sort along the last dimension, in place where NumPy can: it needs neither a second copy nor 64-bit indices."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64) and not values.requires_grad:
        values.numpy().sort(axis=-1)
        return values
    return values.sort(dim=-1).values
