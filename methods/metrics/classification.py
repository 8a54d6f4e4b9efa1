"""How well an image classifier names what is in an image, class by class."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Array, Floats, as_array, mean_defined, ratio


def classification_metrics(scores: Array, targets: Array, multi_label: bool) -> dict[str, Any]:
    r"""Accuracy, average precision and F1 of image-level predictions.

    Parameters
    ----------
    scores
        Logits, ``(N, K)``.
    targets
        ``(N, K)`` bool (or 0/1): which classes each image shows; exactly one each unless ``multi_label``.
    multi_label
        Classes are judged independently, a logit above 0 says yes; otherwise the largest logit (the first of equals)
        is the one answer.

    Returns
    -------
    dict
        ``accuracy``: share of images whose answer is entirely right (the top class, or the exact set of classes).
        ``average_precision`` ``(K,)`` and its mean ``mean_average_precision``. ``precision``, ``recall``, ``f1``
        ``(K,)``, their means ``precision_macro``, ``recall_macro``, ``f1_macro``, and ``f1_micro`` of the pooled
        counts. ``positives`` ``(K,)`` int64: images that show the class. NaN where undefined (average precision
        without positives; the others for a class that is neither true nor predicted); means leave it out.

    Raises
    ------
    ValueError
        Shapes that do not agree, no image, scores that are not finite, targets other than 0 and 1, or not exactly one
        per image where ``multi_label`` is off.

    References
    ----------
    Average precision is the non-interpolated sum of precision times gain in recall over the distinct scores.

    Examples
    --------
    >>> found = classification_metrics(np.array([[2.0, -1], [1, 3]]), np.array([[1, 0], [1, 1]]), multi_label=True)
    >>> found["accuracy"], found["mean_average_precision"]
    (1.0, 1.0)
    """
    logits, truth = _check(as_array(scores), as_array(targets), multi_label)
    top = np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
    answers = logits > 0 if multi_label else top
    hits = (answers & truth).sum(axis=0)
    predicted, true = answers.sum(axis=0), truth.sum(axis=0)
    occurs = predicted + true > 0
    precision, recall = ratio(hits, predicted, occurs), ratio(hits, true, occurs)
    f1 = ratio(2 * hits, predicted + true, occurs)
    precisions = np.array([average_precision(*column) for column in zip(logits.T, truth.T)])
    numbers = {
        "accuracy": (answers == truth).all(axis=1).mean(),
        "mean_average_precision": mean_defined(precisions),
        "precision_macro": mean_defined(precision),
        "recall_macro": mean_defined(recall),
        "f1_macro": mean_defined(f1),
        "f1_micro": ratio(2 * hits.sum(), (predicted + true).sum(), occurs.any()),
    }
    classes = {"average_precision": precisions, "precision": precision, "recall": recall, "f1": f1, "positives": true}
    return classes | {name: float(value) for name, value in numbers.items()}


def average_precision(scores: NDArray[Any], targets: NDArray[np.bool_]) -> float:
    """Area under the steps of the precision-recall curve of one class; equal scores are one step.

    Parameters
    ----------
    scores, targets
        ``(N,)`` each: how sure, and whether it is there.

    Returns
    -------
    float
        0..1; NaN without any positive.

    Examples
    --------
    >>> average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, False, True]))
    0.8333333333333333
    """
    positives = int(targets.sum())
    if not positives:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(targets[order])
    # Images of one score have no order among themselves: only the last of them ends a step.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    gains: Floats = np.diff(hits[ends], prepend=0) / positives
    return float((gains * hits[ends] / (ends + 1)).sum())


def _check(scores: NDArray[Any], targets: NDArray[Any], multi_label: bool) -> tuple[Floats, NDArray[np.bool_]]:
    if scores.ndim != 2 or scores.shape != targets.shape or 0 in scores.shape:
        raise ValueError(
            f"expected scores and targets (N, K), at least one image and class, got {scores.shape} and {targets.shape}"
        )
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist()
        raise ValueError(f"expected finite scores, found others in {len(rows)} rows, first {rows[:4]}")
    truth = targets.astype(bool)
    if (truth != targets).any():
        raise ValueError("expected targets 0 or 1 (False or True), found other values")
    if not multi_label and (truth.sum(axis=1) != 1).any():
        rows = np.flatnonzero(truth.sum(axis=1) != 1).tolist()
        raise ValueError(
            f"expected exactly one class per image without multi_label, found {len(rows)} rows that have none or "
            f"several, first {rows[:4]}"
        )
    return scores.astype(np.float64), truth
