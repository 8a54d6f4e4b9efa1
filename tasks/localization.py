"""Metric rows of localization, from the counts per image: each split's numbers with their intervals over images."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from methods.metrics import BoxAccuracy, LocalizationErrors, PixelAveragePrecision, bootstrap_interval
from methods.metrics.localization import label_ranks
from methods.metrics.localization_errors import CLASSES
from storage.metrics import MetricRow, ThresholdSource
from storage.report_page import Table, Value
from tasks.intervals import MAX_CELLS
from tasks.localize import CONTOURS

SHOWN = ("max_box_acc", "max_box_acc_v2", "px_ap", "gt_known_loc", "top1_loc", "top5_loc", "box_iou", "lpe", "lme")
HALF = 50
Bools = npt.NDArray[np.bool_]
Ranks = Mapping[tuple[int, int], tuple[bool, bool]]
"""Whether the classifier ranks a label (row, class id) first, and among its first five."""
Where = dict[str, Any]


def ranked(logits: pa.Table, classes: list[list[int]]) -> Ranks:
    """Where the classifier ranks the labels of every image; images whose logits are not finite are ranked last.

    Parameters
    ----------
    logits
        Columns ``row`` and ``logits``.
    classes
        Class ids 1..C per row of the index.
    """
    found: dict[tuple[int, int], tuple[bool, bool]] = {}
    for entry in logits.to_pylist():
        values = np.asarray(entry["logits"], np.float64)
        order = np.argsort(-values, kind="stable") if np.isfinite(values).all() else np.array([-1])
        for class_id in classes[entry["row"]]:
            first, five = label_ranks(order[None], np.array([class_id - 1]))[0].tolist()
            found[entry["row"], class_id] = first, five
    return found


def localization_rows(table: pa.Table, ranks: Ranks | None, *, method: str, source: ThresholdSource) -> list[MetricRow]:
    """Rows of one method, per split.

    Parameters
    ----------
    table
        Rows of :data:`tasks.localize.COUNTS` of one method.
    ranks
        From :func:`ranked`; None for floors, which look at no image.
    method
        Name of the rows.
    source
        Who decided the threshold of the masks.
    """
    rows: list[MetricRow] = []
    for split, part in table.to_pandas().groupby("split", sort=True):
        soft: Where = {"stage": "cam", "method": method, "split": str(split)}
        hard: Where = {"stage": "mask", "method": method, "split": str(split), "threshold_source": source}
        rows += _box_rows(part[part["hits_largest"].notna()], ranks, soft)
        rows += _pixel_rows(part[part["foreground"].notna()], soft)
        rows += _mask_rows(part[part["box_iou"].notna()], ranks, hard)
    return rows


def _right(part: pd.DataFrame, ranks: Ranks, place: int) -> Bools:
    keys = zip(part["row"], part["class_id"], strict=True)
    return np.array([ranks.get((int(row), int(k)), (False, False))[place] for row, k in keys], bool)


def _unpack(column: pd.Series, shape: tuple[int, int]) -> Bools:
    bits = np.stack([np.frombuffer(packed, np.uint8) for packed in column])
    return np.unpackbits(bits, axis=1, count=shape[0] * shape[1]).reshape(-1, *shape).astype(bool)


def _box_rows(part: pd.DataFrame, ranks: Ranks | None, where: Where) -> list[MetricRow]:
    if part.empty:
        return []
    rows, where = [], {**where, "images": len(part), "threshold_source": "oracle"}
    for contours, metric in zip(CONTOURS, ("max_box_acc", "max_box_acc_v2"), strict=True):
        state = BoxAccuracy()
        hits = _unpack(part[f"hits_{contours}"], state.correct.shape)
        state.correct, state.images = hits.sum(axis=0), len(hits)
        found = state.compute()
        if contours == "all":
            rows.append(MetricRow(metric=metric, value=found[metric], **where))
            continue
        at_half = hits[:, state.iou_thresholds.index(HALF)]
        rows += _best(metric, at_half, where, state.score_thresholds)
        rows += _ends(metric, at_half, lambda sums: sums.max(axis=1) / len(part), where)
        rows += _best("gt_known_loc", at_half, where, state.score_thresholds)
        for place, name in enumerate(("top1_loc", "top5_loc") if ranks is not None else ()):
            right = _right(part, ranks or {}, place)
            rows += _best(name, at_half & right[:, None], where, state.score_thresholds)
    return rows


def _best(metric: str, hits: Bools, where: Where, thresholds: Any) -> list[MetricRow]:
    correct = hits.sum(axis=0)
    best = int(correct.argmax())
    counts: Where = {"numerator": int(correct[best]), "denominator": len(hits)}
    value, threshold = float(correct[best] / len(hits)), float(thresholds[best])
    return [MetricRow(metric=metric, value=value, threshold=threshold, **counts, **where)]


def _pixel_rows(part: pd.DataFrame, where: Where) -> list[MetricRow]:
    if part.empty:
        return []
    counts = np.stack([_bins(part["foreground"]), _bins(part["background"])], axis=1)
    where = {**where, "images": len(part)}
    value = float(_average_precision(counts.sum(axis=0)[None])[0])
    return [MetricRow(metric="px_ap", value=value, **where), *_ends("px_ap", counts, _average_precision, where)]


def _bins(column: pd.Series) -> npt.NDArray[np.int64]:
    return np.stack([np.frombuffer(packed, "<u2") for packed in column]).astype(np.int64)


def _average_precision(sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """PxAP of summed bins ``(R, 2, bins)``."""
    state, found = PixelAveragePrecision(), []
    for foreground, background in sums:
        state.foreground, state.background = foreground, background
        found.append(state.compute()["px_ap"])
    return np.array(found)


def _ends(metric: str, counts: Any, statistic: Callable[[Any], Any], where: Where) -> list[MetricRow]:
    """Ends of the 95 % interval over images; none for fewer than two, or too many to draw from in memory."""
    if len(counts) < 2 or counts.size > MAX_CELLS:
        return []
    found = bootstrap_interval(counts.astype(np.int64), statistic)
    return [MetricRow(metric=f"{metric}_{end}", value=float(getattr(found, end)), **where) for end in ("low", "high")]


def _mask_rows(part: pd.DataFrame, ranks: Ranks | None, where: Where) -> list[MetricRow]:
    if part.empty:
        return []
    where = {**where, "images": len(part)}
    ious, known = part["box_iou"].to_numpy(), part["box_iou"].to_numpy() > 0.5
    rows = [MetricRow(metric="box_iou", value=float(ious.mean()), **where)]
    shares = {"gt_known_loc": known}
    right = np.ones(len(part), bool)
    if ranks is not None:
        right = _right(part, ranks, 0)
        shares |= {"top1_loc": known & right, "top5_loc": known & _right(part, ranks, 1)}
    errors = LocalizationErrors()
    names = np.where(right, part["error"].to_numpy(), "wrong_class")
    errors.counts = np.array([(names == one).sum() for one in CLASSES], np.int64)
    counted = {name: int(found.sum()) for name, found in shares.items()}
    # An image that is right is told by top1_loc.
    counted |= {name: int(count) for name, count in zip(CLASSES, errors.counts, strict=True) if name != "right"}
    total = len(part)
    return rows + [
        MetricRow(metric=name, value=count / total, numerator=count, denominator=total, **where)
        for name, count in counted.items()
    ]


def localization_table(frame: pd.DataFrame, names: Mapping[str, str]) -> Table:
    """A row per method and split; empty where nothing was localized. ``names`` are those that floors are shown by."""
    part = frame[frame["metric"].isin(SHOWN) & (frame["class"] == "")]
    # What masks and maps both say is shown of the masks: their thresholds are not read off the ground truth.
    part = part[~((part["stage"] == "cam") & part["metric"].isin({"gt_known_loc", "top1_loc", "top5_loc"}))]
    shown = [name for name in SHOWN if name in set(part["metric"])]
    rows: list[list[Value]] = []
    for (method, split), one in part.groupby(["method", "split"], sort=False):
        values = one.set_index("metric")["value"].to_dict()
        rows.append([names.get(str(method), str(method)), str(split), *[values.get(name) for name in shown]])
    rows.sort(key=lambda row: (row[1] != "val", str(row[1]), row[0] in names.values()))
    floors = frozenset(place for place, row in enumerate(rows) if row[0] in names.values())
    note = (
        "Boxes around maps and masks of the true class. max_box_acc and its V2 take the best threshold of all "
        "(oracle); px_ap needs none; all others judge the box around the largest part of the mask."
    )
    columns = ["method", "split", *shown]
    return Table("Localization", columns, rows, note, frozenset(range(2, len(columns))), reference=floors, group=1)
