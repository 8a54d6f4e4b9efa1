"""Why a box is wrong: only a part of the object (LPE), more than the object (LME), or something else."""

import numpy as np

from methods.metrics.arrays import Array, Counts
from methods.metrics.boxes import overlaps

CLASSES = ("right", "wrong_class", "multi_instance", "lpe", "lme", "wrong_region")


def localization_error(predicted: Array, truth: Array, right_class: bool) -> str:
    """Name the error of one image's box.

    The first that applies: ``wrong_class``; ``right``: the IoU is above .5; ``multi_instance``: several true boxes, of
    which at least two are covered above .3; ``lpe``: above .5 of the prediction lies in the best true box; ``lme``: at
    least .7 of the best true box lies in the prediction; ``wrong_region``. The best true box is the first with the
    largest IoU.

    Parameters
    ----------
    predicted
        ``(4,)``, the box of the first predicted class.
    truth
        True boxes ``(n, 4)``, n at least 1.
    right_class
        Whether that class is the true one.

    Returns
    -------
    str
        One of :data:`CLASSES`.

    Raises
    ------
    ValueError
        No true box, or boxes that are none.

    References
    ----------
    Gao et al., "TS-CAM: Token semantic coupled attention map for weakly supervised object localization", ICCV 2021.
    The paper counts as LME what is above .7, its code what reaches it; this follows the code.

    Examples
    --------
    >>> localization_error(np.array([2, 2, 5, 5]), np.array([[0, 0, 9, 9]]), True)
    'lpe'
    """
    # One prediction: a row of shares, one for each true box.
    inside, area, others = (one[0] for one in overlaps(np.asarray(predicted)[None], truth))
    if not inside.size:
        raise ValueError("expected at least one true box, got none; leave the image out")
    iou = inside / (area + others - inside)
    best = int(iou.argmax())
    covered = inside / others
    if not right_class:
        return "wrong_class"
    if iou[best] > 0.5:
        return "right"
    if (covered > 0.3).sum() >= 2:
        return "multi_instance"
    if inside[best] / area[0] > 0.5:
        return "lpe"
    return "lme" if covered[best] >= 0.7 else "wrong_region"


class LocalizationErrors:
    """How often each error happens, over all images.

    Attributes
    ----------
    counts
        ``(6,)`` int64, images per entry of :data:`CLASSES`.

    Examples
    --------
    >>> errors = LocalizationErrors()
    >>> errors.update(np.array([0, 0, 9, 9]), np.array([[0, 0, 3, 3]]), True)
    'lme'
    >>> errors.compute()["lme"]
    1.0
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(len(CLASSES), dtype=np.int64)

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    def update(self, predicted: Array, truth: Array, right_class: bool) -> str:
        """Add one image and return its class; see :func:`localization_error`."""
        found = localization_error(predicted, truth, right_class)
        self.counts[CLASSES.index(found)] += 1
        return found

    def merge(self, other: "LocalizationErrors") -> None:
        """Add the counts of another state, in place."""
        self.counts += other.counts

    def compute(self) -> dict[str, float]:
        """Share of all images per entry of :data:`CLASSES`; NaN without images."""
        shares = self.counts / self.images if self.images else np.full(len(CLASSES), np.nan)
        return dict(zip(CLASSES, shares.tolist(), strict=True))
