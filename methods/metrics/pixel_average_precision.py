"""PxAP: how well scores rank the pixels of objects above those of the background, over a whole set of images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Array, Counts, Floats, as_array, as_labels

IGNORE = 255
Mask = NDArray[np.uint8]


def evaluation_mask(instances: Array, ignore: Array | None = None, size: tuple[int, int] = (224, 224)) -> Mask:
    """One mask for scoring from the instance masks of an image.

    Parameters
    ----------
    instances
        ``(n, H, W)``, foreground above .5 (bool, 0/1, or fractions).
    ignore
        ``(H, W)`` alike: regions that nobody judged; what an instance covers counts nevertheless.
    size
        Height and width of the mask, ``(h, w)``. Row i is the image's row ``floor(i * H / h)``, columns alike.

    Returns
    -------
    ndarray
        ``(h, w)`` uint8: 0 background, 1 foreground, 255 ignored.

    Raises
    ------
    ValueError
        Shapes that do not agree or are empty.

    Examples
    --------
    >>> evaluation_mask(np.array([[[1, 0, 0, 0]]]), np.array([[1, 1, 0, 0]]), (1, 4)).tolist()
    [[1, 255, 0, 0]]
    """
    masks = as_array(instances)
    if masks.ndim != 3 or 0 in masks.shape[1:]:
        raise ValueError(f"expected instances (n, H, W), got shape {masks.shape}")
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, masks.shape[1:], strict=True))
    foreground = (masks[:, rows[:, None], columns] > 0.5).any(axis=0)
    mask: Mask = np.array(foreground, dtype=np.uint8)
    if ignore is not None:
        unjudged = as_array(ignore)
        if unjudged.shape != masks.shape[1:]:
            raise ValueError(f"expected ignore {masks.shape[1:]}, got shape {unjudged.shape}")
        mask[(unjudged[rows[:, None], columns] > 0.5) & ~foreground] = IGNORE
    return mask


class PixelAveragePrecision:
    r"""Average precision of the pixels of all images together.

    .. math:: \text{PxAP} = \sum_{k \ge 1} P_k (R_k - R_{k-1})

    from the highest bin of scores to the lowest, bins without any prediction so far left out.

    Parameters
    ----------
    step
        Width of the bins of scores in [0, 1).

    Attributes
    ----------
    foreground, background
        Pixels per bin of scores, int64. Edges are the multiples of ``step`` below 1, then 1, 2 and 3; the score 1
        falls into the bin from 1 to 2.
    images
        Number of images.

    Raises
    ------
    ValueError
        A step out of range.

    References
    ----------
    Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.

    Examples
    --------
    >>> precision = PixelAveragePrecision(0.1)
    >>> precision.update(np.array([[[0.9, 0.45, 0.25]]]), np.array([[[1, 0, 1]]], np.uint8))
    >>> round(precision.compute()["px_ap"], 4)
    0.8333
    """

    def __init__(self, step: float = 0.001) -> None:
        if not 0 < step < 1:
            raise ValueError(f"expected a step between 0 and 1, got {step}")
        self.step = step
        self.edges: Floats = np.concatenate([np.arange(0, 1, step), [1.0, 2.0, 3.0]])
        self.foreground: Counts = np.zeros(len(self.edges) - 1, dtype=np.int64)
        self.background: Counts = np.zeros(len(self.edges) - 1, dtype=np.int64)
        self.images = 0

    def update(self, scores: Array, truth: Array) -> None:
        """Add images.

        Parameters
        ----------
        scores
            ``(B, H, W)`` floating point in [0, 1].
        truth
            ``(B, H, W)`` integers: 0, 1, or 255 where a pixel does not count.

        Raises
        ------
        ValueError
            Shapes that differ, scores outside of [0, 1] or not finite, other values in the truth.
        TypeError
            Scores that are no floating point, a truth that is no integer.
        """
        values, true = as_array(scores), as_labels(truth, "true")
        if not np.issubdtype(values.dtype, np.floating):
            raise TypeError(f"expected scores as floating point in 0..1, got {values.dtype}")
        if values.ndim != 3 or values.shape != true.shape:
            raise ValueError(f"expected scores and truth (B, H, W), got shapes {values.shape} and {true.shape}")
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"expected finite scores in 0..1, got {values.min():g} to {values.max():g}")
        outside = np.flatnonzero(np.bincount(true.ravel(), minlength=256)[2:IGNORE]) + 2
        if len(outside):
            raise ValueError(f"expected true values 0, 1 or {IGNORE}, found {outside[:8].tolist()}")
        bins = self._bins(values.astype(np.float64))
        for counts, kind in ((self.foreground, 1), (self.background, 0)):
            counts += np.bincount(bins[true == kind], minlength=len(counts))
        self.images += len(values)

    def _bins(self, values: Floats) -> NDArray[np.int64]:
        """The last edge that is not above each value: a guess by division, moved where rounding made it wrong."""
        last = len(self.edges) - 3
        bins = np.minimum((values / self.step).astype(np.int64), last)
        bins -= self.edges[bins] > values
        bins += self.edges[bins + 1] <= values
        return bins

    def merge(self, other: "PixelAveragePrecision") -> None:
        """Add the counts of another state of the same bins, in place."""
        if other.step != self.step:
            raise ValueError(f"expected a step of {self.step}, got {other.step}")
        self.foreground += other.foreground
        self.background += other.background
        self.images += other.images

    def compute(self) -> dict[str, Any]:
        """The average precision and its curve so far.

        Returns
        -------
        dict
            ``px_ap``: a fraction, NaN without any foreground pixel. ``precision`` (NaN where nothing is predicted yet),
            ``recall`` and ``threshold``, from the highest score to the lowest.
        """
        hits, claims = self.foreground[::-1].cumsum(), (self.foreground + self.background)[::-1].cumsum()
        precision = np.where(claims > 0, hits / np.maximum(claims, 1), np.nan)
        recall = hits / hits[-1] if hits[-1] else np.full(len(hits), np.nan)
        gains = precision[1:] * np.diff(recall)
        return {
            "px_ap": float(gains[claims[1:] > 0].sum()) if hits[-1] else float("nan"),
            "precision": precision,
            "recall": recall,
            "threshold": self.edges[:-1][::-1],
        }
