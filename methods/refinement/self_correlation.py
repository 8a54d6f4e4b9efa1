"""Self-correlation of features: how alike places of a feature map are, directly and by way of third places."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import threshold

from methods.refinement.checks import require_finite
from methods.refinement.correlation_in_place import Orders, correlate_in_place

NORM_EPSILON = SUM_EPSILON = 1e-10
CACHE_BYTES = 2**22
"""Images whose matrices are together no larger than this are done at once; a larger matrix in blocks of columns."""


@dataclass(frozen=True, slots=True)
class ScgConstants:
    """Published constants of self-correlation and of the maps made from it.

    ``foreground`` and ``background`` are what :func:`methods.refinement.scg` takes, the rest is for
    :func:`self_correlation`. ``slides`` are RecurSeed's with the formulas of its slides: rows of the second order are
    min-max normalised, levels averaged.
    """

    first_threshold: float
    second_threshold: float
    second_weight: float
    epsilon: float
    foreground: float
    background: float
    slides: bool = False


SPA_CUB = ScgConstants(0.1, 0.5, 2.0, 1e-5, 0.10, 0.05)
SPA_ILSVRC = ScgConstants(0.2, 0.2, 1.0, 1e-5, 0.10, 0.05)
RECURSEED = ScgConstants(0.5, 0.1, 1.0, 1e-10, 0.30, 0.05)
SLIDES = ScgConstants(0.5, 0.1, 1.0, 1e-10, 0.30, 0.05, slides=True)


def self_correlation(
    features: Tensor,
    *,
    first_threshold: float,
    second_threshold: float,
    second_weight: float,
    order: int = 2,
    epsilon: float,
    slides: bool = False,
    block: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Correlation of every place with every other, first and higher order in one matrix.

    With unit features :math:`\hat f`, :math:`S = \max(0, \hat f^T \hat f)` without entries below the first threshold,
    and :math:`T` its columns normalised without the diagonal,

    .. math:: H = \max(\mathrm{cols}(S),\; \beta\,[\mathrm{cols}(T^{o}) \ge \theta_2 / N]\,\mathrm{cols}(T^{o})),

    columns normalised to a sum of 1 once more.

    Parameters
    ----------
    features
        ``[B, C, h, w]``; computed in float32, half precision breaks the small guards.
    first_threshold, second_threshold
        :math:`\theta_1` on cosine similarities, :math:`\theta_2` as a multiple of 1 / N, N = h w.
    second_weight
        :math:`\beta` of the higher order.
    order
        :math:`o`, 2 in all publications.
    epsilon
        Added to the column sums of S and T: 1e-5 (SPA) or 1e-10 (RecurSeed).
    slides
        Min-max normalise each row of the higher order instead, and neither threshold nor column-normalise it.
    block
        Columns at a time; default: all of a small matrix, a twentieth of a large one. Does not change the result beyond
        rounding.
    out
        ``[B, N, N]`` float32 to add the result to: a sum over levels needs no room for each.

    Returns
    -------
    Tensor
        ``[B, N, N]`` float32, entry (i, j): how much place i belongs to place j. Beside large ones of second order only
        blocks of .1 are held, and one image's matrix with ``out``; for other orders and ``slides`` a matrix and .15.

    Raises
    ------
    ValueError
        Another shape, features that are not finite, ``order`` below 1.

    References
    ----------
    Pan et al., Unveiling the Potential of Structure Preserving for Weakly Supervised Object Localization (SPA), CVPR
    2021; Jo et al., RecurSeed and EdgePredictMix, 2022.

    Examples
    --------
    >>> found = self_correlation(torch.rand(1, 8, 2, 3), first_threshold=.5, second_threshold=.1, second_weight=1.,
    ...                          epsilon=1e-10)
    >>> found.shape, bool((found.sum(1) - 1).abs().max() < 1e-5)
    (torch.Size([1, 6, 6]), True)
    """
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(f"expected floating features [B, C, h, w], got {features.dtype} {tuple(features.shape)}")
    if order < 1:
        raise ValueError(f"expected an order of at least 1, got {order}")
    require_finite(features, "features")
    batch, places = len(features), features.shape[2] * features.shape[3]
    found = features.new_zeros(batch, places, places, dtype=torch.float32) if out is None else out
    step = block or _columns(places)
    images = max(1, CACHE_BYTES // max(1, 4 * places * places))
    for start in range(0, batch, images):
        part = slice(start, start + images)
        flat = features[part].flatten(2).to(torch.float32)
        flat = flat / (flat.norm(dim=1, keepdim=True) + NORM_EPSILON)
        if step < places and order == 2 and not slides:
            cuts = _below(first_threshold) if first_threshold > 0 else 0.0, _below(second_threshold / places)
            orders = Orders(*cuts, second_weight, epsilon, SUM_EPSILON)
            for image, one in zip(flat, found[part], strict=True):
                target = one if out is None else torch.empty_like(one)
                correlate_in_place(image, orders, step, target)
                if out is not None:
                    one += target
            continue
        # In one block the similarities are computed once; in several, twice, for lack of room to keep them.
        whole = _similarity(flat, slice(0, places), first_threshold) if step >= places else None
        transfer = (
            _transfer(flat, first_threshold, epsilon, step) if whole is None else _chained(whole.clone(), epsilon)
        )
        scales = _scales(transfer, order)
        extremes = _row_extremes(transfer, scales, step) if slides else None
        for left in range(0, places, step):
            columns = slice(left, left + step)
            joint = _power(transfer, columns, scales)
            if extremes is not None:
                joint = joint.sub_(extremes[0]).div_(extremes[1] - extremes[0] + SUM_EPSILON)
            elif scales is not None:
                joint = joint.div_(joint.sum(1, keepdim=True) + SUM_EPSILON)
            if not slides:
                joint = threshold(joint, _below(second_threshold / places), 0.0, inplace=True)
            first = _similarity(flat, columns, first_threshold) if whole is None else whole
            first.div_(first.sum(1, keepdim=True) + epsilon)
            torch.maximum(first, joint.mul_(second_weight), out=joint)
            found[part, :, columns] += joint.div_(joint.sum(1, keepdim=True) + SUM_EPSILON)
    return found


def _columns(places: int) -> int:
    """Columns at a time: all of a small matrix, a twentieth of a large one."""
    return places if 4 * places * places <= CACHE_BYTES else max(1, places // 20)


def _below(least: float) -> float:
    """The largest float32 below a value, for comparisons that keep what is equal."""
    return float(torch.nextafter(torch.tensor(least, dtype=torch.float32), torch.tensor(-torch.inf)))


def correlate_levels(levels: Sequence[Tensor], constants: ScgConstants, *, order: int = 2) -> Tensor:
    """Sum of the self-correlations of several feature levels ``[B, C, h, w]`` on one grid, ``[B, N, N]``.

    Raises
    ------
    ValueError
        No level, or levels on different grids.
    """
    grids = {tuple(level.shape[-2:]) for level in levels}
    if len(grids) != 1:
        raise ValueError(f"expected at least one level, all on one grid, got grids {sorted(grids)}")
    total: Tensor | None = None
    for level in levels:
        total = self_correlation(
            level,
            first_threshold=constants.first_threshold,
            second_threshold=constants.second_threshold,
            second_weight=constants.second_weight,
            order=order,
            epsilon=constants.epsilon,
            slides=constants.slides,
            out=total,
        )
    assert total is not None
    return total


def _similarity(flat: Tensor, columns: slice, least: float) -> Tensor:
    """Cosine similarities ``[B, N, n]`` of all places to some, those below the least 0."""
    found = flat.transpose(1, 2) @ flat[:, :, columns]
    return threshold(found, _below(least) if least > 0 else 0.0, 0.0, inplace=True)


def _transfer(flat: Tensor, least: float, epsilon: float, step: int) -> Tensor:
    """Similarities without the diagonal, columns normalised, ``[B, N, N]``."""
    batch, _, places = flat.shape
    found = flat.new_empty(batch, places, places)
    for start in range(0, places, step):
        columns = slice(start, start + step)
        found[:, :, columns] = _chained(_similarity(flat, columns, least), epsilon, start)
    return found


def _chained(similarity: Tensor, epsilon: float, start: int = 0) -> Tensor:
    """Columns from ``start`` without their diagonal entry, normalised, in place."""
    similarity.diagonal(-start, 1, 2).zero_()
    return similarity.div_(similarity.sum(1, keepdim=True) + epsilon)


def _scales(transfer: Tensor, order: int) -> list[Tensor] | None:
    """Factors ``[B, N, 1]`` that normalise the columns of each power below the highest; None for the first power."""
    if order == 1:
        return None
    sums = transfer.sum(1, keepdim=True)
    scales = []
    for _ in range(order - 2):
        sums = sums @ transfer
        scale = 1 / (sums + SUM_EPSILON)
        scales.append(scale.transpose(1, 2))
        sums = sums * scale
    return scales


def _power(transfer: Tensor, columns: slice, scales: list[Tensor] | None) -> Tensor:
    """Columns of the power of the transfer matrix, multiplied from right to left so that only a block is held."""
    found = transfer[:, :, columns]
    if scales is None:
        return found.clone()
    for scale in reversed(scales):
        found = transfer @ (scale * found)
    return transfer @ found


def _row_extremes(transfer: Tensor, scales: list[Tensor] | None, step: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest value ``[B, N, 1]`` of each row of the power."""
    seen = []
    for start in range(0, transfer.shape[2], step):
        part = _power(transfer, slice(start, start + step), scales)
        seen.append((part.amin(2), part.amax(2)))
    lows, highs = zip(*seen, strict=True)
    return torch.stack(lows).amin(0)[:, :, None], torch.stack(highs).amax(0)[:, :, None]
