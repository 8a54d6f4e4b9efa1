"""Confusion of label maps: counts that add up over shards, machines and days, and the ratios of their sum."""

from typing import Any

import numpy as np

from methods.metrics.arrays import Array, Counts, mean_defined, ratio
from methods.metrics.pixel_counts import class_counts, foreground_counts, pair_counts


class ConfusionMatrix:
    """Pooled confusion of label maps.

    A pixel whose truth is ``ignore`` does not count. A prediction of ``ignore`` is a false negative of the true class
    and nobody's false positive.

    Parameters
    ----------
    classes
        Number of classes K, background (id 0) included; 1 to 255.
    ignore
        The value that stands for unknown; not one of the ids 0..K-1.

    Attributes
    ----------
    counts
        ``(K, K + 1)`` int64, true class by predicted class; the last column counts pixels left unlabelled.

    Raises
    ------
    ValueError
        ``classes`` or ``ignore`` out of range.

    Examples
    --------
    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(np.array([[0, 1, 1, 255]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8))
    >>> matrix.counts.tolist()
    [[1, 1, 0], [0, 1, 1]]
    >>> matrix.compute()["iou"].tolist()
    [0.5, 0.3333333333333333]
    """

    def __init__(self, classes: int, ignore: int = 255) -> None:
        if not 1 <= classes <= 255:
            raise ValueError(f"expected 1 to 255 classes, background included, got {classes}")
        if not classes <= ignore <= 255:
            raise ValueError(f"expected an ignore value {classes} to 255 for {classes} classes, got {ignore}")
        self.classes, self.ignore = classes, ignore
        self.counts: Counts = np.zeros((classes, classes + 1), dtype=np.int64)

    def update(self, predicted: Array, truth: Array) -> None:
        """Add label maps of any, equal shape, arrays or tensors; see :func:`methods.metrics.pair_counts`."""
        self.counts += pair_counts(predicted, truth, self.classes, self.ignore)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another matrix of the same classes, in place."""
        if (other.classes, other.ignore) != (self.classes, self.ignore):
            raise ValueError(
                f"expected a matrix of {self.classes} classes that ignores {self.ignore}, "
                f"got {other.classes} classes and {other.ignore}"
            )
        self.counts += other.counts

    def compute(self) -> dict[str, Any]:
        """All ratios of the counts so far; see :func:`segmentation_metrics`."""
        return segmentation_metrics(self.counts)


def segmentation_metrics(counts: Counts) -> dict[str, Any]:
    r"""Ratios of pooled pixel counts, as fractions.

    .. math:: \text{IoU} = \frac{TP}{TP + FP + FN}, \quad P = \frac{TP}{TP + FP}, \quad R = \frac{TP}{TP + FN}, \quad
        F_1 = \frac{2 TP}{2 TP + FP + FN}

    Parameters
    ----------
    counts
        ``(K, K + 1)`` as :func:`methods.metrics.pair_counts` returns them.

    Returns
    -------
    dict
        Per class, ``(K,)``: ``iou``, ``precision``, ``recall``, ``f1``; NaN for a class that is neither true nor
        predicted anywhere, 0 for a true class that is never predicted.
        Means over the classes that are not NaN: ``miou``, ``f1_macro``, ``precision_macro``, ``recall_macro``, and
        without class 0 ``miou_foreground``, ``f1_macro_foreground``.
        Of all pixels: ``accuracy`` (unlabelled ones are wrong). Of foreground, any class above 0, against the rest:
        ``fg_iou_pooled``, ``fg_f1_pooled``, ``fg_precision_pooled``, ``fg_recall_pooled``, and their counts
        ``fg_counts`` (tp, fp, fn, tn). A mean or ratio of nothing is NaN.

    Examples
    --------
    >>> segmentation_metrics(np.array([[6, 1, 0], [2, 3, 0]]))["fg_iou_pooled"]
    0.5
    """
    predicted, true, hits = class_counts(counts).T
    occurs = predicted + true > 0
    iou, f1 = ratio(hits, predicted + true - hits, occurs), ratio(2 * hits, predicted + true, occurs)
    precision, recall = ratio(hits, predicted, occurs), ratio(hits, true, occurs)
    foreground = foreground_counts(counts)
    tp, fp, fn, _ = foreground
    occurs = tp + fp + fn > 0
    numbers = {
        "miou": mean_defined(iou),
        "miou_foreground": mean_defined(iou[1:]),
        "f1_macro": mean_defined(f1),
        "f1_macro_foreground": mean_defined(f1[1:]),
        "precision_macro": mean_defined(precision),
        "recall_macro": mean_defined(recall),
        "accuracy": ratio(hits.sum(), true.sum(), true.sum() > 0),
        "fg_iou_pooled": ratio(tp, tp + fp + fn, occurs),
        "fg_f1_pooled": ratio(2 * tp, 2 * tp + fp + fn, occurs),
        "fg_precision_pooled": ratio(tp, tp + fp, occurs),
        "fg_recall_pooled": ratio(tp, tp + fn, occurs),
    }
    classes = {"iou": iou, "precision": precision, "recall": recall, "f1": f1}
    return classes | {name: float(value) for name, value in numbers.items()} | {"fg_counts": foreground}
