"""Localization together with classification: an image counts if its box and its label are right.

The map is that of the true class in every case, so that only the count looks at the predicted label. Two readings exist
and are not the same number: the best threshold over the set (an oracle), or one box per image at a threshold that was
fixed before.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Array, Counts, as_array
from methods.metrics.box_accuracy import BoxAccuracy
from methods.refinement.component_boxes import Contours

RANKS = (1, 5)


def label_ranks(predictions: Array, labels: Array) -> NDArray[np.bool_]:
    """Whether the true label is the first, and among the first five, predictions.

    Parameters
    ----------
    predictions
        Classes ``(B, n)``, most probable first, n at least 1; with n below 5 the second answer is about those.
    labels
        True classes ``(B,)``.

    Returns
    -------
    ndarray
        ``(B, 2)`` bool: top 1, top 5.

    Raises
    ------
    ValueError
        Shapes that do not agree.

    Examples
    --------
    >>> label_ranks(np.array([[3, 1], [2, 0]]), np.array([3, 0])).tolist()
    [[True, True], [False, True]]
    """
    order, true = as_array(predictions), as_array(labels)
    if order.ndim != 2 or order.shape[1] < 1 or true.shape != order.shape[:1]:
        raise ValueError(f"expected predictions (B, n) and labels (B,), got shapes {order.shape} and {true.shape}")
    found: NDArray[np.bool_] = np.stack([(order[:, :k] == true[:, None]).any(axis=1) for k in RANKS], axis=1)
    return found


class LocalizationAccuracy:
    """Top-1 and top-5 localization and GT-known of score maps, each at its best threshold.

    Parameters
    ----------
    iou_thresholds, step, contours
        As :class:`methods.metrics.BoxAccuracy`.

    Attributes
    ----------
    known
        The :class:`methods.metrics.BoxAccuracy` of the same images, which does not ask for the label.
    correct
        ``(2, IoU thresholds, score thresholds)`` int64: correct images whose label is first, and among the first five.

    References
    ----------
    Belharbi et al., "F-CAM: Full resolution class activation maps via guided parametric upscaling", WACV 2022.

    Examples
    --------
    >>> accuracy = LocalizationAccuracy(step=0.5)
    >>> map_, box = np.array([[0.0, 1.0]]), np.array([[1, 0, 1, 0]])
    >>> accuracy.update(np.stack([map_, map_]), [box, box], np.array([[3, 1], [2, 0]]), np.array([3, 0]))
    >>> {name: accuracy.compute()[name] for name in ("top1_loc", "top5_loc", "gt_known_loc")}
    {'top1_loc': 0.5, 'top5_loc': 1.0, 'gt_known_loc': 1.0}
    """

    def __init__(
        self, iou_thresholds: Sequence[float] = (30, 50, 70), step: float = 0.001, contours: Contours = "largest"
    ) -> None:
        self.known = BoxAccuracy(iou_thresholds, step, contours)
        self.correct: Counts = np.zeros((len(RANKS), *self.known.correct.shape), dtype=np.int64)

    def update(self, scores: Array, boxes: Sequence[Array], predictions: Array, labels: Array) -> None:
        """Add images; see :meth:`methods.metrics.BoxAccuracy.update` and :func:`label_ranks`.

        Raises
        ------
        ValueError, TypeError
            As those two, and a number of labels that is not that of the maps.
        """
        ranks = label_ranks(predictions, labels)
        if len(ranks) != len(scores):
            raise ValueError(f"expected labels of {len(scores)} images, got {len(ranks)}")
        hits = self.known.update(scores, boxes)
        for place in range(len(RANKS)):
            self.correct[place] += hits[ranks[:, place]].sum(axis=0)

    def merge(self, other: "LocalizationAccuracy") -> None:
        """Add the counts of another state of the same parameters, in place."""
        self.known.merge(other.known)
        self.correct += other.correct

    def compute(self) -> dict[str, Any]:
        """Accuracies so far, as fractions; NaN without images.

        Returns
        -------
        dict
            What :meth:`methods.metrics.BoxAccuracy.compute` gives; ``top1_loc``, ``top5_loc`` and ``gt_known_loc`` at
            an IoU of 50 % (NaN if that is not among the IoU thresholds); ``top1_acc`` and ``top5_acc`` ``(IoU
            thresholds,)``. Each is the maximum over the score thresholds by itself.
        """
        known = self.known.compute()
        images = self.known.images
        curve = self.correct / images if images else np.full(self.correct.shape, np.nan)
        top1, top5 = curve.max(axis=2)
        half = [place for place, delta in enumerate(self.known.iou_thresholds) if delta == 50]
        at_half = [float(one[half[0]]) if half else float("nan") for one in (top1, top5, known["box_acc"])]
        names = ("top1_loc", "top5_loc", "gt_known_loc")
        return known | dict(zip(names, at_half, strict=True)) | {"top1_acc": top1, "top5_acc": top5}


def localization_metrics(
    ious: Array, predictions: Array | None = None, labels: Array | None = None
) -> dict[str, float]:
    """Localization at a fixed threshold, from the best IoU of every image.

    Parameters
    ----------
    ious
        ``(N,)``, the largest :func:`methods.metrics.box_iou` of an image's boxes with its true ones, 0 without a box.
    predictions, labels
        As :func:`label_ranks`, both or none.

    Returns
    -------
    dict
        ``box_iou``: the mean. ``gt_known_loc``: share of images above .5. With labels also ``top1_loc`` and
        ``top5_loc``: the same and the label right. NaN without images.

    Raises
    ------
    ValueError
        IoUs outside of [0, 1], or shapes that do not agree.

    Examples
    --------
    >>> localization_metrics(np.array([0.5, 0.75]), np.array([[3, 1], [2, 0]]), np.array([3, 0]))
    {'box_iou': 0.625, 'gt_known_loc': 0.5, 'top1_loc': 0.0, 'top5_loc': 0.5}
    """
    found = as_array(ious).astype(np.float64)
    if found.ndim != 1 or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"expected IoUs (N,) in 0..1, got shape {found.shape} with {found}")
    if (predictions is None) != (labels is None):
        raise ValueError("expected predictions and labels, or none of them, got one")
    known = found > 0.5
    columns = {"box_iou": found, "gt_known_loc": known}
    if predictions is not None and labels is not None:
        ranks = label_ranks(predictions, labels)
        if len(ranks) != len(found):
            raise ValueError(f"expected labels of {len(found)} images, got {len(ranks)}")
        columns |= {"top1_loc": known & ranks[:, 0], "top5_loc": known & ranks[:, 1]}
    return {name: float(values.mean()) if len(found) else float("nan") for name, values in columns.items()}
