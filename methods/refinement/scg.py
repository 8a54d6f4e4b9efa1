"""Self-correlation map generator (SCG): spread maps over all that resembles their sure places."""

import torch
from torch import Tensor

from methods.refinement.checks import require_finite

EPSILON = 1e-10


def scg(maps: Tensor, correlation: Tensor, *, foreground: float, background: float, strict: bool = False) -> Tensor:
    r"""Maps made of the correlations of each map's sure places.

    The columns of the correlation that belong to places with a value of at least :math:`\delta_h`, each min-max
    normalised, are summed and the sum min-max normalised: :math:`K_P`; likewise :math:`K_Q` of the places with at most
    :math:`\delta_l`. The new map is :math:`\mathrm{ReLU}(K_P - K_Q)`, min-max normalised.

    Parameters
    ----------
    maps
        ``[B, K, h, w]`` in 0..1 on the grid of the correlation.
    correlation
        ``[B, N, N]``, N = h w, as :func:`methods.refinement.self_correlation` makes it, perhaps summed over levels.
    foreground, background
        :math:`\delta_h` and :math:`\delta_l`: .1 and .05 (SPA), .3 and .05 (RecurSeed).
    strict
        Take places above and below these values only, not at them, as the slides have it.

    Returns
    -------
    Tensor
        ``[B, K, h, w]`` float32 in 0..1; zeros where no place is sure foreground.

    Raises
    ------
    ValueError
        Shapes that do not agree, or values that are not finite.

    References
    ----------
    Pan et al., CVPR 2021 (SPA); Jo et al., RecurSeed and EdgePredictMix, 2022.

    Examples
    --------
    >>> scg(torch.tensor([[[[1.0, 0.2, 0.0]]]]), torch.eye(3)[None], foreground=.3, background=.05).tolist()
    [[[[1.0, 0.0, 0.0]]]]
    """
    if maps.ndim != 4 or correlation.ndim != 3:
        raise ValueError(
            f"expected maps [B, K, h, w] and correlation [B, N, N], got {tuple(maps.shape)}, {tuple(correlation.shape)}"
        )
    batch, _, height, width = maps.shape
    if correlation.shape != (batch, height * width, height * width):
        raise ValueError(
            f"expected correlation [B, N, N] with B={batch}, N={height * width} for maps {tuple(maps.shape)}, got "
            f"{tuple(correlation.shape)}"
        )
    require_finite(maps, "maps")
    require_finite(correlation, "correlations")
    flat, correlation = maps.flatten(2).to(torch.float32), correlation.to(torch.float32)
    sure = flat > foreground if strict else flat >= foreground
    none = flat < background if strict else flat <= background
    low, high = correlation.amin(1), correlation.amax(1)
    spread = [_stretched(_sums(correlation, part, low, high)) for part in (sure, none)]
    return _stretched((spread[0] - spread[1]).clamp_(min=0)).view(maps.shape)


def _sums(correlation: Tensor, chosen: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Sums ``[B, K, N]`` of the chosen columns, each stretched to 0..1, without a copy of the matrix.

    Stretching a column is a factor and a shift. The shifts add up to one number per map, which min-max takes off again.
    """
    span = high - low
    weights = chosen / (span + EPSILON).masked_fill(span == 0, torch.inf)[:, None]
    return (weights @ correlation.transpose(1, 2)) * chosen.any(2, keepdim=True)


def _stretched(maps: Tensor) -> Tensor:
    low = maps.amin(2, keepdim=True)
    return (maps - low) / (maps.amax(2, keepdim=True) - low + EPSILON)
