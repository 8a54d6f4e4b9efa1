"""Metrics: integer counts that merge, and the fractions that follow from them.

Counting is apart from reducing: a shard keeps counts, a report adds them up and divides once. Arrays or tensors come
in; where they were read from is not known here.
"""

from methods.metrics.bootstrap import Interval, bootstrap_interval, mean_iou, mean_ratio, pooled_iou
from methods.metrics.box_accuracy import BoxAccuracy
from methods.metrics.boxes import box_iou, scale_boxes
from methods.metrics.classification import average_precision, classification_metrics
from methods.metrics.confusion import ConfusionMatrix, segmentation_metrics
from methods.metrics.floors import centred_gaussian
from methods.metrics.label_share import label_share
from methods.metrics.localization import LocalizationAccuracy, localization_metrics
from methods.metrics.localization_errors import LocalizationErrors, localization_error
from methods.metrics.pixel_average_precision import PixelAveragePrecision, evaluation_mask
from methods.metrics.pixel_counts import (
    class_counts,
    foreground_counts,
    image_counts,
    image_foreground_counts,
    pair_counts,
)
from methods.metrics.threshold_curve import ThresholdCurve, curve_counts

__all__ = [
    "BoxAccuracy",
    "ConfusionMatrix",
    "Interval",
    "LocalizationAccuracy",
    "LocalizationErrors",
    "PixelAveragePrecision",
    "ThresholdCurve",
    "average_precision",
    "bootstrap_interval",
    "box_iou",
    "centred_gaussian",
    "class_counts",
    "classification_metrics",
    "curve_counts",
    "evaluation_mask",
    "foreground_counts",
    "image_counts",
    "image_foreground_counts",
    "label_share",
    "localization_error",
    "localization_metrics",
    "mean_iou",
    "mean_ratio",
    "pair_counts",
    "pooled_iou",
    "scale_boxes",
    "segmentation_metrics",
]
