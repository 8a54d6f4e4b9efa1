"""How far headline numbers would move with other images of the same kind: bootstrap intervals as metric rows."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from methods.metrics import bootstrap_interval
from storage.metrics import MetricRow

IGNORE = 255
MAX_CELLS = 20_000_000
Counts = npt.NDArray[np.int64]


def interval_rows(frame: pd.DataFrame, classes: int, where: dict[str, Any]) -> list[MetricRow]:
    """Ends of the 95 % intervals of mean IoU and pooled foreground IoU of one split.

    Parameters
    ----------
    frame
        Sparse confusion rows (row, truth, predicted, count) of a split.
    classes
        With background.
    where
        What the rows share.

    Returns
    -------
    list of MetricRow
        ``miou_low``, ``miou_high``, ``fg_iou_pooled_low``, ``fg_iou_pooled_high``; none for fewer than two images, and
        none where images times classes would not fit into memory.
    """
    rows = frame["row"].unique()
    if len(rows) < 2 or len(rows) * classes > MAX_CELLS:
        return []
    overlaps, foreground = _ratios(frame, rows, classes)
    found = {
        "miou": bootstrap_interval(overlaps, _mean_of_ratios),
        "fg_iou_pooled": bootstrap_interval(foreground[:, None], _mean_of_ratios),
    }
    return [
        MetricRow(metric=f"{metric}_{end}", value=float(getattr(one, end)), **where)
        for metric, one in found.items()
        for end in ("low", "high")
    ]


def _ratios(frame: pd.DataFrame, rows: Any, classes: int) -> tuple[Counts, Counts]:
    """Per image: intersection and union of every class ``[N, K, 2]``, and of the foreground ``[N, 2]``."""
    place = np.searchsorted(np.sort(rows), frame["row"].to_numpy())
    truth, predicted = frame["truth"].to_numpy(), frame["predicted"].to_numpy()
    count = frame["count"].to_numpy()
    overlaps = np.zeros((len(rows), classes, 2), np.int64)
    hit, known = truth == predicted, predicted != IGNORE
    shared, union = overlaps[..., 0], overlaps[..., 1]
    np.add.at(shared, (place[hit], truth[hit]), count[hit])
    np.add.at(union, (place, truth), count)
    wrong = known & ~hit
    np.add.at(union, (place[wrong], predicted[wrong]), count[wrong])
    foreground = np.zeros((len(rows), 2), np.int64)
    both, either = (truth > 0) & (predicted > 0) & known, (truth > 0) | ((predicted > 0) & known)
    np.add.at(foreground[:, 0], place[both], count[both])
    np.add.at(foreground[:, 1], place[either], count[either])
    return overlaps, foreground


def _mean_of_ratios(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over classes of intersection over union, from ``[R, K, 2]``; classes that occur nowhere are left out."""
    over, under = sums[..., 0], sums[..., 1]
    ratios = np.divide(over, under, out=np.zeros_like(over, dtype=np.float64), where=under > 0)
    there = (under > 0).sum(axis=-1)
    mean: npt.NDArray[np.float64] = np.full(there.shape, np.nan)
    np.divide(ratios.sum(axis=-1), there, out=mean, where=there > 0)
    return mean
