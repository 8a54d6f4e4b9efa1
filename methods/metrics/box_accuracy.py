"""MaxBoxAcc: how often a box drawn around a thresholded map meets the object, at the best threshold.

Maps have at most 256 levels, so that a thousand thresholds draw at most 256 different boxes; see
:mod:`methods.metrics.level_boxes`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Array, Counts, Floats, as_array
from methods.metrics.boxes import Boxes, as_boxes
from methods.metrics.level_boxes import Levels, level_hits
from methods.refinement.component_boxes import Contours


def score_levels(scores: Array) -> Levels:
    """Levels ``floor(255 * score)`` of maps in float64, uint8.

    Raises
    ------
    TypeError
        Scores that are not floating point.
    ValueError
        Not ``(B, H, W)`` with at least one pixel, or values outside of [0, 1] or not finite.

    Examples
    --------
    >>> score_levels(np.array([[[0.0, 0.5, 1.0]]])).tolist()
    [[[0, 127, 255]]]
    """
    found = as_array(scores)
    if not np.issubdtype(found.dtype, np.floating):
        raise TypeError(f"expected scores as floating point in 0..1, got {found.dtype}")
    if found.ndim != 3 or 0 in found.shape[1:]:
        raise ValueError(f"expected scores (B, H, W), got shape {found.shape}")
    if found.size and not (found.min() >= 0 and found.max() <= 1):
        raise ValueError(f"expected finite scores in 0..1, got {found.min():g} to {found.max():g}; normalise them")
    return (found.astype(np.float64) * 255).astype(np.uint8)


class BoxAccuracy:
    r"""MaxBoxAcc and MaxBoxAccV2 of score maps.

    An image is correct at threshold :math:`\tau` and IoU :math:`\delta` if one of the boxes of
    :math:`q > \lfloor \tau \max q \rfloor` has an IoU of at least :math:`\delta` with one of the true ones.

    Parameters
    ----------
    iou_thresholds
        IoUs :math:`\delta` in percent.
    step
        Score thresholds are the multiples of it in [0, 1).
    contours
        Boxes of an image: that of the ``"largest"`` component (MaxBoxAcc) or ``"all"`` (MaxBoxAccV2).

    Attributes
    ----------
    correct
        ``(IoU thresholds, score thresholds)`` int64, number of correct images.
    images
        Number of images.

    Raises
    ------
    ValueError
        Parameters out of range.

    References
    ----------
    Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.

    Examples
    --------
    >>> accuracy = BoxAccuracy(step=0.25)
    >>> hits = accuracy.update(np.array([[[0.1, 0.6], [0.9, 1.0]]]), [np.array([[0, 1, 1, 1]])])
    >>> accuracy.correct.tolist()
    [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
    >>> accuracy.compute()["max_box_acc_v2"]
    1.0
    """

    def __init__(
        self, iou_thresholds: Sequence[float] = (30, 50, 70), step: float = 0.001, contours: Contours = "largest"
    ) -> None:
        if not iou_thresholds or not all(0 < one <= 100 for one in iou_thresholds):
            raise ValueError(f"expected IoU thresholds in percent, above 0 to 100, got {iou_thresholds}")
        if not 0 < step < 1:
            raise ValueError(f"expected a step between 0 and 1, got {step}")
        if contours not in ("largest", "all"):
            raise ValueError(f"expected contours 'largest' or 'all', got {contours!r}")
        self.iou_thresholds, self.step, self.contours = tuple(iou_thresholds), step, contours
        self.score_thresholds: Floats = np.arange(0, 1, step)
        self.correct: Counts = np.zeros((len(self.iou_thresholds), len(self.score_thresholds)), dtype=np.int64)
        self.images = 0

    def update(self, scores: Array, boxes: Sequence[Array]) -> NDArray[np.bool_]:
        """Add images.

        Parameters
        ----------
        scores
            Maps of the true class, ``(B, H, W)`` in [0, 1]; float64 unless rounding is to decide on levels.
        boxes
            True boxes per image, integers ``(n, 4)`` in the map's coordinates, at least one each.

        Returns
        -------
        ndarray
            ``(B, IoU thresholds, score thresholds)`` bool: where each image is correct.

        Raises
        ------
        ValueError
            As many boxes as images are needed, and all as :func:`score_levels` and :func:`as_boxes` say.
        TypeError
            Boxes that are not integers, scores that are.
        """
        levels = score_levels(scores)
        if len(boxes) != len(levels):
            raise ValueError(f"expected boxes of {len(levels)} images, got {len(boxes)}")
        truths = [_integer_boxes(one, place) for place, one in enumerate(boxes)]
        hits = np.zeros((len(levels), *self.correct.shape), dtype=np.bool_)
        for place, (level, truth) in enumerate(zip(levels, truths, strict=True)):
            hits[place] = self._image(level, truth)
        self.correct += hits.sum(axis=0)
        self.images += len(levels)
        return hits

    def _image(self, levels: Levels, truth: Boxes) -> NDArray[np.bool_]:
        deltas = np.array(self.iou_thresholds) / 100
        wanted = (self.score_thresholds * int(levels.max())).astype(np.int64)
        # Levels that no pixel has leave the mask of the level below; a threshold is as good as the level under it.
        present = np.flatnonzero(np.bincount(levels.ravel(), minlength=256))
        under = np.searchsorted(present, wanted, side="right") - 1
        distinct, inverse = np.unique(under, return_inverse=True)
        thresholds = np.where(distinct < 0, -1, present[distinct])
        return level_hits(levels, truth, thresholds, self.contours, deltas)[:, inverse]

    def merge(self, other: "BoxAccuracy") -> None:
        """Add the counts of another state of the same parameters, in place."""
        mine, theirs = ((one.iou_thresholds, one.step, one.contours) for one in (self, other))
        if mine != theirs:
            raise ValueError(f"expected IoU thresholds, step and contours {mine}, got {theirs}")
        self.correct += other.correct
        self.images += other.images

    def compute(self) -> dict[str, Any]:
        """Accuracies so far, as fractions; NaN without images.

        Returns
        -------
        dict
            ``max_box_acc``: the best over the score thresholds at an IoU of 50 % (NaN if that is not among the IoU
            thresholds). ``max_box_acc_v2``: the mean over the IoU thresholds of each one's best. ``box_acc`` ``(IoU
            thresholds,)``: those, and ``best_threshold`` ``(IoU thresholds,)``: the first score threshold that reaches
            it. They look at the ground truth: an oracle.
        """
        curve = self.correct / self.images if self.images else np.full(self.correct.shape, np.nan)
        best = curve.max(axis=1)
        half = [float(one) for one, delta in zip(best, self.iou_thresholds, strict=True) if delta == 50]
        return {
            "max_box_acc": half[0] if half else float("nan"),
            "max_box_acc_v2": float(best.mean()),
            "box_acc": best,
            "best_threshold": self.score_thresholds[self.correct.argmax(axis=1)],
        }


def _integer_boxes(boxes: Array, place: int) -> Boxes:
    found = as_boxes(boxes, f"image {place}: true")
    if not np.issubdtype(found.dtype, np.integer):
        raise TypeError(f"image {place}: expected integer boxes, got {found.dtype}; see scale_boxes")
    if not len(found):
        raise ValueError(f"image {place}: expected at least one true box, got none; leave the image out")
    return found.astype(np.int64)
