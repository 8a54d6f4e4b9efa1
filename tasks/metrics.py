"""Metric rows from counts: pooled over shards, one group of rows per method and split."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from methods.metrics import classification_metrics, segmentation_metrics
from storage.index import ImageIndex
from storage.metrics import MetricRow, ThresholdSource
from tasks.intervals import interval_rows

IGNORE = 255
PER_CLASS = ("iou", "precision", "recall", "f1")
POOLED = ("miou", "miou_foreground", "f1_macro", "precision_macro", "recall_macro", "accuracy")
FOREGROUND = ("fg_iou_pooled", "fg_f1_pooled", "fg_precision_pooled", "fg_recall_pooled")
_NAMES = {"precision_macro": "precision", "recall_macro": "recall"}
CURVE_STEPS = tuple(range(0, 255, 5))

Counts = npt.NDArray[np.int64]


def pooled(table: pd.DataFrame, classes: int) -> Counts:
    """Confusion ``(K, K + 1)`` from sparse rows; ``classes`` counts background too."""
    counts = np.zeros((classes, classes + 1), np.int64)
    predicted = table["predicted"].to_numpy()
    np.add.at(
        counts,
        (table["truth"].to_numpy(), np.where(predicted == IGNORE, classes, predicted)),
        table["count"].to_numpy(),
    )
    return counts


def mask_rows(
    table: pa.Table, names: list[str], *, stage: str, method: str, source: ThresholdSource
) -> list[MetricRow]:
    """Rows of one label set, per split; ``names`` are the classes with background first."""
    rows: list[MetricRow] = []
    frame = table.to_pandas()
    for split, part in frame.groupby("split", sort=True):
        counts, images = pooled(part, len(names)), int(part["row"].nunique())
        where: dict[str, Any] = {
            "stage": stage,
            "method": method,
            "split": str(split),
            "images": images,
            "threshold_source": source,
        }
        rows += count_rows(counts, names, where) + interval_rows(part, len(names), where)
        per_image = image_scores(part, len(names))
        rows.append(MetricRow(metric="fg_iou_per_image", value=float(per_image["fg_iou"].mean()), **where))
    return rows


def count_rows(counts: Counts, names: list[str], where: dict[str, Any]) -> list[MetricRow]:
    """Rows of one confusion."""
    ratios = segmentation_metrics(counts)
    tp, fp, fn, _ = (int(value) for value in ratios["fg_counts"])
    hits, predicted, true = np.diagonal(counts), counts[:, :-1].sum(axis=0), counts.sum(axis=1)
    foreground = {
        "fg_iou_pooled": (tp, tp + fp + fn),
        "fg_f1_pooled": (2 * tp, 2 * tp + fp + fn),
        "fg_precision_pooled": (tp, tp + fp),
        "fg_recall_pooled": (tp, tp + fn),
        "accuracy": (int(hits.sum()), int(true.sum())),
    }
    rows = []
    for metric in (*POOLED, *FOREGROUND):
        over, under = foreground.get(metric, (None, None))
        name = _NAMES.get(metric, metric)
        rows.append(MetricRow(metric=name, value=float(ratios[metric]), numerator=over, denominator=under, **where))
    parts = {
        "iou": (hits, predicted + true - hits),
        "precision": (hits, predicted),
        "recall": (hits, true),
        "f1": (2 * hits, predicted + true),
    }
    for metric in PER_CLASS:
        upper, lower = parts[metric]
        for k, name in enumerate(names):
            pair: dict[str, Any] = {"numerator": int(upper[k]), "denominator": int(lower[k])}
            rows.append(MetricRow(metric=metric, name=name, value=float(ratios[metric][k]), **pair, **where))
    return rows


def image_scores(frame: pd.DataFrame, classes: int) -> pd.DataFrame:
    """Per image: mean IoU over its classes and foreground IoU (1 where neither mask nor truth has foreground)."""
    scores = []
    for row, part in frame.groupby("row", sort=True):
        ratios = segmentation_metrics(pooled(part, classes))
        tp, fp, fn, _ = ratios["fg_counts"]
        fg_iou = float(ratios["fg_iou_pooled"]) if tp + fp + fn else 1.0
        scores.append({"row": row, "miou": float(ratios["miou"]), "fg_iou": fg_iou})
    return pd.DataFrame(scores, columns=["row", "miou", "fg_iou"])


def curve_rows(table: pa.Table, names: list[str], *, method: str, images: dict[str, int]) -> list[MetricRow]:
    """Mean IoU and foreground IoU at fixed thresholds, and the best of all 256: an oracle, for it knows the truth."""
    rows: list[MetricRow] = []
    for split, part in table.to_pandas().groupby("split", sort=True):
        levels = np.zeros((len(names), len(names), 256), np.int64)
        cells = tuple(part[name].to_numpy() for name in ("truth", "best", "level"))
        np.add.at(levels, cells, part["count"].to_numpy())
        where: dict[str, Any] = {
            "stage": "cam",
            "method": method,
            "split": str(split),
            "images": images.get(str(split), 0),
        }
        scores = [threshold_scores(levels, level) for level in range(255)]
        best = int(np.nanargmax([score["miou"] for score in scores]))
        rows.append(_oracle("miou_best", scores[best]["miou"], best, where))
        for level in CURVE_STEPS:
            rows += [_oracle(metric, scores[level][metric], level, where) for metric in ("miou", "fg_iou_pooled")]
    return rows


def threshold_scores(levels: Counts, level: int) -> dict[str, float]:
    """Scores of the masks above one level: best class where its map is above, else background."""
    classes = len(levels)
    counts = np.zeros((classes, classes + 1), np.int64)
    counts[:, :classes] = levels[:, :, level + 1 :].sum(axis=2)
    counts[:, 0] += levels[:, :, : level + 1].sum(axis=(1, 2))
    ratios = segmentation_metrics(counts)
    return {metric: float(ratios[metric]) for metric in ("miou", "fg_iou_pooled")}


def _oracle(metric: str, value: float, level: int, where: dict[str, Any]) -> MetricRow:
    return MetricRow(metric=metric, value=value, threshold=level / 255, threshold_source="oracle", **where)


def classifier_rows(logits: pa.Table, index: ImageIndex, *, multi_label: bool, method: str) -> list[MetricRow]:
    """Rows of the classifier, per split; images whose scores are not finite have no class and are not counted."""
    frame = logits.to_pandas()
    frame = frame[np.array([np.isfinite(scores).all() for scores in frame["logits"]], dtype=bool)]
    rows: list[MetricRow] = []
    splits = frame["row"].map(lambda row: index.splits[row])
    for split, part in frame.groupby(splits, sort=True):
        scores = np.stack(part["logits"].to_list())
        ratios = classification_metrics(scores, index.targets[part["row"].to_numpy()], multi_label=multi_label)
        where: dict[str, Any] = {"stage": "classifier", "method": method, "split": str(split), "images": len(part)}
        for metric, value in ratios.items():
            if np.ndim(value) == 0:
                rows.append(MetricRow(metric=metric, value=float(value), **where))
                continue
            named = zip(index.classes, np.asarray(value), strict=True)
            rows += [MetricRow(metric=metric, name=name, value=float(one), **where) for name, one in named]
    return rows
