"""Bootstrap: how far a number would move if other images had been drawn.

Pixels of an image are alike, images are not: what is drawn again are images, with their counts. A drawn set is a row of
weights, so that the counts of all sets are one matrix product and the statistic is computed on all of them at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Array, Floats, as_array, mean_defined, ratio

BLOCK = 4_000_000  # weights at a time, 32 MB


class Interval(NamedTuple):
    """A number of all images, and the bounds between which it lies for other draws of images; NaN where undefined."""

    value: Any
    low: Any
    high: Any


def bootstrap_interval(
    counts: Array,
    statistic: Callable[[Floats], Floats],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of counts that are summed over images.

    Parameters
    ----------
    counts
        ``(N, ...)``, per image integers (or numbers to be averaged, see :func:`mean_ratio`).
    statistic
        From sums ``(R, ...)`` of R drawn sets to ``(R,)`` or ``(R, M)`` numbers, NaN where undefined:
        :func:`pooled_iou`, :func:`mean_iou`, :func:`mean_ratio`.
    resamples
        Number of drawn sets, N images each, with replacement.
    level
        Share of the sets inside of the interval, in (0, 1).
    seed
        Of the draws; equal seeds give equal intervals, and sets drawn with equal N and seed are the same images, so
        that methods can be compared set by set.

    Returns
    -------
    Interval
        ``value`` of all images, ``low`` and ``high``: floats, or ``(M,)``. Sets for which the number is not defined are
        left out.

    Raises
    ------
    ValueError
        No image, counts that are not finite, parameters out of range, or a statistic of another shape.

    References
    ----------
    Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.

    Examples
    --------
    >>> found = bootstrap_interval(np.array([[3, 4], [1, 4], [2, 4], [2, 4]]), mean_ratio)
    >>> found.value, bool(found.low < 0.5 < found.high)
    (0.5, True)
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"expected at least one resample and a level in (0, 1), got {resamples} and {level}")
    found = as_array(counts)
    if found.ndim < 1 or not len(found):
        raise ValueError(f"expected counts (N, ...) of at least one image, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("expected finite counts; leave out images for which they are not defined")
    images, shape = len(found), found.shape[1:]
    flat = found.reshape(images, -1).astype(np.float64)
    sums = np.concatenate([weights @ flat for weights in _weights(images, resamples, seed)]).reshape(-1, *shape)
    value, drawn = _apply(statistic, found.astype(np.float64).sum(axis=0)[None])[0], _apply(statistic, sums)
    low, high = _quantiles(drawn, (1 - level) / 2), _quantiles(drawn, (1 + level) / 2)
    return Interval(*(one.item() if one.ndim == 0 else one for one in (np.asarray(value), low, high)))


def _weights(images: int, resamples: int, seed: int) -> Any:
    """How often each image is in each set, a block of ``(sets, N)`` float64 at a time."""
    random = np.random.default_rng(seed)
    block = max(1, BLOCK // images)
    for start in range(0, resamples, block):
        sets = min(block, resamples - start)
        places = random.integers(images, size=(sets, images)) + images * np.arange(sets)[:, None]
        yield np.bincount(places.ravel(), minlength=sets * images).reshape(sets, images).astype(np.float64)


def _apply(statistic: Callable[[Floats], Floats], sums: Floats) -> Floats:
    found = np.asarray(statistic(sums), dtype=np.float64)
    if found.ndim not in (1, 2) or len(found) != len(sums):
        raise ValueError(f"expected a statistic ({len(sums)},) or ({len(sums)}, M), got shape {found.shape}")
    return found


def _quantiles(drawn: Floats, share: float) -> Floats:
    """Quantile of the numbers that are defined, column by column; NaN where none is."""
    ordered = np.sort(drawn, axis=0)  # NaN last
    known = (~np.isnan(ordered)).sum(axis=0)
    place = share * np.maximum(known - 1, 0)
    below, above = np.floor(place).astype(np.int64), np.ceil(place).astype(np.int64)
    low, high = (np.take_along_axis(ordered, one[None], axis=0)[0] for one in (below, above))
    # Where nothing is defined the first value is NaN already.
    quantiles: NDArray[np.float64] = low + (place - below) * (high - low)
    return quantiles


def pooled_iou(sums: Floats) -> Floats:
    """Foreground IoU ``(R,)`` of summed pixels tp, fp, fn, tn ``(R, 4)``; NaN where there is no foreground at all.

    Counts per image are those of :func:`methods.metrics.image_foreground_counts`.

    Examples
    --------
    >>> pooled_iou(np.array([[2.0, 1, 1, 9], [0, 0, 0, 9]])).tolist()
    [0.5, nan]
    """
    tp, union = sums[..., 0], sums[..., :3].sum(axis=-1)
    return ratio(tp, union, union > 0)  # type: ignore[arg-type]  # counts as float64, exact below 2^53


def mean_iou(sums: Floats) -> Floats:
    """Mean IoU ``(R,)`` over the classes that occur, of summed confusions ``(R, K, K + 1)``.

    Counts per image are those of :func:`methods.metrics.pair_counts`, the mean is ``miou`` of
    :func:`methods.metrics.segmentation_metrics`.

    Examples
    --------
    >>> mean_iou(np.array([[[1.0, 1, 0], [0, 1, 1]]])).round(4).tolist()
    [0.4167]
    """
    hits = np.diagonal(sums, axis1=-2, axis2=-1)
    union = sums.sum(axis=-1) + sums[..., :-1].sum(axis=-2) - hits
    found: Floats = mean_defined(ratio(hits, union, union > 0), axis=-1)  # type: ignore[arg-type]  # as above
    return found


def mean_ratio(sums: Floats) -> Floats:
    """First column divided by the second, ``(R,)``: a mean of values from counts ``(value, 1)`` per image.

    Examples
    --------
    >>> mean_ratio(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [0.75, nan]
    """
    return ratio(sums[..., 0], sums[..., 1], sums[..., 1] > 0)  # type: ignore[arg-type]  # as above
