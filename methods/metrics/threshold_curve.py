"""Segmentation scores at every fixed threshold at once, from one histogram per image.

The best point of the curve looks at the ground truth. It is an oracle that shows what thresholding costs, not a result.
"""

from typing import Any

import numpy as np

from methods.metrics.arrays import Array, Counts, as_array, as_labels, mean_defined, ratio

LEVELS = 256
IGNORE = 255


def curve_counts(maps: Array, classes: Array, truth: Array, total_classes: int) -> Counts:
    """Count the pixels of one image by true class, strongest class and level of its score.

    Parameters
    ----------
    maps
        Normalised maps of the image's classes, ``(K, H, W)`` floating point in [0, 1]; K may be 0.
    classes
        Their ids, ``(K,)``, different, 1..total_classes.
    truth
        ``(H, W)`` uint8: 0 background, 1..total_classes, 255 does not count.
    total_classes
        Number of classes C of the data set, without background; at most 254.

    Returns
    -------
    ndarray
        ``(C + 1, C + 1, 256)`` int64: true class, class of the largest map (the first of equals; 0 if K is 0) and
        level ``floor(255 * max)`` in the maps' own precision.

    Raises
    ------
    ValueError
        Shapes that do not agree, ids out of range or given twice, maps outside of [0, 1] or not finite.

    Examples
    --------
    >>> counts = curve_counts(np.array([[[0.0, 1.0]]]), np.array([1]), np.array([[0, 1]]), 1)
    >>> np.argwhere(counts).tolist()
    [[0, 1, 0], [1, 1, 255]]
    """
    scores, ids, true = as_array(maps), as_array(classes).astype(np.int64), as_labels(truth, "true")
    _check(scores, ids, true, total_classes)
    if len(ids):
        winner, level = ids[scores.argmax(axis=0)], np.floor(scores.max(axis=0) * 255).astype(np.int64)
    else:
        winner = level = np.zeros(true.shape, dtype=np.int64)
    size = total_classes + 1
    packed = ((true * np.int64(size) + winner) * LEVELS + level)[true != IGNORE]
    return np.bincount(packed, minlength=size * size * LEVELS).reshape(size, size, LEVELS)


def _check(scores: Any, ids: Any, true: Any, total_classes: int) -> None:
    if not 1 <= total_classes < IGNORE:
        raise ValueError(f"expected 1 to 254 classes without background, got {total_classes}")
    if scores.ndim != 3 or scores.shape[1:] != true.shape or ids.shape != scores.shape[:1]:
        raise ValueError(
            "expected maps (K, H, W), classes (K,) and truth (H, W), got shapes "
            f"{scores.shape}, {ids.shape} and {true.shape}"
        )
    if len(set(ids.tolist())) < len(ids) or any(not 1 <= one <= total_classes for one in ids.tolist()):
        raise ValueError(f"expected different class ids 1 to {total_classes}, got {ids.tolist()}")
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"expected finite maps in 0..1, got {scores.min():g} to {scores.max():g}")
    outside = np.unique(true[(true > total_classes) & (true != IGNORE)]).tolist()
    if outside:
        raise ValueError(f"expected true class ids 0 to {total_classes} or 255, found {outside[:8]}")


class ThresholdCurve:
    """Scores of a set of images at each threshold t: the strongest class where ``q > t``, background elsewhere.

    Parameters
    ----------
    total_classes
        Number of classes C of the data set, without background.

    Attributes
    ----------
    counts
        ``(C + 1, C + 1, 256)`` int64 as :func:`curve_counts` returns them, summed.

    Examples
    --------
    >>> curve = ThresholdCurve(1)
    >>> curve.update(np.array([[[0.2, 0.6, 0.8]]]), np.array([1]), np.array([[0, 0, 1]]))
    >>> curve.compute()["fg_iou_pooled"][[0, 51, 153, 204]].round(2).tolist()
    [0.33, 0.5, 1.0, 0.0]
    """

    def __init__(self, total_classes: int) -> None:
        if not 1 <= total_classes < IGNORE:
            raise ValueError(f"expected 1 to 254 classes without background, got {total_classes}")
        self.total_classes = total_classes
        self.counts: Counts = np.zeros((total_classes + 1, total_classes + 1, LEVELS), dtype=np.int64)

    def update(self, maps: Array, classes: Array, truth: Array) -> None:
        """Add one image; see :func:`curve_counts`."""
        self.counts += curve_counts(maps, classes, truth, self.total_classes)

    def merge(self, other: "ThresholdCurve") -> None:
        """Add the counts of another curve of the same classes, in place."""
        if other.total_classes != self.total_classes:
            raise ValueError(f"expected a curve of {self.total_classes} classes, got {other.total_classes}")
        self.counts += other.counts

    def compute(self) -> dict[str, Any]:
        """Scores per threshold 0..255, each ``(256,)``.

        Returns
        -------
        dict
            ``threshold`` int64, and ``miou``, ``miou_foreground``, ``fg_iou_pooled``, ``fg_f1_pooled`` with the
            definitions of :func:`methods.metrics.segmentation_metrics`.
        """
        claimed = self._claimed()
        true = self.counts.sum(axis=(1, 2))
        predicted = claimed.sum(axis=0)
        predicted[0] = true.sum() - predicted.sum(axis=0)
        hits = np.array([claimed[c, c] for c in range(self.total_classes + 1)])
        hits[0] = true[0] - claimed[0].sum(axis=0)
        either = predicted + true[:, None]
        iou = ratio(hits, either - hits, either > 0)
        fp, positives = claimed[0].sum(axis=0), true[1:].sum()
        tp = claimed[1:].sum(axis=(0, 1))
        return {
            "threshold": np.arange(LEVELS),
            "miou": mean_defined(iou, axis=0),
            "miou_foreground": mean_defined(iou[1:], axis=0),
            "fg_iou_pooled": ratio(tp, positives + fp, positives + fp > 0),
            "fg_f1_pooled": ratio(2 * tp, tp + positives + fp, positives + fp > 0),
        }

    def _claimed(self) -> Counts:
        """Pixels above each threshold by true and strongest class, ``(C + 1, C + 1, 256)``; none for class 0."""
        above: Counts = self.counts.sum(axis=2, keepdims=True) - self.counts.cumsum(axis=2)
        above[:, 0] = 0
        return above
